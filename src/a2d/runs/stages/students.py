"""The students of a run, one for every shape, method and seed, and the weights they start from."""

from __future__ import annotations

from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from a2d.errors import UserError
from a2d.method.formulas import FORMULAS
from a2d.method.methods import METHODS
from a2d.models.loading import load_config
from a2d.runs.model import Model
from a2d.runs.parts import MONOLINGUAL, PARALLEL, CachedParts, caches_for, parts_for
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.settings import MethodEntry, Shape
from a2d.runs.stages.models import ModelStage, Teacher, training_settings
from a2d.runs.stages.prepared import teacher_path
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.stages.vocabulary import Tokens, Vocabulary
from a2d.runs.training import TrainingInputs, save_start


@dataclass(frozen=True)
class StudentStart(RunStage):
    """The teacher, pruned to the shape of students that start from it (`a2d.models.pruning`).

    Attributes:
        shape: sizes of the students.
        size: short description of the shape.
    """

    restored_when_needed: ClassVar = True  # finished students need no start

    shape: Shape
    size: str

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List a stage for each shape, if students start from their teacher."""
        if all(method.student_start != "teacher" for method in run.recipe.methods):
            return []
        origin = {
            "teacher": run.one(Teacher).fingerprint,
            "sample": run.one(Tokens).fingerprint,
        }
        stages = {}
        for shape in run.recipe.students:
            size = _size(shape, run)
            settings = {**origin, "shape": shape.model_dump(exclude_none=True)}
            stages[size] = cls(run.folder / "starts" / size, settings, shape, size)
        return list(stages.values())

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Make the weights that unfinished students need."""
        needed = [stage for stage in run.all(cls) if stage._is_needed(run)]
        for stage in needed:
            run.restore(stage)
        missing = [stage for stage in needed if not stage.done]
        if missing:
            inputs = Student.inputs(run)
            futures = [run.workers.submit(save_start, each, each.shape, inputs) for each in missing]
            for future in as_completed(futures):
                future.result()

    def _is_needed(self, run: Run) -> bool:
        return any(
            student.start == self.folder and not student.done for student in run.all(Student)
        )


@dataclass(frozen=True)
class Student(ModelStage):
    """A student."""

    @classmethod
    def inputs(cls, run: Run) -> TrainingInputs:
        """Collect the inputs of the trainings, with those from the teacher."""
        teacher = run.recipe.teacher
        inputs = super().inputs(run)
        return inputs._replace(
            data=parts_of(run),
            teacher=teacher_path(run),
            pretrained=teacher.path is not None,
            precision=teacher.precision,
            sharded=teacher.sharded,
            yardstick=run.one(TeacherScores).folder,
        )

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """Describe the students: every shape with every method and seed.

        Raises:
            UserError: two would have one name.
        """
        recipe = run.recipe
        students = [
            cls._of(run, shape, method, seed)
            for shape in recipe.students
            for method in recipe.methods
            for seed in recipe.seeds
        ]
        names = [student.name for student in students]
        for name in names:
            if names.count(name) > 1:
                raise UserError(
                    f"two students would be called {name!r}: they are equal, or differ only in "
                    "dropout. Use a separate recipe and run for each."
                )
        return students

    @classmethod
    def _of(cls, run: Run, shape: Shape, method: MethodEntry, seed: int) -> Self:
        recipe, needs = run.recipe, method.definition
        teacher = run.one(Teacher)
        size = _size(shape, run)
        start = None
        monolingual = bool(run.corpus.monolingual)
        parts = parts_for(method, monolingual)
        settings: dict[str, Any] = {"vocabulary": run.one(Vocabulary).fingerprint}
        settings |= training_settings(shape, method, recipe.training, seed, monolingual)
        if needs.uses_teacher or method.student_start == "teacher":
            settings["teacher"] = teacher.fingerprint
        if method.student_start == "teacher":
            (start,) = [stage for stage in run.all(StudentStart) if stage.size == size]
            settings["start"] = start.fingerprint
        sequences = {stage.part: stage for stage in run.all(Sequences)}
        for part in parts:
            if part != PARALLEL:
                key = MONOLINGUAL if part == MONOLINGUAL else "references"
                settings[key] = sequences[part].fingerprint
        plugins = METHODS.plugin(method.method)
        if "formula" in needs.settings:
            plugins |= FORMULAS.plugin(method.formula)
        if plugins:
            settings["plugins"] = plugins
        cache = None
        if needs.uses_outputs and recipe.teacher.cache:
            settings["cache"] = True
            cache = cache_folder(run, caches_for(recipe.methods, monolingual)[parts])
        if needs.uses_outputs and recipe.teacher.precision is not None:
            settings["teacher_precision"] = recipe.teacher.precision
        name = f"{method.name}-{size}-seed{seed}"
        folder = run.folder / "models" / name
        training = recipe.training
        origin = None if start is None else start.folder
        model = name, str(folder), shape, training, method, seed, size, parts, origin, cache
        return cls(folder, settings, *model)


