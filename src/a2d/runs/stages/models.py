"""Models of a run, and the first of them: the teacher."""

from __future__ import annotations

from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from a2d.runs.parts import PARALLEL
from a2d.runs.settings import MethodEntry, Shape, Training
from a2d.runs.stages.base import RunStage
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.runs.training import remove_checkpoints, train_model

if TYPE_CHECKING:
    from a2d.runs.run import Run

TEACHER = "teacher"


@dataclass(frozen=True)
class Model(RunStage):
    """A model that a run trains, or the teacher that it is given.

    Attributes:
        name: its folder's name.
        path: folder or hub name; empty for a teacher of whom only translations are known.
        shape, training: None for a teacher that the run does not train.
        method: method and settings.
        seed: seed of everything random.
        size: a student's shape in short.
        data_parts: names of the parts of its training data (`a2d.runs.stages.sequences`).
    """

    name: str
    path: str
    shape: Shape | None
    training: Training | None
    method: MethodEntry
    seed: int
    size: str | None = None
    data_parts: tuple[str, ...] = (PARALLEL,)

    @property
    def trained(self) -> bool:
        """Whether the run trains it."""
        return self.shape is not None

    @property
    def done(self) -> bool:
        """Whether there is nothing to train."""
        return not self.trained or super().done

    def restore(self) -> str | None:
        """Set a damaged model aside; a teacher that was not trained here stays as it is."""
        return super().restore() if self.trained else None

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher has a part in it, be it only its start."""
        return self.method.definition.uses_teacher or self.method.student_start == "teacher"

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher runs beside its training, or starts it."""
        return self.method.definition.uses_signals or self.method.student_start == "teacher"

    @property
    def foreign(self) -> bool:
        """Whether it is a system elsewhere, which a2d cannot load."""
        return not self.path

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Train the models that are not trained yet, as many at once as the recipe allows."""
        waiting = [model for model in run.all(cls) if not model.done]
        futures = [run.workers.submit(train_model, model, run.inputs) for model in waiting]
        for future in as_completed(futures):  # an error ends the run at once
            future.result()
        for model in run.all(cls):
            if model.trained:
                remove_checkpoints(model)  # of a run that was killed before it came to that


@dataclass(frozen=True)
class Teacher(Model):
    """The teacher: trained by the run, pretrained, or a system elsewhere."""

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """Describe the one teacher."""
        teacher = run.recipe.teacher
        method = MethodEntry(method="baseline", name=TEACHER)
        settings: dict[str, Any] = {"vocabulary": run.one(Vocabulary).fingerprint}
        if teacher.command is not None:
            settings["command"] = teacher.command
        elif teacher.translations is not None:
            settings["translations"] = run.corpus.translations
        elif teacher.shape is None or teacher.training is None:
            settings["model"] = run.pretrained
        else:
            settings |= training_settings(teacher.shape, method, teacher.training, seed=1)
        folder = run.folder / "models" / TEACHER
        path = "" if teacher.foreign else run.teacher_path
        return [cls(folder, settings, TEACHER, path, teacher.shape, teacher.training, method, 1)]


def training_settings(
    shape: Shape, method: MethodEntry, training: Training, seed: int
) -> dict[str, Any]:
    """List the settings that a training depends on.

    Settings that a method does not use are left out: a change of theirs makes no other model.
    """
    used = {"method", *method.definition.settings}
    if method.definition.uses_teacher or method.student_start != "random":
        used |= {"student_start"}
    schedule = {name: value for name, value in asdict(training).items() if value is not None}
    del schedule["sized"]
    return {
        "shape": shape.model_dump(exclude_none=True),
        "method": {name: getattr(method, name) for name in sorted(used)},
        "training": schedule,
        "seed": seed,
    }
