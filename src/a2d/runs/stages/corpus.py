"""Stage of the corpus: held-out sentences and references, and the counts of cleaning."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from a2d.files import write_text
from a2d.runs.lines import read_lines, write_lines
from a2d.runs.stages.base import RunStage

if TYPE_CHECKING:
    from a2d.runs.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus(RunStage):
    """Held-out sets as plain text, which scores, p-values and reports read."""

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the stage, which depends on all parallel text."""
        return [cls(run.folder / "corpus", {"text": run.corpus.text})]

    def make(self, run: Run) -> None:
        """Write the held-out sets and the counts of cleaning."""
        splits = run.splits
        with self.work() as folder:
            counts = json.dumps(splits.cleaning.as_dict(), indent=1) + "\n"
            write_text(folder / "cleaning.json", counts)
            for name, split in (("valid", splits.valid), ("test", splits.test)):
                write_lines(folder / f"{name}.source.txt", [pair.source for pair in split])
                write_lines(folder / f"{name}.reference.txt", [pair.target for pair in split])

    def sources(self, split: str) -> list[str]:
        """Read the sources of `valid` or `test`, one line each."""
        return read_lines(self.folder / f"{split}.source.txt")

    def references(self, split: str) -> list[str]:
        """Read the references of `valid` or `test`, one line each."""
        return read_lines(self.folder / f"{split}.reference.txt")
