"""Stages of speed: each student shape is compared with the teacher while nothing else runs.

Exports are measured in the same way, and compared with the teacher in PyTorch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Self

from a2d.families import positions_of
from a2d.files import write_text
from a2d.models.loading import load_config
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.command import sentences_per_second
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.speeds import Timed, TimedExport, TimedModel, measure_speeds, sample_for
from a2d.runs.stages.exports import Export
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.students import Student
from a2d.runs.stages.vocabulary import Vocabulary

FIGURES = "speed.json"


@dataclass(frozen=True)
class Speed(RunStage):
    """Speed of a shape. Students of different model families have different shapes.

    Attributes:
        student: first student of the shape, which is measured.
        names: names of all students of the shape, or of their exports.
        export: export of the first student. In its place the first faithful one of `names` is
            measured.
    """

    student: Student
    names: tuple[str, ...]
    export: Export | None = None

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List a stage for each shape, and for each quantization of a shape."""
        recipe, teacher = run.recipe, run.one(Teacher)
        stages: dict[str, Self] = {}
        models: list[tuple[Student, Export | None]] = [(each, None) for each in run.all(Student)]
        models += [(export.student, export) for export in run.all(Export)]
        for student, export in models:
            assert student.shape is not None
            settings = recipe.evaluation.model_dump(include={"beams", "max_tokens"})
            dropouts = {"dropout", "attention_dropout", "activation_dropout"}
            settings["shape"] = student.shape.model_dump(exclude_none=True, exclude=dropouts)
            settings["teacher"] = teacher.fingerprint
            name = str(student.size)
            if student.method.student_start == "marian" and not teacher.trained:
                settings["marian"], name = True, f"{name}-marian"
            if export is not None:
                settings["quantization"] = export.quantization
                name = f"{name}-{export.quantization}"
            first = stages.get(name)
            folder = run.folder / "speed" / recipe.evaluation.split / name
            if first is None:
                first = stages[name] = cls(folder, settings, student, (), export)
            added = student.name if export is None else export.name
            stages[name] = replace(first, names=(*first.names, added))
        return list(stages.values())

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Measure the unfinished shapes, one after the other, on one sample."""
        unfinished = [
            stage
            for stage in run.all(cls)
            if not stage.done and (stage.export is None or stage._faithful_export(run))
        ]
        if not unfinished:
            return
        run.end_workers()  # they would slow the models down
        search, pairs, teacher = run.recipe.evaluation, run.evaluated, run.one(Teacher)
        paths = [stage.student.path for stage in unfinished]
        configs = [load_config(path) for path in paths + [teacher.path] * (not teacher.foreign)]
        positions = min((p for c in configs if (p := positions_of(c)) is not None), default=None)
        tokenizer = load_tokenizer(run.one(Vocabulary).folder)
        timed_teacher = None if teacher.foreign else TimedModel(teacher.path, search.beams)
        longest = search.max_tokens, positions
        sample = None
        if timed_teacher is not None:
            sample = sample_for(timed_teacher, tokenizer, pairs, *longest)
        teacher_speed = {}
        if run.recipe.teacher.command is not None:
            sources = [pair.source for pair in pairs]
            speed = sentences_per_second(run.recipe.teacher.command, sources)
            teacher_speed["teacher_sentences_per_second"] = speed
        for stage in unfinished:
            student = stage._timed(run)
            batches = sample or sample_for(student, tokenizer, pairs, *longest)
            name = f"speed: {stage.folder.name}"
            with stage.work() as folder:
                figures = measure_speeds(timed_teacher, student, batches, name, run.report)
                write_text(folder / FIGURES, json.dumps(figures | teacher_speed, indent=1) + "\n")

    def _timed(self, run: Run) -> Timed:
        export, beams = self._faithful_export(run), run.recipe.evaluation.beams
        if export is None:
            return TimedModel(self.student.path, beams)
        return TimedExport(export.model, beams)

    def _faithful_export(self, run: Run) -> Export | None:
        """Return the first export of the stage that was not refused; None if there is none."""
        exports = (export for export in run.all(Export) if export.name in self.names)
        return next((export for export in exports if export.problem is None), None)

    @property
    def figures(self) -> dict[str, Any]:
        """Figures of the measurement (`a2d.runs.speeds.measure_speeds`)."""
        figures: dict[str, Any] = json.loads((self.folder / FIGURES).read_text("utf-8"))
        return figures


def read_speeds(run: Run) -> dict[str, float]:
    """Read model name → sentences per second, for measured models.

    The teacher's speed is the median over shapes. A student's speed is the teacher's times the
    speed-up of its shape. If the teacher is an external system, it is the measured speed.
    """
    figures = {
        name: stage.figures for stage in run.all(Speed) if stage.done for name in stage.names
    }
    if not figures:
        return {}
    students = [student.name for student in run.all(Student) if student.name in figures]
    order = [*students, *(export.name for export in run.all(Export) if export.name in figures)]
    teacher_speeds = [figures[name].get("teacher_sentences_per_second") for name in students]
    known_speeds = [speed for speed in teacher_speeds if speed is not None]
    teacher = median(known_speeds) if any(known_speeds) else None
    name = run.one(Teacher).name
    if run.one(Teacher).foreign:
        speeds = {student: figures[student]["sentences_per_second"] for student in order}
        return speeds if teacher is None else {name: teacher, **speeds}
    assert teacher is not None
    return {name: teacher, **{s: figures[s]["speed_up"] * teacher for s in order}}
