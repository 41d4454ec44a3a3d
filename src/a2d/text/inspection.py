"""What a corpus holds, and what cleaning would drop of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from typing import Any

from a2d.errors import UserError
from a2d.text import identification
from a2d.text.cleaning import leaks, make_rules
from a2d.text.corpus import Spec, parts
from a2d.text.pairs import Pair
from a2d.text.reading import Reading, nothing_in
from a2d.text.storage import StoredPairs

_EXAMPLES = 3
"""Examples of every fault."""

_SUGGESTED: dict[str, Any] = {"min_letters": 0.5, "drop_copies": True, "consistent": True}
"""Settings by which rules that are off are counted all the same."""

SETTINGS = {
    "empty": None,
    "too_long": "max_words",
    "ratio": "max_ratio",
    "letters": "min_letters",
    "copies": "drop_copies",
    "inconsistent": "consistent",
    "language": "language",
    "duplicates": "deduplicate",
    "near duplicates": "deduplicate",
}
"""Every rule, and the setting that switches it on (none: always on)."""


@dataclass(frozen=True)
class Example:
    """A pair, and where it is: the file, and its number among the pairs read from that, from 1."""

    place: str
    number: int
    source: str
    target: str


@dataclass
class Finding:
    """Pairs that break a rule.

    Attributes:
        setting: key and value that the pairs were judged by, as in `max_words=250`; "": none.
        breaking: pairs that break the rule, whatever other rules they break; those with an empty
            side break that rule alone.
        dropped: pairs that cleaning drops under it, each under the first rule it breaks; None: the
            rule is off.
        examples: the first that break it.
    """

    setting: str
    breaking: int = 0
    dropped: int | None = None
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Leak:
    """Held-out pairs of which a side also occurs in what cleaning keeps of a corpus.

    Attributes:
        reading: of the held-out corpus.
        pairs: its pairs with two sides: others are left out of scores.
        empty: its pairs with an empty side.
        others: pairs with a side that looks like another language; None: nobody looked.
        leaking: pairs of which a side occurs.
        examples: the first of them.
    """

    reading: Reading
    pairs: int
    empty: int
    others: int | None
    leaking: int
    examples: list[Example]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        files: what was read from each file, or two aligned ones.
        pairs: pairs read from all of them.
        lengths: of both sides, in `words` and `characters`: mean, median, 95%, 99%, longest.
        languages: of both sides, shares of the texts of 20 characters and more by the language
            they look like; None: no identifier is installed.
        rules: by name; `near duplicates` are also counted where `deduplicate` is not `near`.
        kept: pairs that cleaning keeps.
        kept_by_file: those of every file.
        leaks: of every held-out corpus.
    """

    files: list[Reading]
    pairs: int
    lengths: dict[str, dict[str, dict[str, float]]]
    languages: dict[str, dict[str, float]] | None
    rules: dict[str, Finding]
    kept: int
    kept_by_file: list[int]
    leaks: list[Leak]

    def as_dict(self) -> dict[str, Any]:
        """The same as numbers, texts, lists and dictionaries, for JSON."""
        return {
            "files": [
                _counts(file) | {"kept": kept}
                for file, kept in zip(self.files, self.kept_by_file, strict=True)
            ],
            "pairs": self.pairs,
            "lengths": self.lengths,
            "languages": self.languages,
            "rules": {
                name: {
                    "setting": found.setting,
                    "breaking": found.breaking,
                    "dropped": found.dropped,
                    "examples": [vars(example) for example in found.examples],
                }
                for name, found in self.rules.items()
            },
            "kept": self.kept,
            "leakage": [
                {
                    "path": " and ".join(leak.reading.places),
                    **_counts(leak.reading),
                    "pairs": leak.pairs,
                    "empty": leak.empty,
                    "other_languages": leak.others,
                    "leaking": leak.leaking,
                    "examples": [vars(example) for example in leak.examples],
                }
                for leak in self.leaks
            ],
        }


def inspect(
    spec: Spec,
    rules: dict[str, Any],
    languages: tuple[str, str] | None = None,
    against: Spec | None = None,
) -> Inspection:
    """Read a corpus, and count what is wrong with it.

    Args:
        spec: the corpus, as `a2d.text.corpus.read_corpus` takes it.
        rules: settings of `a2d.text.cleaning.clean`, all of them.
        languages: codes of source and target.
        against: held-out corpora, in the same form.

    Raises:
        UserError: a corpus is missing, damaged, of an unknown kind, empty or in other languages.
            Files of which half of the entries are malformed are read nevertheless.
    """
    readings: list[Reading] = []
    pairs = StoredPairs(_read(spec, "data", languages, readings))
    if not pairs:
        faults = [reading.fault for reading in readings if reading.fault]
        raise UserError(f"data: {faults[0] if faults else nothing_in(readings)}")
    findings, kept = _judge(pairs, rules, _places(readings))
    left = iter(kept)
    return Inspection(
        readings,
        len(pairs),
        {
            side: {unit: _lengths(pairs, number, unit) for unit in _UNITS}
            for number, side in enumerate(Pair._fields)
        },
        _languages(pairs),
        findings,
        sum(kept),
        [sum(islice(left, reading.pairs)) for reading in readings],
        _leaks(against, lambda: compress(pairs, kept), languages, rules["languages"] is not None),
    )


