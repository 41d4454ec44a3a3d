"""Read a corpus and count its pairs, malformed entries, omissions and repairs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from a2d.errors import UserError
from a2d.quoting import escaped, quoted, shorten
from a2d.text.bounds import MAX_MALFORMED
from a2d.text.entities import printable, unescape_entities
from a2d.text.pairs import Entries, Malformed, Omitted, Pair, normal_pair

_MAX_FAULTS = 3
"""Different problems of malformed entries that a warning shows."""


@dataclass
class Fault:
    """Problem of malformed entries.

    Attributes:
        first: the first entry that has the problem.
        count: number of entries that have it.
    """

    first: Malformed
    count: int = 0

    def __str__(self) -> str:
        """Return the first entry and the number of others as one clause."""
        return f"{self.first} (and {self.count - 1:,} more)" if self.count > 1 else str(self.first)


@dataclass
class Repairs:
    """Pairs whose texts one kind of repair changed.

    Attributes:
        pairs: number of pairs changed.
        example: the first text changed, before its repair.
    """

    pairs: int = 0
    example: str = ""

    def apply(self, pair: Pair, repair: Callable[[str], str]) -> Pair:
        """Repair both sides of a pair; count the pair if that changes it."""
        repaired = normal_pair(*map(repair, pair))
        if repaired != pair:
            self.pairs += 1
            side = pair.source if pair.source != repaired.source else pair.target
            self.example = self.example or side
        return repaired


@dataclass
class ReadingReport:
    """Counts of what was read from one file or from two aligned files.

    Attributes:
        places: paths of the files, or name of the dataset.
        pairs: number of pairs read.
        malformed: number of entries that should hold a pair but do not.
        faults: up to three of their problems.
        omitted: number of valid entries left out, by reason.
        entities: pairs in which HTML entities were unescaped.
        controls: pairs from which control characters were removed.
    """

    places: list[str]
    pairs: int = 0
    malformed: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)
    omitted: Counter[str] = field(default_factory=Counter)
    entities: Repairs = field(default_factory=Repairs)
    controls: Repairs = field(default_factory=Repairs)

    @property
    def place(self) -> str:
        """Names of the files for messages."""
        return escaped(" and ".join(self.places))

    @property
    def entries(self) -> int:
        """Number of entries read: pairs, omitted and malformed ones."""
        return self.pairs + self.malformed + self.omitted.total()

    @property
    def refusal(self) -> str | None:
        """Reason to refuse the corpus, if half of its entries or more are malformed; else None."""
        if self.malformed < max(1, self.entries / 2):
            return None
        count = f"{self.malformed:,} of {self.entries:,} entries are malformed, for example: "
        faults = list(self.faults.values())
        problems = "; ".join(map(str, faults)) if len(faults) > 1 else str(faults[0].first)
        return (count if self.malformed > 1 else "") + problems

    @property
    def omissions(self) -> str:
        """Counts and reasons of omitted entries, as a list for messages."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.omitted.items())

    def count_malformed(self, entry: Malformed) -> None:
        """Count a malformed entry, and keep the first entry of each problem."""
        self.malformed += 1
        if entry.problem in self.faults or len(self.faults) < _MAX_FAULTS:
            self.faults.setdefault(entry.problem, Fault(entry)).count += 1

    def warnings(self) -> list[str]:
        """Return warnings about the corpus, one sentence each."""
        place = self.place
        sentences = []
        if self.malformed:
            faults = "; ".join(map(str, self.faults.values()))
            more = self.malformed > sum(fault.count for fault in self.faults.values())
            sentences.append(
                f"{self.malformed:,} of {self.entries:,} entries are malformed and were "
                f"skipped: {faults}{'; …' if more else '.'}"
            )
        if self.omitted:
            sentences.append(f"Skipped entries of {place}: {self.omissions}.")
        if not self.pairs and not self.malformed:
            sentences.append(f"{place} contains no pair.")
        if self.entities.pairs:
            sentences.append(
                f"HTML entities were unescaped in {self.entities.pairs:,} pairs of {place}, for "
                f"example '{shorten(self.entities.example)}'."
            )
        if self.controls.pairs:
            sentences.append(
                f"Control characters were removed from {self.controls.pairs:,} pairs of {place}, "
                f"for example '{shorten(self.controls.example)}'."
            )
        return sentences


def no_pairs_message(readings: Sequence[ReadingReport]) -> str:
    """Return the error message for a readable corpus that contains no pair."""
    place = " and ".join(reading.place for reading in readings)
    omitted = [reading.omissions for reading in readings if reading.omitted]
    if omitted:
        return f"every entry of {place} was skipped ({', '.join(omitted)}): give another corpus"
    return f"{place} is empty, or its reader finds no entry: give a corpus with at least one pair"


@dataclass(frozen=True)
class Reader:
    """Reader of a file, of two aligned files or of a dataset.

    Attributes:
        places: paths of the files, or name of the dataset.
        entries: function that reads the entries.
        repair_texts: unescape HTML entities and remove control characters. Off for published test
            sets and packaged corpora, which stay as they are.
    """

    places: list[str]
    entries: Callable[[], Entries]
    repair_texts: bool = True

    def read(self, reading: ReadingReport) -> Iterator[Pair]:
        """Yield the pairs and count everything into `reading`.

        Raises:
            UserError: the corpus is missing or damaged, or begins with malformed entries alone.
        """
        entries: object = self.entries()
        if not isinstance(entries, Iterable):
            raise _reader_error(reading.place, f"returns {quoted(entries)}")
        for entry in entries:
            if isinstance(entry, Malformed):
                reading.count_malformed(entry)
                if reading.malformed == MAX_MALFORMED and not reading.pairs:
                    raise UserError(f"{reading.refusal}; no entry before is valid")
                continue
            if isinstance(entry, Omitted):
                reading.omitted[entry.reason] += 1
                continue
            if not (
                isinstance(entry, Pair)
                and isinstance(entry.source, str)
                and isinstance(entry.target, str)
            ):
                raise _reader_error(reading.place, f"yields {quoted(entry)}")
            reading.pairs += 1
            if self.repair_texts and any("&" in text for text in entry):
                entry = reading.entities.apply(entry, unescape_entities)
            if not all(map(str.isprintable, entry)):
                if any(map(_HALF_CHARACTER.search, entry)):
                    raise _reader_error(reading.place, f"yields half a character, {quoted(entry)}")
                if self.repair_texts:
                    entry = reading.controls.apply(entry, printable)
            yield entry


_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Lone surrogate, which no encoding can write."""


def _reader_error(place: str, problem: str) -> UserError:
    return UserError(
        f"the reader of {place} {problem}: it must yield Pair of two texts, Malformed or Omitted "
        "(a2d.text.pairs)"
    )
