"""What all kinds of stages have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from a2d.stage import Stage

if TYPE_CHECKING:
    from a2d.runs.run import Run


@dataclass(frozen=True)
class RunStage(Stage):
    """A kind of stage: its settings and its work in one class.

    A subclass says in `of` which stages of its kind a run has, with their settings, and in `make`
    how one is carried out. `a2d.runs.stages` has the order of the kinds.

    Attributes:
        restored_when_needed: `carry_out` compares the files with their checksums, because that
            takes too long for every run.
    """

    restored_when_needed: ClassVar[bool] = False

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the stages of this kind that a run has."""
        raise NotImplementedError

    def make(self, run: Run) -> None:
        """Carry out the stage: fill its folder."""
        raise NotImplementedError

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Carry out the stages of this kind that are not done, one after the other."""
        for stage in run.all(cls):
            if not stage.done:
                stage.make(run)
