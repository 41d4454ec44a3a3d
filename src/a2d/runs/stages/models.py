"""Stages of models, and the teacher's stage."""

from __future__ import annotations

from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from typing import Any, Self

from a2d.runs.model import Model
from a2d.runs.parts import PARALLEL
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.settings import MethodEntry, Shape, Training
from a2d.runs.shards import Task, Translator, translate_in_shards
from a2d.runs.stages.prepared import teacher_path
from a2d.runs.stages.vocabulary import Tokens, Vocabulary
from a2d.runs.training import TrainingInputs, remove_checkpoints, train_model

TEACHER = "teacher"


@dataclass(frozen=True)
class ModelStage(Model, RunStage):
    """A model with its training."""

    @classmethod
    def inputs(cls, run: Run) -> TrainingInputs:
        """Collect the inputs of the trainings."""
        tokens = run.one(Tokens).folder
        return TrainingInputs(
            vocabulary=run.one(Vocabulary).folder,
            tokens=tokens,
            data={PARALLEL: tokens / "train"},
            tensorboard=run.tensorboard,
            beams=run.recipe.evaluation.beams,
        )

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Train the unfinished models, as many at once as the recipe allows."""
        unfinished = [model for model in run.all(cls) if not model.done]
        processes = run.recipe.compute.gpus_per_training
        arguments = cls.inputs(run), processes, run.workers.launcher
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
class Teacher(ModelStage):
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
        path = teacher_path(run)
        return [cls(folder, settings, TEACHER, path, teacher.shape, teacher.training, method, 1)]


def translator_of(run: Run) -> Translator:
    """Choose the teacher's translator: a table of existing translations, a command or a model."""
    table = run.splits.translations
    if table is not None:
        return lambda pairs, _: (table.find(pair.source) for pair in pairs)
    recipe = run.recipe
    path = run.one(Teacher).path
    task = Task(path, recipe.evaluation, recipe.sequences, recipe.teacher.command)
    return lambda pairs, folder: translate_in_shards(pairs, folder, task, run.workers)


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
