"""Stages of the teacher's caches: its outputs for the training data of students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from a2d.runs.parts import PARALLEL
from a2d.runs.stages.base import RunStage
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.students import Student
from a2d.runs.stages.vocabulary import Tokens
from a2d.training import teacher_cache

if TYPE_CHECKING:
    from a2d.runs.run import Run


@dataclass(frozen=True)
class TeacherOutputs(RunStage):
    """The teacher's distributions and attention maps for some parts of the training data.

    Attributes:
        parts: names of the parts.
        states: cache hidden states and value vectors too.
    """

    restored_when_needed: ClassVar = True  # gigabytes, which most runs do not need

    parts: tuple[str, ...]
    states: bool

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List a stage for each combination of parts that students need outputs for."""
        if not run.recipe.teacher.cache:
            return []
        states_of: dict[tuple[str, ...], bool] = {}
        for student in run.all(Student):
            needs = student.method.definition
            if needs.uses_outputs:
                states = states_of.get(student.data_parts, False) or needs.states
                states_of[student.data_parts] = states
        fingerprints = {PARALLEL: run.one(Tokens).fingerprint}
        fingerprints |= {stage.part: stage.fingerprint for stage in run.all(Sequences)}
        stages = []
        for parts, states in states_of.items():
            data = [fingerprints[part] for part in parts]
            settings: dict[str, Any] = {
                "teacher": run.one(Teacher).fingerprint,
                "data": data if len(data) > 1 else data[0],
            }
            if states:
                settings["states"] = True
            name = "+".join([*parts, "states"] if states else parts)
            stages.append(cls(run.folder / "cache" / name, settings, parts, states))
        return stages

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Build the caches that unfinished students need."""
        for stage in run.all(cls):
            if stage._is_needed(run):
                run.restore(stage)
                if not stage.done:
                    stage.make(run)

    def _is_needed(self, run: Run) -> bool:
        return any(
            student.method.definition.uses_outputs and student.data_parts == self.parts
            for student in run.all(Student)
            if not student.done
        )

    def make(self, run: Run) -> None:
        """Run the teacher over the data, and write its outputs."""
        data = [run.data[part] for part in self.parts]
        with self.work() as folder:
            arguments = folder, run.recipe.evaluation.max_tokens, self.states
            path = run.teacher_path
            run.workers.submit(teacher_cache.build_from, data, path, *arguments).result()
