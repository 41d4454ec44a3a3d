"""Stage of the teacher's validation scores, which students are compared with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Self

from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.shards import SHARDS
from a2d.runs.stages.models import Teacher, translator_of
from a2d.runs.stages.prepared import teacher_path
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.runs.verdict import measure_yardstick, quality_of, write_yardstick


@dataclass(frozen=True)
class TeacherScores(RunStage):
    """Scores of the teacher's translations of the validation set.

    Models that a2d loads translate greedily. An external system has no scores if some of its
    translations are missing.
    """

    expensive: ClassVar = SHARDS

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the one stage."""
        settings = {"teacher": run.one(Teacher).fingerprint}
        return [cls(run.folder / "yardstick", settings)]

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Execute the stage, unless translations of an external system are missing."""
        if run.has_translations("valid"):
            super().carry_out(run)

    def make(self, run: Run) -> None:
        """Translate the validation set and score it."""
        pairs = run.splits.valid
        if not run.one(Teacher).foreign:
            arguments = teacher_path(run), run.one(Vocabulary).folder, pairs
            run.workers.submit(measure_yardstick, self, *arguments).result()
            return
        with self.work() as folder:
            start = time.perf_counter()
            hypotheses = list(translator_of(run)(pairs, folder))
            seconds = time.perf_counter() - start
            quality = quality_of(hypotheses, [pair.target for pair in pairs])
            write_yardstick(folder, quality, pairs, seconds)
