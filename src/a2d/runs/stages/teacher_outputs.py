"""Stages of the teacher's caches: its outputs for the training data of students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from datasets import Dataset

from a2d.files import size_in_words
from a2d.models.loading import load_config
from a2d.runs.parts import PARALLEL, caches_for
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.prepared import teacher_path
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.students import Student, cache_folder, parts_of
from a2d.runs.stages.vocabulary import Tokens
from a2d.runs.training import epochs_of
from a2d.text.batching import lengths, load_tokens
from a2d.training import teacher_cache

MIN_READS = 1.5
"""Passes over a cache below which it does not pay: building it takes one pass of the teacher."""


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
        recipe = run.recipe
        if not recipe.teacher.cache:
            return []
        fingerprints = {PARALLEL: run.one(Tokens).fingerprint}
        fingerprints |= {stage.part: stage.fingerprint for stage in run.all(Sequences)}
        stages = []
        for cached in caches_for(recipe.methods, bool(run.corpus.monolingual)).values():
            data = [fingerprints[part] for part in cached.parts]
            settings: dict[str, Any] = {
                "teacher": run.one(Teacher).fingerprint,
                "data": data if len(data) > 1 else data[0],
                "format": teacher_cache.FORMAT,
            }
            if cached.states:
                settings["states"] = True
            stages.append(cls(cache_folder(run, cached), settings, *cached))
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
        return any(not student.done for student in self._students(run))

    def _students(self, run: Run) -> list[Student]:
        """List the students that read the cache."""
        return [student for student in run.all(Student) if student.cache == self.folder]

    def _show_size(self, run: Run, dataset: Dataset) -> None:
        """Show the size of the cache; warn if it is read less than `MIN_READS` times."""
        config, sizes = load_config(teacher_path(run)), lengths(dataset)
        size = teacher_cache.cache_size(sizes, config, self.states)
        run.console.print(
            f"Teacher's cache: {size_in_words(size)} for {len(dataset):,} sentences "
            f"({size / len(dataset) / 1000:.1f} KB each)."
        )
        students = [student for student in self._students(run) if not student.done]
        reads = sum(epochs_of(s.training, dataset) for s in students if s.training is not None)
        if reads < MIN_READS:
            run.warn(
                f"Students read the teacher's cache {reads:.2g} times, so that it takes more time "
                "than it saves: set teacher.cache=false."
            )

    def make(self, run: Run) -> None:
        """Run the teacher over the data, and write its outputs.

        The size of the cache is shown before. There is a warning if students read it so rarely that
        the teacher beside them would take less time.
        """
        folders = parts_of(run)
        data = [folders[part] for part in self.parts]
        self._show_size(run, load_tokens(data))
        with self.work() as folder:
            arguments = folder, run.recipe.evaluation.max_tokens, self.states
            path = teacher_path(run)
            run.workers.submit(teacher_cache.build_from, data, path, *arguments).result()
