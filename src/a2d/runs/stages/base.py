"""Base class of all kinds of stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from a2d.stage import Stage

if TYPE_CHECKING:
    from a2d.runs.run import Run


@dataclass(frozen=True)
class RunStage(Stage):
    """Base class of a kind of stage, with its settings and its work.

    A subclass defines `of`, which lists the run's stages of this kind with their settings, and
    `make`, which executes a stage. `a2d.runs.stages` defines the order of the kinds.

    Attributes:
        restored_when_needed: `carry_out` itself compares the files with their checksums, because
            the comparison takes too long for every run.
    """

    restored_when_needed: ClassVar[bool] = False

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the stages of this kind in a run."""
        raise NotImplementedError

    def make(self, run: Run) -> None:
        """Execute the stage: fill its folder."""
        raise NotImplementedError

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Execute the unfinished stages of this kind, one after the other."""
        for stage in run.all(cls):
            if not stage.done:
                stage.make(run)
