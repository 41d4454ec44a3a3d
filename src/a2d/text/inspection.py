"""What a corpus holds, and what cleaning would drop of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from a2d.errors import UserError
from a2d.text import identification
from a2d.text.cleaning import leaks, make_rules
from a2d.text.corpus import Spec, parts
from a2d.text.pairs import Pair
from a2d.text.reading import Reading
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
    """Held-out pairs of which a side also occurs in a corpus."""

    place: str
    pairs: int
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
        leaks: of every held-out corpus.
    """

    files: list[Reading]
    pairs: int
    lengths: dict[str, dict[str, dict[str, float]]]
    languages: dict[str, dict[str, float]] | None
    rules: dict[str, Finding]
    kept: int
    leaks: list[Leak]

    def as_dict(self) -> dict[str, Any]:
        """The same as numbers, texts, lists and dictionaries, for JSON."""
        return {
            "files": [
                {
                    "paths": file.places,
                    "pairs": file.pairs,
                    "malformed": file.malformed,
                    "malformed_examples": list(map(str, file.faults)),
                    "usable": file.fault is None,
                    "left_out": dict(file.omitted),
                    "entities_unescaped": file.mended,
                    "entities_example": file.mended_example,
                }
                for file in self.files
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
                    "path": leak.place,
                    "pairs": leak.pairs,
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
        raise UserError(f"data: {faults[0]}" if faults else "data: the files hold no pair")
    findings = _judge(pairs, rules, _places(readings))
    return Inspection(
        readings,
        len(pairs),
        {
            side: {unit: _lengths(pairs, number, unit) for unit in _UNITS}
            for number, side in enumerate(Pair._fields)
        },
        _languages(pairs),
        findings,
        len(pairs) - sum(found.dropped or 0 for found in findings.values()),
        _leaks(against, pairs, languages),
    )


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


def _judge(pairs: Sequence[Pair], rules: dict[str, Any], place: Place) -> dict[str, Finding]:
    """Judge every pair by each rule on its own, also by those that are off, and as `clean` does."""
    off = {key: value for key, value in _SUGGESTED.items() if not rules[key]}
    told = make_rules(pairs, **rules | off | {"deduplicate": True})
    near = make_rules(pairs, **rules | {"languages": None, "deduplicate": "near"})
    told.append((_NEAR, dict(near)["duplicates"]))
    empty = told[0][1]
    findings = {name: _finding(name, rules, off) for name, _ in told}
    # Cleaning asks about repetitions of what the other rules let pass.
    duplicates = {True: "duplicates", "near": _NEAR}.get(rules["deduplicate"])
    fresh = make_rules(pairs, **rules | {"languages": None})[-1][1]
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
    return findings


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
    against: Spec | None, pairs: Iterable[Pair], languages: tuple[str, str] | None
) -> list[Leak]:
    readings: list[Reading] = []
    held = [] if against is None else list(_read(against, "against", languages, readings))
    found = []
    for reading in readings:
        own, held = held[: reading.pairs], held[reading.pairs :]
        if not own:
            raise UserError(f"against: {' and '.join(reading.places)} holds no pair")
        place, leaking = _places([reading]), leaks(pairs, own)
        examples = [Example(*place(number), *own[number]) for number in leaking[:_EXAMPLES]]
        found.append(Leak(" and ".join(reading.places), len(own), len(leaking), examples))
    return found
