"""Counts of what a corpus holds while it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from a2d.text.entities import unescaped
from a2d.text.pairs import Entries, Malformed, Omitted, Pair, normal

_SHOWN = 3
"""Malformed entries that are shown."""


@dataclass
class Reading:
    """Counts of what was read from one file, or two aligned ones.

    Attributes:
        places: the files, or the dataset.
        pairs: pairs read.
        malformed: entries that hold no pair, though they should.
        faults: the first of them.
        omitted: entries left out, by reason.
        mended: pairs in which HTML entities were unescaped.
        mended_example: a side of the first of them, before.
    """

    places: list[str]
    pairs: int = 0
    malformed: int = 0
    faults: list[Malformed] = field(default_factory=list)
    omitted: Counter[str] = field(default_factory=Counter)
    mended: int = 0
    mended_example: str = ""

    @property
    def fault(self) -> str | None:
        """Why the corpus cannot be used: half of its entries or more are malformed."""
        if self.malformed < max(1, self.pairs):
            return None
        entries = self.malformed + self.pairs
        many = f"{self.malformed:,} of {entries:,} entries are malformed, as in: "
        return (many if self.malformed > 1 else "") + str(self.faults[0])

    def warnings(self) -> list[str]:
        """What a user should hear of, one sentence each."""
        place = " and ".join(self.places)
        said = []
        if self.malformed:
            faults = "; ".join(map(str, self.faults))
            said.append(
                f"{self.malformed:,} of {self.malformed + self.pairs:,} entries are malformed and "
                f"were skipped: {faults}{'; …' if self.malformed > _SHOWN else '.'}"
            )
        if self.omitted:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.omitted.items())
            said.append(f"Left out of {place}: {reasons}.")
        if self.mended:
            said.append(
                f"HTML entities in {self.mended:,} pairs of {place} were unescaped, as in "
                f"'{shown(self.mended_example)}'."
            )
        return said


@dataclass(frozen=True)
class Part:
    """A corpus that is no list of others: where it is, and its reader.

    `mend`: whether HTML entities in it are unescaped; test sets that others publish, and what the
    package brings, stay as they are.
    """

    places: list[str]
    entries: Callable[[], Entries]
    mend: bool = True

    def read(self, reading: Reading) -> Iterator[Pair]:
        """Yield the pairs and count everything into `reading`."""
        for entry in self.entries():
            if isinstance(entry, Malformed):
                reading.malformed += 1
                reading.faults += [entry] * (reading.malformed <= _SHOWN)
                continue
            if isinstance(entry, Omitted):
                reading.omitted[entry.reason] += 1
                continue
            reading.pairs += 1
            if self.mend and any("&" in text for text in entry):
                mended = normal(*map(unescaped, entry))
                if mended != entry:
                    reading.mended += 1
                    side = entry.source if entry.source != mended.source else entry.target
                    reading.mended_example = reading.mended_example or side
                    entry = mended
            yield entry


def shown(text: str, width: int = 40) -> str:
    """A text on one line that no terminal takes for a command, cut to a width.

    Example:
        >>> shown("a\\tb\\x1b[31m red and more", width=16)
        'a\\\\tb\\\\x1b[31m r…'
    """
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= width else plain[: width - 1] + "…"