def _counts(reading: Reading) -> dict[str, Any]:
    """What was read, for JSON."""
    return {
        "paths": reading.places,
        "pairs": reading.pairs,
        "malformed": reading.malformed,
        "malformed_examples": list(map(str, reading.faults.values())),
        "usable": reading.fault is None,
        "left_out": dict(reading.omitted),
        "entities_unescaped": reading.entities.pairs,
        "entities_example": reading.entities.example,
        "control_characters_removed": reading.controls.pairs,
        "control_characters_example": reading.controls.example,
    }


def _read(
    spec: Spec, name: str, languages: tuple[str, str] | None, readings: list[Reading]
) -> Iterator[Pair]:
    try:
        for part in parts(spec, name, languages):
            readings.append(Reading(part.places))
            yield from part.read(readings[-1])
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


Place = Callable[[int], tuple[str, int]]


def _judge(
    pairs: Sequence[Pair], rules: dict[str, Any], place: Place
) -> tuple[dict[str, Finding], bytearray]:
    """Judge every pair by each rule on its own, also by those that are off, and as `clean` does.

    Returns:
        Findings by rule, and of every pair whether cleaning keeps it.
    """
    off = {key: value for key, value in _SUGGESTED.items() if not rules[key]}
    told = make_rules(pairs, **rules | off | {"deduplicate": True})
    near = make_rules(pairs, **rules | {"languages": None, "deduplicate": "near"})
    told.append((_NEAR, dict(near)["duplicates"]))
    empty = told[0][1]
    findings = {name: _finding(name, rules, off) for name, _ in told}
    # Cleaning asks about repetitions of what the other rules let pass.
    duplicates = {True: "duplicates", "near": _NEAR}.get(rules["deduplicate"])
    fresh = make_rules(pairs, **rules | {"languages": None})[-1][1]
    kept = bytearray()
    for number, pair in enumerate(pairs):
        broken = ["empty"] if empty(pair) else [name for name, breaks in told if breaks(pair)]
        for name in broken:
            found = findings[name]
            found.breaking += 1
            if len(found.examples) < _EXAMPLES:
                found.examples.append(Example(*place(number), *pair))
        on = (n for n in broken if n not in _REPEATED and findings[n].dropped is not None)
        first = next(on, None)
        if first is None and duplicates is not None and fresh(pair):
            first = duplicates
        if first is not None:
            findings[first].dropped = (findings[first].dropped or 0) + 1
        kept.append(first is None)
    return findings, kept


_NEAR = "near duplicates"
_REPEATED = ("duplicates", _NEAR)


def _finding(name: str, rules: dict[str, Any], off: dict[str, Any]) -> Finding:
    key = SETTINGS[name]
    value: object
    if name in _REPEATED:
        value = "near" if name == _NEAR else True
        on = rules["deduplicate"] == value
    else:
        value, on = (rules | off).get(str(key)), key not in off
    text = key or ""
    if value is not None:
        text += f"={str(value).lower()}"
    return Finding(text, dropped=0 if on else None)


def _places(readings: Sequence[Reading]) -> Place:
    """Where a pair is, by its number among all."""

    def place(number: int) -> tuple[str, int]:
        for reading in readings:
            if number < reading.pairs:
                return " and ".join(reading.places), number + 1
            number -= reading.pairs
        raise IndexError(number)

    return place


_UNITS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(text.split()),
    "characters": len,
}


def _lengths(pairs: Iterable[Pair], side: int, unit: str) -> dict[str, float]:
    lengths = sorted(map(_UNITS[unit], (pair[side] for pair in pairs)))

    def at(share: float) -> int:
        return lengths[min(len(lengths) - 1, int(share * len(lengths)))]

    return {
        "mean": round(statistics.fmean(lengths), 1),
        "median": statistics.median(lengths),
        "95%": at(0.95),
        "99%": at(0.99),
        "longest": lengths[-1],
    }


def _languages(pairs: Sequence[Pair]) -> dict[str, dict[str, float]] | None:
    if not identification.installed():
        return None
    identifier = identification.Identifier()
    return {
        side: identifier.likeliest(identification.sample(pairs, number))
        for number, side in enumerate(Pair._fields)
    }


def _leaks(
    against: Spec | None,
    kept: Callable[[], Iterable[Pair]],
    languages: tuple[str, str] | None,
    identify: bool,
) -> list[Leak]:
    readings: list[Reading] = []
    held = [] if against is None else list(_read(against, "against", languages, readings))
    found = []
    for reading in readings:
        own, held = held[: reading.pairs], held[reading.pairs :]
        if not own:
            raise UserError(f"against: {reading.fault or nothing_in([reading])}")
        whole = [number for number, pair in enumerate(own) if all(pair)]
        scored = [own[number] for number in whole]
        leaking = [whole[n] for n in leaks(kept(), scored)]
        others = _others(reading, scored, languages) if identify and languages else None
        place = _places([reading])
        examples = [Example(*place(number), *own[number]) for number in leaking[:_EXAMPLES]]
        empty = len(own) - len(whole)
        found.append(Leak(reading, len(whole), empty, others, len(leaking), examples))
    return found


def _others(reading: Reading, pairs: Sequence[Pair], languages: tuple[str, str]) -> int:
    try:
        return identification.count_others(languages, pairs)
    except UserError as error:
        raise UserError(f"against: {reading.place}: {error}") from error
