"""Stage of a pretrained teacher that is adapted to the corpus's languages or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from a2d.models.teachers import prepare_teacher
from a2d.progress import show_activity
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.stages.corpus import Corpus


@dataclass(frozen=True)
class PreparedTeacher(RunStage):
    """A copy of the teacher with its languages, its source prefix or a smaller vocabulary."""

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the stage, if the recipe adapts the teacher."""
        teacher = run.recipe.teacher
        if not (teacher.languages or teacher.source_prefix or teacher.trim):
            return []
        settings: dict[str, Any] = {"model": run.pretrained, "languages": teacher.languages}
        if teacher.source_prefix:
            settings["source prefix"] = teacher.source_prefix
        if teacher.trim:
            settings["trimmed to"] = run.one(Corpus).fingerprint
            if run.corpus.monolingual:
                settings["monolingual"] = run.corpus.monolingual
        return [cls(run.folder / "teacher", settings)]

    def make(self, run: Run) -> None:
        """Write the copy."""
        teacher = run.recipe.teacher
        assert teacher.path is not None
        pairs = run.splits.learnable if teacher.trim else None
        with show_activity(run.console, "Preparing the teacher…"), self.work() as folder:
            before, after = prepare_teacher(
                teacher.path, folder, teacher.languages, teacher.source_prefix, pairs
            )
        if teacher.trim:
            run.console.print(f"Vocabulary: {after:,} of the teacher's {before:,} tokens.")


def teacher_path(run: Run) -> str:
    """Return the folder or hub name of the teacher, adapted if the recipe asks for that.

    It is empty for an external system.
    """
    teacher = run.recipe.teacher
    if teacher.foreign:
        return ""
    prepared = run.all(PreparedTeacher)
    if prepared:
        return str(prepared[0].folder)
    return teacher.path or str(run.folder / "models" / "teacher")
