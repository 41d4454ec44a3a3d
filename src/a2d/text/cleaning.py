"""Cleaning of parallel text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from a2d.errors import UserError
from a2d.text.fixed import differ
from a2d.text.gists import gists_of, hash_texts
from a2d.text.identification import Side, language_rule, sides_to_check
from a2d.text.pairs import Pair
from a2d.text.parts import map_parts
from a2d.text.storage import PairSequence, select

_MIN_RATIO_LENGTH = 20
"""Pairs of shorter texts, in characters, pass the ratio rule: their ratio means little."""

Rule = tuple[str, Callable[[Pair], bool]]
"""Name of a rule, and the function that finds out whether a pair breaks it."""

DUPLICATES = "duplicates"
"""Name of the last rule, which compares pairs with each other."""


@dataclass(frozen=True)
class CleaningReport:
    """Counts of pairs in `clean`.

    Attributes:
        read: number of pairs read.
        dropped: number of pairs dropped under each rule, in the order of the rules.
        remaining: number of pairs that remain.
    """

    read: int
    dropped: dict[str, int]
    remaining: int

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, in order.

        Example:
            >>> clean([Pair("ja", "jo"), Pair("ja", "jo")])[1].as_dict()["duplicates"]
            1
        """
        return {"read": self.read, **self.dropped, "kept": self.remaining}

    def plus(self, rule: str, count: int) -> CleaningReport:
        """Return the counts after dropping further pairs under a rule."""
        dropped = self.dropped | {rule: self.dropped.get(rule, 0) + count}
        return CleaningReport(self.read, dropped, self.remaining - count)


