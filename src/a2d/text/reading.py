"""Read a corpus and count its pairs, malformed entries, omissions and repairs."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a2d.errors import UserError
from a2d.plugin_errors import CODE, defined_at
from a2d.quoting import counted, escaped, quoted, shorten
from a2d.text.bounds import MAX_MALFORMED
from a2d.text.entities import printable, unescape_entities
from a2d.text.formats import format_of
from a2d.text.pairs import Entries, Malformed, Omitted, Pair, Selection, normal_pair

_SHOWN_BEFORE = 24
"""Most characters before a change in an example; longer beginnings are cut to half of this."""

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
        example: the first text changed, before its repair, from a little before the change.
    """

    pairs: int = 0
    example: str = ""

    def apply(self, pair: Pair, repair: Callable[[str], str]) -> Pair:
        """Repair both sides of a pair; count the pair if that changes it."""
        repaired = normal_pair(*map(repair, pair))
        if repaired != pair:
            self.pairs += 1
            side = int(pair.source == repaired.source)
            self.example = self.example or _near_change(pair[side], repaired[side])
        return repaired


def _near_change(text: str, changed: str) -> str:
    """Cut off the beginning of a text, so that what changes stays visible when it is shortened."""
    same = next(
        (at for at, (one, other) in enumerate(zip(text, changed, strict=False)) if one != other),
        min(len(text), len(changed)),
    )
    return text if same < _SHOWN_BEFORE else "…" + text[same - _SHOWN_BEFORE // 2 :]


@dataclass
class ReadingReport:
    """Counts of what was read from one file or from two aligned files.

    Attributes:
        places: paths of the files, or name of the dataset.
        pairs: number of pairs read.
        malformed: number of entries that should hold a pair but do not.
        malformed_first: number of those before the first pair.
        from_beginning: False for a part of a file that other parts precede.
        faults: up to three of their problems.
        omitted: number of valid entries left out, by reason.
        entities: pairs in which HTML entities were unescaped.
        controls: pairs from which control characters were removed.
        most_faults: most problems in `faults`.
    """

    places: list[str]
    pairs: int = 0
    malformed: int = 0
    malformed_first: int = 0
    from_beginning: bool = True
    faults: dict[str, Fault] = field(default_factory=dict)
    omitted: Counter[str] = field(default_factory=Counter)
    entities: Repairs = field(default_factory=Repairs)
    controls: Repairs = field(default_factory=Repairs)
    most_faults: int = _MAX_FAULTS

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
        self.malformed_first += not self.pairs
        if entry.problem in self.faults or len(self.faults) < self.most_faults:
            self.faults.setdefault(entry.problem, Fault(entry)).count += 1

    def add(self, part: ReadingReport) -> None:
        """Add the counts of a part of the file that follows what was counted so far.

        Raises:
            UserError: the file begins with malformed entries alone.
        """
        if not self.pairs:
            self.malformed_first += part.malformed_first
        self.pairs += part.pairs
        self.malformed += part.malformed
        self.omitted.update(part.omitted)
        for problem, fault in part.faults.items():
            if problem in self.faults or len(self.faults) < self.most_faults:
                self.faults.setdefault(problem, Fault(fault.first)).count += fault.count
        for repairs, more in ((self.entities, part.entities), (self.controls, part.controls)):
            repairs.pairs += more.pairs
            repairs.example = repairs.example or more.example
        self.check_beginning()

    def check_beginning(self) -> None:
        """Check that the file does not begin with malformed entries alone.

        Raises:
            UserError: it does.
        """
        if self.from_beginning and self.malformed_first >= MAX_MALFORMED:
            first = next(iter(self.faults.values())).first
            raise UserError(
                f"{MAX_MALFORMED:,} entries before the first pair are malformed, for example: "
                f"{first}"
            )

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
            verb = "contains" if len(self.places) == 1 else "contain"
            sentences.append(f"{place} {verb} no pair.")
        if self.entities.pairs:
            sentences.append(
                f"HTML entities were unescaped in {counted(self.entities.pairs, 'pair')} of "
                f"{place}, for example '{shorten(self.entities.example)}'."
            )
        if self.controls.pairs:
            sentences.append(
                f"Control characters were removed from {counted(self.controls.pairs, 'pair')} of "
                f"{place}, for example '{shorten(self.controls.example)}'."
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
        files: the files, if some of their lines can be read without the others.
        selection: the pairs that are wanted of these.
    """

    places: list[str]
    entries: Callable[[], Entries]
    repair_texts: bool = True
    files: tuple[Path, ...] = ()
    selection: Selection = field(default_factory=Selection)

    def read(self, reading: ReadingReport) -> Iterator[Pair]:
        """Yield the pairs and count everything into `reading`.

        Raises:
            UserError: the corpus is missing or damaged, or begins with malformed entries alone.
        """
        entries: object = self.entries()
        if not isinstance(entries, Iterable):
            raise self._error(f"returns {quoted(entries)}", entries)
        for entry in self._iterate(entries):
            if isinstance(entry, Malformed):
                self._require_texts(entry, entries)
                reading.count_malformed(entry)
                reading.check_beginning()
                continue
            if isinstance(entry, Omitted):
                self._require_texts(entry, entries)
                reading.omitted[entry.reason] += 1
                continue
            if not (
                isinstance(entry, Pair)
                and isinstance(entry.source, str)
                and isinstance(entry.target, str)
            ):
                raise self._error(f"yields {quoted(entry)}", entries)
            reading.pairs += 1
            if self.repair_texts and any("&" in text for text in entry):
                entry = reading.entities.apply(entry, unescape_entities)
            if not all(map(str.isprintable, entry)):
                if any(map(_HALF_CHARACTER.search, entry)):
                    raise self._error(f"yields half a character, {quoted(entry)}", entries)
                if self.repair_texts:
                    entry = reading.controls.apply(entry, printable)
            yield entry

    def _iterate(self, entries: Iterable[Any]) -> Iterator[Any]:
        """Yield the entries; errors get the function that reads them as an attribute."""
        try:
            yield from entries
        except UserError:
            raise
        except Exception as error:
            setattr(error, CODE, self._code)
            raise

    @property
    def _code(self) -> Any:
        """Function that reads the files."""
        file_format = format_of(Path(self.places[0]))
        return file_format.read if len(self.places) == 1 else file_format.read_two

    def _require_texts(self, entry: Malformed | Omitted, entries: object) -> None:
        if not all(isinstance(text, str) for text in entry):
            raise self._error(f"yields {quoted(entry)}", entries)

    def _error(self, problem: str, entries: object) -> UserError:
        """Describe a wrong result of a reader, with the line that yields it, if it is known."""
        code = defined_at(self._code)
        if inspect.isgenerator(entries) and entries.gi_frame is not None:
            frame = entries.gi_frame
            code = f"{entries.__qualname__} ({frame.f_code.co_filename}, line {frame.f_lineno:,})"
        return UserError(
            f"the reader of {ReadingReport(self.places).place}, {code}, {problem}: it must yield "
            "Pair, Malformed or Omitted (a2d.text.pairs), which hold texts (str) alone"
        )


_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Lone surrogate, which no encoding can write."""
