"""Inspection of a corpus: contents, pairs that break cleaning rules, and leakage."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from a2d.errors import UserError
from a2d.text import identification
from a2d.text.cleaning import DUPLICATES, make_rules
from a2d.text.corpus import Spec, readers
from a2d.text.gists import gist
from a2d.text.held_out import leaks
from a2d.text.pairs import Pair
from a2d.text.reading import ReadingReport, no_pairs_message
from a2d.text.storage import StoredPairs, select

_MAX_EXAMPLES = 3
"""Examples of pairs that break a rule, or leak."""

_DEFAULTS_WHEN_OFF: dict[str, Any] = {"min_letters": 0.5, "drop_copies": True, "consistent": True}
"""Settings by which the inspection counts pairs under rules that are off."""

RULE_SETTINGS = {
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
"""Rule → setting that switches it on; None: the rule is always on."""


@dataclass(frozen=True)
class Example:
    """Example of a pair.

    Attributes:
        place: file of the pair.
        number: position among the pairs read from the file, from 1.
        source: source text.
        target: target text.
    """

    place: str
    number: int
    source: str
    target: str


@dataclass
class RuleCounts:
    """Counts of pairs that break a rule.

    Attributes:
        setting: key and value of the rule's setting, as in `max_words=250`; "" if it has none.
        breaking: pairs that break the rule, whatever other rules they break. Pairs with an empty
            side break only that rule.
        dropped: pairs that cleaning drops under the rule, each under the first rule it breaks; None
            if the rule is off.
        examples: the first pairs that break it.
    """

    setting: str
    breaking: int = 0
    dropped: int | None = None
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Leakage:
    """Held-out pairs of which a side also occurs in the cleaned corpus.

    Attributes:
        reading: counts of what was read from the held-out corpus.
        pairs: pairs with two sides; scores leave out the others.
        empty: pairs with an empty side.
        others: pairs with a side that looks like another language; None if not checked.
        leaking: pairs of which a side occurs.
        examples: the first of these.
    """

    reading: ReadingReport
    pairs: int
    empty: int
    others: int | None
    leaking: int
    examples: list[Example]


@dataclass(frozen=True)
class Inspection:
    """Result of `inspect`.

    Attributes:
        files: counts of each file, or pair of aligned files.
        pairs: number of pairs read from all files.
        lengths: side → unit (`words`, `characters`) → mean, median, 95%, 99%, longest.
        languages: side → shares of the texts of 20 characters or more by the language they look
            like; None if no identifier is installed.
        rules: counts by rule. `near duplicates` are counted even if `deduplicate` is not `near`.
        remaining: number of pairs that cleaning keeps.
        remaining_by_file: number of pairs that cleaning keeps of each file.
        leaks: leakage of each held-out corpus.
    """

    files: list[ReadingReport]
    pairs: int
    lengths: dict[str, dict[str, dict[str, float]]]
    languages: dict[str, dict[str, float]] | None
    rules: dict[str, RuleCounts]
    remaining: int
    remaining_by_file: list[int]
    leaks: list[Leakage]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as numbers, texts, lists and dictionaries, for JSON."""
        return {
            "files": [
                _reading_dict(file) | {"kept": remaining}
                for file, remaining in zip(self.files, self.remaining_by_file, strict=True)
            ],
            "pairs": self.pairs,
            "lengths": self.lengths,
            "languages": self.languages,
            "rules": {
                name: {
                    "setting": counts.setting,
                    "breaking": counts.breaking,
                    "dropped": counts.dropped,
                    "examples": [vars(example) for example in counts.examples],
                }
                for name, counts in self.rules.items()
            },
            "kept": self.remaining,
            "leakage": [
                {
                    "path": " and ".join(leak.reading.places),
                    **_reading_dict(leak.reading),
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
    """Read a corpus, and count the pairs that break cleaning rules or leak.

    Args:
        spec: the corpus, in any form of `a2d.text.corpus.read_corpus`.
        rules: all settings of `a2d.text.cleaning.clean`.
        languages: codes of source and target.
        against: held-out corpora, in the same forms.

    Raises:
        UserError: a corpus is missing, damaged, of an unknown type, empty or in other languages.
            Files of which half of the entries are malformed are accepted.
    """
    readings: list[ReadingReport] = []
    pairs = StoredPairs(_read(spec, "data", languages, readings))
    if not pairs:
        refusals = [reading.refusal for reading in readings if reading.refusal]
        raise UserError(f"data: {refusals[0] if refusals else no_pairs_message(readings)}")
    counts, remains = _apply_rules(pairs, rules, _locator(readings))
    flags = iter(remains)
    return Inspection(
        readings,
        len(pairs),
        {
            side: {unit: _lengths(pairs, number, unit) for unit in _UNITS}
            for number, side in enumerate(Pair._fields)
        },
        _languages(pairs),
        counts,
        sum(remains),
        [sum(islice(flags, reading.pairs)) for reading in readings],
        _leaks(
            against,
            lambda: select(pairs, np.array(remains, bool)),
            languages,
            bool(rules["languages"]),
        ),
    )


def _reading_dict(reading: ReadingReport) -> dict[str, Any]:
    """Return the counts of a file for JSON."""
    return {
        "paths": reading.places,
        "pairs": reading.pairs,
        "malformed": reading.malformed,
        "malformed_examples": list(map(str, reading.faults.values())),
        "usable": reading.refusal is None,
        "left_out": dict(reading.omitted),
        "entities_unescaped": reading.entities.pairs,
        "entities_example": reading.entities.example,
        "control_characters_removed": reading.controls.pairs,
        "control_characters_example": reading.controls.example,
    }


def _read(
    spec: Spec, name: str, languages: tuple[str, str] | None, readings: list[ReadingReport]
) -> Iterator[Pair]:
    """Yield the pairs of a corpus; append the counts of each reader to `readings`."""
    try:
        for reader in readers(spec, name, languages):
            readings.append(ReadingReport(reader.places))
            yield from reader.read(readings[-1])
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


Locator = Callable[[int], tuple[str, int]]
"""Function from the index of a pair in a corpus to its file and its number there, from 1."""


def _apply_rules(
    pairs: Sequence[Pair], rules: dict[str, Any], locate: Locator
) -> tuple[dict[str, RuleCounts], bytearray]:
    """Count pairs by each rule on its own, also by rules that are off, and by cleaning as a whole.

    Returns:
        Counts by rule; for every pair, whether cleaning keeps it.
    """
    off = {key: value for key, value in _DEFAULTS_WHEN_OFF.items() if not rules[key]}
    single = {name: value for name, value in (rules | off).items() if name != "deduplicate"}
    checks = make_rules(pairs, **single).build()
    checks += [(DUPLICATES, _repetition(near=False)), (_NEAR_DUPLICATES, _repetition(near=True))]
    empty = checks[0][1]
    counts = {name: _rule_counts(name, rules, off) for name, _ in checks}
    # Cleaning looks for duplicates among the pairs that pass all other rules.
    duplicates = {True: DUPLICATES, "near": _NEAR_DUPLICATES}.get(rules["deduplicate"])
    duplicate = _repetition(near=duplicates == _NEAR_DUPLICATES)
    remains = bytearray()
    for index, pair in enumerate(pairs):
        broken = ["empty"] if empty(pair) else [name for name, breaks in checks if breaks(pair)]
        for name in broken:
            rule = counts[name]
            rule.breaking += 1
            if len(rule.examples) < _MAX_EXAMPLES:
                rule.examples.append(Example(*locate(index), *pair))
        on = (n for n in broken if n not in _DUPLICATE_RULES and counts[n].dropped is not None)
        first = next(on, None)
        if first is None and duplicates is not None and duplicate(pair):
            first = duplicates
        if first is not None:
            counts[first].dropped = (counts[first].dropped or 0) + 1
        remains.append(first is None)
    return counts, remains


_NEAR_DUPLICATES = "near duplicates"
_DUPLICATE_RULES = (DUPLICATES, _NEAR_DUPLICATES)


def _repetition(near: bool) -> Callable[[Pair], bool]:
    """Build a function that finds out whether it was called with an equal pair before."""
    seen: set[int] = set()  # hashes: texts would double memory use

    def is_repeated(pair: Pair) -> bool:
        key = hash(tuple(map(gist, pair)) if near else pair)
        if key in seen:
            return True
        seen.add(key)
        return False

    return is_repeated


def _rule_counts(name: str, rules: dict[str, Any], off: dict[str, Any]) -> RuleCounts:
    key = RULE_SETTINGS[name]
    value: object
    if name in _DUPLICATE_RULES:
        value = "near" if name == _NEAR_DUPLICATES else True
        on = rules["deduplicate"] == value
    else:
        value, on = (rules | off).get(str(key)), key not in off
    text = key or ""
    if value is not None:
        text += f"={str(value).lower()}"
    return RuleCounts(text, dropped=0 if on else None)


def _locator(readings: Sequence[ReadingReport]) -> Locator:
    """Build the function that locates pairs in the files of a corpus."""

    def locate(index: int) -> tuple[str, int]:
        for reading in readings:
            if index < reading.pairs:
                return " and ".join(reading.places), index + 1
            index -= reading.pairs
        raise IndexError(index)

    return locate


_UNITS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(text.split()),
    "characters": len,
}


def _lengths(pairs: Iterable[Pair], side: int, unit: str) -> dict[str, float]:
    lengths = sorted(map(_UNITS[unit], (pair[side] for pair in pairs)))

    def quantile(share: float) -> int:
        return lengths[min(len(lengths) - 1, int(share * len(lengths)))]

    return {
        "mean": round(statistics.fmean(lengths), 1),
        "median": statistics.median(lengths),
        "95%": quantile(0.95),
        "99%": quantile(0.99),
        "longest": lengths[-1],
    }


def _languages(pairs: Sequence[Pair]) -> dict[str, dict[str, float]] | None:
    if not identification.is_installed():
        return None
    identifier = identification.Identifier()
    return {
        side: identifier.likeliest(identification.sample(pairs, number))
        for number, side in enumerate(Pair._fields)
    }


def _leaks(
    against: Spec | None,
    cleaned_pairs: Callable[[], Sequence[Pair]],
    languages: tuple[str, str] | None,
    identify: bool,
) -> list[Leakage]:
    readings: list[ReadingReport] = []
    heldout = [] if against is None else list(_read(against, "against", languages, readings))
    results = []
    for reading in readings:
        pairs, heldout = heldout[: reading.pairs], heldout[reading.pairs :]
        if not pairs:
            raise UserError(f"against: {reading.refusal or no_pairs_message([reading])}")
        complete = [index for index, pair in enumerate(pairs) if all(pair)]
        scored = [pairs[index] for index in complete]
        leaking = [complete[n] for n in leaks(cleaned_pairs(), scored)]
        others = _count_others(reading, scored, languages) if identify and languages else None
        locate = _locator([reading])
        examples = [Example(*locate(index), *pairs[index]) for index in leaking[:_MAX_EXAMPLES]]
        empty = len(pairs) - len(complete)
        results.append(Leakage(reading, len(complete), empty, others, len(leaking), examples))
    return results


def _count_others(reading: ReadingReport, pairs: Sequence[Pair], languages: tuple[str, str]) -> int:
    try:
        return identification.count_other_languages(languages, pairs)
    except UserError as error:
        raise UserError(f"against: {reading.place}: {error}") from error
