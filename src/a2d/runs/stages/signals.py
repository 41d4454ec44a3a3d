"""The teacher's cache: what it says of the data that students learn from."""

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
class TeacherSignals(RunStage):
    """Distributions and attention maps of the teacher for the parts of some training data.

    Attributes:
        parts: the parts.
        states: whether hidden states and value vectors are cached, too.
    """

    restored_when_needed: ClassVar = True  # gigabytes, which most runs need not read

    parts: tuple[str, ...]
    states: bool

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """Name a stage for each combination of parts that students ask the teacher about."""
        if not run.recipe.teacher.cache:
            return []
        asked: dict[tuple[str, ...], bool] = {}
        for student in run.all(Student):
            needs = student.method.definition
            if needs.uses_signals:
                states = asked.get(student.data_parts, False) or needs.states
                asked[student.data_parts] = states
        fingerprints = {PARALLEL: run.one(Tokens).fingerprint}
        fingerprints |= {stage.part: stage.fingerprint for stage in run.all(Sequences)}
        stages = []
        for parts, states in asked.items():
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
        """Build the caches that a student reads which is not trained yet."""
        for stage in run.all(cls):
            if stage._is_needed(run):
                run.restore(stage)
                if not stage.done:
                    stage.make(run)

    def _is_needed(self, run: Run) -> bool:
        return any(
            student.method.definition.uses_signals and student.data_parts == self.parts
            for student in run.all(Student)
            if not student.done
        )

    def make(self, run: Run) -> None:
        """Run the teacher over the data."""
        data = [run.data[part] for part in self.parts]
        with self.work() as folder:
            arguments = folder, run.recipe.evaluation.max_tokens, self.states
            path = run.teacher_path
            run.workers.submit(teacher_cache.build_from, data, path, *arguments).result()
