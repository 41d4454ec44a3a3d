"""Stages of models, and the teacher's stage."""

from __future__ import annotations

from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from a2d.runs.parts import PARALLEL
from a2d.runs.settings import MethodEntry, Shape, Training
from a2d.runs.stages.base import RunStage
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.runs.training import CHECKPOINTS, remove_checkpoints, train_model

if TYPE_CHECKING:
    from a2d.runs.run import Run

TEACHER = "teacher"


@dataclass(frozen=True)
class Model(RunStage):
    """A model of a run: a student, or the teacher.

    Attributes:
        name: name of the model and of its folder.
        path: folder or hub name; empty for an external system.
        shape: sizes of a model that the run trains; None for other teachers.
        training: settings of its training; None for other teachers.
        method: method and its settings.
        seed: seed of all random numbers.
        size: short description of a student's shape.
        data_parts: names of the parts of its training data (`a2d.runs.parts`).
        start: folder of its initial weights, if they are the teacher's.
    """

    expensive: ClassVar = f"{CHECKPOINTS}/checkpoint-*"

    name: str
    path: str
    shape: Shape | None
    training: Training | None
    method: MethodEntry
    seed: int
    size: str | None = None
    data_parts: tuple[str, ...] = (PARALLEL,)
    start: Path | None = None

    @property
    def trained(self) -> bool:
        """Check whether the run trains the model."""
        return self.shape is not None

    @property
    def done(self) -> bool:
        """Check whether nothing is left to train."""
        return not self.trained or super().done

    def restore(self) -> str | None:
        """Set a damaged model aside, except a teacher that the run does not train."""
        return super().restore() if self.trained else None

    @property
    def uses_teacher(self) -> bool:
        """Check whether the model depends on the teacher, if only by its initial weights."""
        return self.method.definition.uses_teacher or self.start is not None

    @property
    def foreign(self) -> bool:
        """Check for an external system, which a2d cannot load."""
        return not self.path

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Train the unfinished models, as many at once as the recipe allows."""
        unfinished = [model for model in run.all(cls) if not model.done]
        processes = run.recipe.compute.gpus_per_training
        arguments = run.inputs, processes, run.workers.launcher
        futures = [
            run.workers.submit(train_model, model, *arguments, training=True)
            for model in unfinished
        ]
        for future in as_completed(futures):  # an error ends the run at once
            future.result()
        for model in run.all(cls):
            if model.trained:
                remove_checkpoints(model)  # in case an earlier run was killed before this point


@dataclass(frozen=True)
class Teacher(Model):
    """The teacher: trained by the run, pretrained, or an external system."""

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the one teacher."""
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
    shape: Shape, method: MethodEntry, training: Training, seed: int, monolingual: bool = False
) -> dict[str, Any]:
    """Collect the settings that a training depends on, as JSON.

    Settings that the method does not use are left out, because they do not change the model.
    """
    schedule = {name: value for name, value in asdict(training).items() if value is not None}
    del schedule["sized"]
    return {
        "shape": shape.model_dump(exclude_none=True),
        "method": method.used(monolingual),
        "training": schedule,
        "seed": seed,
    }