def parts_of(run: Run) -> dict[str, Path]:
    """Find the folders of the parts of the training data, by their names (`a2d.runs.parts`)."""
    folders = {stage.part: stage.folder for stage in run.all(Sequences)}
    return {PARALLEL: run.one(Tokens).folder / "train", **folders}


def cache_folder(run: Run, cached: CachedParts) -> Path:
    """Return the folder of the teacher's outputs for parts of the training data."""
    return run.folder / "cache" / cached.name


def models_of(run: Run) -> list[Model]:
    """List the teacher, then the students."""
    return [run.one(Teacher), *run.all(Student)]


def trained_models_of(run: Run) -> list[Model]:
    """List the models that the run trains."""
    return [model for model in models_of(run) if model.trained]


def _size(shape: Shape, run: Run) -> str:
    """Describe layers and heads in short; widths too, if the run's models have several."""
    shapes = [run.recipe.teacher.shape, *run.recipe.students]
    several = len({_widths(other) for other in shapes if other is not None}) > 1
    heads = _both(shape.heads, shape.decoder_heads)
    size = f"{shape.encoder_layers}+{shape.decoder_layers}x{heads}"
    return f"{size}-{_widths(shape)}" if several else size


def _widths(shape: Shape) -> str:
    return f"{shape.width}-{_both(shape.feed_forward, shape.decoder_feed_forward)}"


def _both(size: int, of_decoder: int | None) -> str:
    """Write a size of the encoder, and of the decoder if it has another one."""
    return str(size) if of_decoder in (None, size) else f"{size}+{of_decoder}"


def space_needed(run: Run) -> int:
    """Estimate the bytes still to be written.

    These are models, the weights they start from, checkpoints of those under way, and exports.
    """
    teacher, vocabulary = run.recipe.teacher, run.recipe.vocabulary.size
    if teacher.path is not None and not teacher.trim:
        vocabulary = load_config(teacher.path).vocab_size
    shapes = [model.shape for model in trained_models_of(run) if not model.done]
    sizes = sorted(_parameters(vocabulary, shape) for shape in shapes if shape is not None)
    missing = [start for start in run.all(StudentStart) if start._is_needed(run) and not start.done]
    starts = sum(_parameters(vocabulary, start.shape) for start in missing)
    # A checkpoint holds weights and two Adam moments; three exist while the oldest goes.
    checkpoints = 9 * sum(sizes[-run.recipe.compute.parallel :])
    kept = 1 if run.recipe.export.candidates else len(run.recipe.export.quantizations)
    return 4 * (sum(sizes) + starts + checkpoints + kept * sum(sizes)) + 50_000_000


def _parameters(vocabulary: int, shape: Shape) -> int:
    attention, inner = 4 * shape.width**2, 2 * shape.width
    encoder = shape.encoder_layers * (attention + inner * shape.feed_forward)
    widest = shape.decoder_feed_forward or shape.feed_forward
    decoder = shape.decoder_layers * (2 * attention + inner * widest)
    return vocabulary * shape.width + encoder + decoder