@dataclass(frozen=True)
class Rules:
    """Rules that judge every pair by itself.

    Attributes:
        max_words, max_ratio, min_letters, drop_copies, consistent: as in `clean`.
        sides: sides of which the language is checked, each with its code.
    """

    max_words: int | None
    max_ratio: float | None
    min_letters: float | None
    drop_copies: bool
    consistent: bool
    sides: tuple[Side, ...]

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            UserError: a limit is out of range.
        """
        for option in ("max_words", "max_ratio"):
            value = getattr(self, option)
            if value is not None and not value >= 1:
                raise UserError(f"{option} is {value}: give 1 or more, or None for no limit")
        if self.min_letters is not None and not 0 <= self.min_letters <= 1:
            raise UserError(f"min_letters is {self.min_letters}: give a share between 0 and 1")

    def build(self) -> list[Rule]:
        """Build the rules in their order."""
        words, ratio, letters = self.max_words, self.max_ratio, self.min_letters
        rules: list[Rule] = [("empty", lambda pair: not all(map(str.strip, pair)))]
        if words is not None:
            rules.append(("too_long", lambda pair: any(_has_more_words(t, words) for t in pair)))
        if ratio is not None:
            rules.append(("ratio", lambda pair: _unequal(pair, ratio)))
        if letters is not None:
            rules.append(("letters", lambda pair: any(_letters(t) < letters for t in pair)))
        if self.drop_copies:
            rules.append(("copies", lambda pair: pair.source == pair.target))
        if self.consistent:
            rules.append(("inconsistent", lambda pair: differ(*pair)))
        if self.sides:
            rules.append(("language", language_rule(self.sides)))
        return rules


def make_rules(
    pairs: Sequence[Pair],
    *,
    max_words: int | None,
    max_ratio: float | None,
    min_letters: float | None,
    drop_copies: bool,
    consistent: bool,
    languages: tuple[str, str] | None,
) -> Rules:
    """Choose the rules that judge every pair by itself.

    Args:
        pairs: sample that shows whether the identifier knows `languages` well enough.
        max_words, max_ratio, min_letters, drop_copies, consistent, languages: as in `clean`.

    Raises:
        UserError: as in `clean`.
    """
    sides = () if languages is None else tuple(sides_to_check(languages, pairs))
    return Rules(max_words, max_ratio, min_letters, drop_copies, consistent, sides)


def clean(
    pairs: PairSequence,
    *,
    max_words: int | None = 250,
    max_ratio: float | None = 3.0,
    min_letters: float | None = None,
    drop_copies: bool = False,
    consistent: bool = False,
    languages: tuple[str, str] | None = None,
    deduplicate: bool | Literal["near"] = True,
    processes: int = 1,
) -> tuple[PairSequence, CleaningReport]:
    """Drop pairs that are useless or harmful for training a translation model.

    A pair is counted under the first rule that it breaks, in this order.

    Args:
        pairs: The pairs; their order stays. A corpus that may exceed memory is a `StoredPairs`
            (`a2d.text.storage`).
        max_words: Most words, split at white space, of either side. None: no limit.
        max_ratio: Most characters of the longer side, as a multiple of the shorter side. Pairs with
            both sides under 20 characters pass: their ratio means little. None: no limit.
        min_letters: Minimum share of letters among the characters of either side, without white
            space. None: no limit.
        drop_copies: Drop pairs whose target equals their source: most are untranslated.
        consistent: Drop pairs whose sides differ in their numbers (however grouped, in digits of
            any script) or placeholders (`{name}`, `%s`, `${x}`, `$(X)`, `[[x]]`, `__X__`, `<b>`).
        languages: Codes of source and target. Drop pairs with a side of 20 characters or more that
            is clearly in another language, according to fastText's model of 176 languages. A side
            whose language the model does not know well is not checked, with a warning. None: no
            check.
        deduplicate: Keep only the first of equal pairs; with `near`, of pairs that differ only in
            case, numbers, punctuation and spaces.
        processes: Processes that judge a large `StoredPairs`, as in `a2d.text.parts.map_parts`.

    Returns:
        The remaining pairs, a list or stored like `pairs`, and the counts.

    Raises:
        UserError: A limit is out of range, the language identifier is not installed, or source and
            target seem to be swapped.

    Example:
        >>> remaining, report = clean([Pair("ja", "jo"), Pair("nein", ""), Pair("ja", "jo")])
        >>> remaining, report.dropped["empty"], report.dropped["duplicates"]
        ([Pair(source='ja', target='jo')], 1, 1)
    """
    rules = make_rules(
        pairs,
        max_words=max_words,
        max_ratio=max_ratio,
        min_letters=min_letters,
        drop_copies=drop_copies,
        consistent=consistent,
        languages=languages,
    )
    names = [name for name, _ in rules.build()]
    judged = list(map_parts(Judge(rules, deduplicate), pairs, processes))
    broken = np.concatenate([np.empty(0, np.uint8), *(part for part, _ in judged)])
    if deduplicate:
        hashes = np.concatenate([np.empty(0, np.uint64), *(part for _, part in judged)])
        broken[np.flatnonzero(broken == _NONE)[_repeats(hashes)]] = len(names)
        names.append(DUPLICATES)
    dropped = {name: int((broken == number).sum()) for number, name in enumerate(names)}
    remaining = select(pairs, broken == _NONE)
    return remaining, CleaningReport(len(pairs), dropped, len(remaining))


_NONE = 255
"""Number for pairs that break no rule."""


@dataclass(frozen=True)
class Judge:
    """Function that judges a part of a corpus, in any process.

    Attributes:
        rules: rules that judge every pair by itself.
        deduplicate: as in `clean`.
    """

    rules: Rules
    deduplicate: bool | Literal["near"]

    def __call__(self, pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
        """Judge pairs.

        Returns:
            The number of the first rule that each pair breaks, or `_NONE` (N,); a hash of each of
            the other pairs, which is equal for duplicates (M,), if they are looked for.
        """
        broken = np.fromiter(map(self._first_broken, pairs), np.uint8, len(pairs))
        if not self.deduplicate:
            return broken, np.empty(0, np.uint64)
        passing = [pair for pair, number in zip(pairs, broken, strict=True) if number == _NONE]
        return broken, hash_pairs(passing, near=self.deduplicate == "near")

    @cached_property
    def _breaks(self) -> list[Callable[[Pair], bool]]:
        return [breaks for _, breaks in self.rules.build()]

    def _first_broken(self, pair: Pair) -> int:
        return next((number for number, breaks in enumerate(self._breaks) if breaks(pair)), _NONE)


def hash_pairs(pairs: Sequence[Pair], *, near: bool) -> np.ndarray:
    """Return a 64-bit hash of each pair (N,), equal for duplicates or, with `near`, near ones."""
    if near:
        sources, targets = gists_of(pairs).T
    else:
        sources, targets = (hash_texts(pair[side] for pair in pairs) for side in (0, 1))
    combined: np.ndarray = sources * np.uint64(3) + targets
    return combined


def _repeats(hashes: np.ndarray) -> np.ndarray:
    """Return the indices of all but the first of equal numbers."""
    repeats = np.ones(len(hashes), bool)
    repeats[np.unique(hashes, return_index=True)[1]] = False
    return np.flatnonzero(repeats)


def _has_more_words(text: str, limit: int) -> bool:
    return len(text) > 2 * limit and len(text.split()) > limit  # splitting takes longer


def _unequal(pair: Pair, ratio: float) -> bool:
    shorter, longer = sorted(map(len, pair))
    return longer >= _MIN_RATIO_LENGTH and longer > ratio * shorter


def _letters(text: str) -> float:
    characters = "".join(text.split())
    return sum(map(str.isalpha, characters)) / max(1, len(characters))
