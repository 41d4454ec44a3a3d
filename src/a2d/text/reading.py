"""Counts of what a corpus holds while it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from a2d.errors import UserError
from a2d.quoting import escaped
from a2d.quoting import shown as shown  # for those who look for it here
from a2d.text.bounds import HOPELESS
from a2d.text.entities import printable, unescaped
from a2d.text.pairs import Entries, Malformed, Omitted, Pair, normal

_SHOWN = 3
"""Problems of malformed entries that are shown."""


@dataclass
class Fault:
    """A problem of malformed entries: the first that has it, and how many do."""

    first: Malformed
    count: int = 0

    def __str__(self) -> str:
        """One clause."""
        return f"{self.first} (and {self.count - 1:,} more)" if self.count > 1 else str(self.first)


@dataclass
class Changes:
    """Pairs whose texts were repaired in one way, and a side of the first of them, before."""

    pairs: int = 0
    example: str = ""

    def changed(self, pair: Pair, repair: Callable[[str], str]) -> Pair:
        """Repair both sides of a pair, and count it if that changes it."""
        repaired = normal(*map(repair, pair))
        if repaired != pair:
            self.pairs += 1
            side = pair.source if pair.source != repaired.source else pair.target
            self.example = self.example or side
        return repaired


@dataclass
class Reading:
    """Counts of what was read from one file, or two aligned ones.

    Attributes:
        places: the files, or the dataset.
        pairs: pairs read.
        malformed: entries that hold no pair, though they should.
        faults: their problems, up to three.
        omitted: entries left out, by reason.
        entities: pairs in which HTML entities were unescaped.
        controls: pairs from which control characters were removed.
    """

    places: list[str]
    pairs: int = 0
    malformed: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)
    omitted: Counter[str] = field(default_factory=Counter)
    entities: Changes = field(default_factory=Changes)
    controls: Changes = field(default_factory=Changes)

    @property
    def place(self) -> str:
        """The files, as messages name them."""
        return escaped(" and ".join(self.places))

    @property
    def entries(self) -> int:
        """How many entries were read: pairs, and those that were left out or are malformed."""
        return self.pairs + self.malformed + self.omitted.total()

    @property
    def fault(self) -> str | None:
        """Why the corpus cannot be used: half of its entries or more are malformed."""
        if self.malformed < max(1, self.entries / 2):
            return None
        many = f"{self.malformed:,} of {self.entries:,} entries are malformed, as in: "
        faults = list(self.faults.values())
        kinds = "; ".join(map(str, faults)) if len(faults) > 1 else str(faults[0].first)
        return (many if self.malformed > 1 else "") + kinds

    @property
    def omissions(self) -> str:
        """What was left out and why, as a list."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.omitted.items())

    def count_malformed(self, entry: Malformed) -> None:
        """Count an entry that holds no pair; of every problem, the first is remembered."""
        self.malformed += 1
        if entry.problem in self.faults or len(self.faults) < _SHOWN:
            self.faults.setdefault(entry.problem, Fault(entry)).count += 1

    def warnings(self) -> list[str]:
        """What a user should hear of, one sentence each."""
        place = self.place
        said = []
        if self.malformed:
            faults = "; ".join(map(str, self.faults.values()))
            more = self.malformed > sum(fault.count for fault in self.faults.values())
            said.append(
                f"{self.malformed:,} of {self.entries:,} entries are malformed and "
                f"were skipped: {faults}{'; …' if more else '.'}"
            )
        if self.omitted:
            said.append(f"Left out of {place}: {self.omissions}.")
        if not self.pairs and not self.malformed:
            said.append(f"{place} holds no pair.")
        if self.entities.pairs:
            said.append(
                f"HTML entities in {self.entities.pairs:,} pairs of {place} were unescaped, as in "
                f"'{shown(self.entities.example)}'."
            )
        if self.controls.pairs:
            said.append(
                f"Control characters were removed from {self.controls.pairs:,} pairs of {place}, "
                f"as in '{shown(self.controls.example)}'."
            )
        return said


def nothing_in(readings: Sequence[Reading]) -> str:
    """What to say of a corpus without a pair, none of whose files is unusable."""
    place = " and ".join(reading.place for reading in readings)
    omitted = [reading.omissions for reading in readings if reading.omitted]
    if omitted:
        return f"{place}: every entry was left out ({', '.join(omitted)}): give one that is not"
    return f"{place} is empty: give a corpus with at least one pair"


@dataclass(frozen=True)
class Part:
    """A corpus that is no list of others: where it is, and its reader.

    `mend`: whether HTML entities in it are unescaped and control characters removed; test sets that
    others publish, and what the package brings, stay as they are.
    """

    places: list[str]
    entries: Callable[[], Entries]
    mend: bool = True

    def read(self, reading: Reading) -> Iterator[Pair]:
        """Yield the pairs and count everything into `reading`.

        Raises:
            UserError: the corpus is missing or damaged, or begins with malformed entries alone.
        """
        for entry in self.entries():
            if isinstance(entry, Malformed):
                reading.count_malformed(entry)
                if reading.malformed == HOPELESS and not reading.pairs:
                    raise UserError(f"{reading.fault}; nothing before is whole")
                continue
            if isinstance(entry, Omitted):
                reading.omitted[entry.reason] += 1
                continue
            reading.pairs += 1
            if self.mend and any("&" in text for text in entry):
                entry = reading.entities.changed(entry, unescaped)
            if self.mend and not all(map(str.isprintable, entry)):
                entry = reading.controls.changed(entry, printable)
            yield entry
