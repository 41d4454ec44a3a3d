"""Stage of the corpus: held-out sentences and references, and the counts of cleaning."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Self

from a2d.files import write_text
from a2d.runs.lines import read_lines, write_lines
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.text.parts import usable_cores
from a2d.text.rarity import rarest_words

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
            held_out = {"valid": splits.valid, "test": splits.test}
            rarest = rarest_words([*splits.valid, *splits.test], splits.train, usable_cores())
            for name, split in held_out.items():
                write_lines(folder / f"{name}.source.txt", [pair.source for pair in split])
                write_lines(folder / f"{name}.reference.txt", [pair.target for pair in split])
                counts_of_rarest, rarest = rarest[: len(split)], rarest[len(split) :]
                write_lines(folder / f"{name}.rarest.txt", list(map(str, counts_of_rarest)))
                if name in splits.files:
                    write_lines(folder / f"{name}.file.txt", splits.files[name])

    def sources(self, split: str) -> list[str]:
        """Read the sources of `valid` or `test`, one line each."""
        return read_lines(self.folder / f"{split}.source.txt")

    def references(self, split: str) -> list[str]:
        """Read the references of `valid` or `test`, one line each."""
        return read_lines(self.folder / f"{split}.reference.txt")

    def rarest(self, split: str) -> list[int] | None:
        """Read how often the rarest word of each source occurs in the training data.

        Returns:
            A count for each source; None for a run of an earlier version.
        """
        path = self.folder / f"{split}.rarest.txt"
        return list(map(int, read_lines(path))) if path.exists() else None

    def files(self, split: str) -> list[str] | None:
        """Read the file that each pair of `valid` or `test` comes from; None if it is one."""
        path = self.folder / f"{split}.file.txt"
        return read_lines(path) if path.exists() else None
