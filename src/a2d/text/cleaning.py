"""Cleaning of parallel text, and detection of held-out text that leaks into training data."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from a2d.errors import UserError
from a2d.text.fixed import differ
from a2d.text.identification import language_rule
from a2d.text.pairs import Pair

_MIN_RATIO_LENGTH = 20
"""Pairs of shorter texts, in characters, pass the ratio rule: their ratio means little."""

Rule = tuple[str, Callable[[Pair], bool]]
PairSequence = TypeVar("PairSequence", bound=Sequence[Pair])


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


def clean(
    pairs: Iterable[Pair],
    *,
    max_words: int | None = 250,
    max_ratio: float | None = 3.0,
    min_letters: float | None = None,
    drop_copies: bool = False,
    consistent: bool = False,
    languages: tuple[str, str] | None = None,
    deduplicate: bool | Literal["near"] = True,
    into: Callable[[Iterator[Pair]], PairSequence] = list,  # type: ignore[assignment]
) -> tuple[PairSequence, CleaningReport]:
    """Drop pairs that are useless or harmful for training a translation model.

    A pair is counted under the first rule that it breaks, in this order.

    Args:
        pairs: The pairs; their order stays.
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
        into: Builder of the sequence of remaining pairs (`a2d.text.storage.StoredPairs`, if they do
            not fit into memory).

    Returns:
        The remaining pairs, and the counts.

    Raises:
        UserError: A limit is out of range, the language identifier is not installed, or source and
            target seem to be swapped.

    Example:
        >>> remaining, report = clean([Pair("ja", "jo"), Pair("nein", ""), Pair("ja", "jo")])
        >>> remaining, report.dropped["empty"], report.dropped["duplicates"]
        ([Pair(source='ja', target='jo')], 1, 1)
    """
    if languages is not None and not isinstance(pairs, Sequence):
        pairs = list(pairs)
    rules = make_rules(
        pairs if isinstance(pairs, Sequence) else (),
        max_words=max_words,
        max_ratio=max_ratio,
        min_letters=min_letters,
        drop_copies=drop_copies,
        consistent=consistent,
        languages=languages,
        deduplicate=deduplicate,
    )
    dropped = {name: 0 for name, _ in rules}
    remaining = into(_filter(pairs, rules, dropped))
    return remaining, CleaningReport(
        len(remaining) + sum(dropped.values()), dropped, len(remaining)
    )


def make_rules(
    pairs: Sequence[Pair],
    *,
    max_words: int | None,
    max_ratio: float | None,
    min_letters: float | None,
    drop_copies: bool,
    consistent: bool,
    languages: tuple[str, str] | None,
    deduplicate: bool | Literal["near"],
) -> list[Rule]:
    """Build the rules of `clean`, by name. Each must be called once for every pair, in order.

    Args:
        pairs: sample that shows whether the identifier knows `languages` well enough.
        max_words, max_ratio, min_letters, drop_copies, consistent, languages, deduplicate: as in
            `clean`.

    Raises:
        UserError: as in `clean`.
    """
    for option, value in (("max_words", max_words), ("max_ratio", max_ratio)):
        if value is not None and not value >= 1:
            raise UserError(f"{option} is {value}: give 1 or more, or None for no limit")
    if min_letters is not None and not 0 <= min_letters <= 1:
        raise UserError(f"min_letters is {min_letters}: give a share between 0 and 1")
    rules: list[Rule] = [("empty", lambda pair: not all(map(str.strip, pair)))]
    if max_words is not None:
        rules.append(("too_long", lambda pair: any(len(t.split()) > max_words for t in pair)))
    if max_ratio is not None:
        rules.append(("ratio", lambda pair: _unequal(pair, max_ratio)))
    if min_letters is not None:
        rules.append(("letters", lambda pair: any(_letters(t) < min_letters for t in pair)))
    if drop_copies:
        rules.append(("copies", lambda pair: pair.source == pair.target))
    if consistent:
        rules.append(("inconsistent", lambda pair: differ(*pair)))
    if languages is not None and (rule := language_rule(languages, pairs)) is not None:
        rules.append(("language", rule))
    if deduplicate:
        rules.append(("duplicates", _duplicates(near=deduplicate == "near")))
    return rules


def _filter(pairs: Iterable[Pair], rules: list[Rule], dropped: dict[str, int]) -> Iterator[Pair]:
    for pair in pairs:
        rule = next((name for name, breaks in rules if breaks(pair)), None)
        if rule is None:
            yield pair
        else:
            dropped[rule] += 1


def overlap(train: Iterable[Pair], heldout: Iterable[Pair]) -> int:
    """Count held-out pairs of which the source or the target also occurs in `train`.

    Case, numbers, punctuation and spaces are ignored; empty sides do not count. If there are such
    pairs, scores on the held-out pairs also reward memorisation.

    Example:
        >>> overlap([Pair("Ja!", "jo")], [Pair("ja", "haj"), Pair("nein", "ně")])
        1
    """
    return len(leaks(train, heldout))


def leaks(train: Iterable[Pair], heldout: Iterable[Pair]) -> list[int]:
    """Return the indices, from 0, of the held-out pairs that `overlap` counts."""
    gists = [(gist(pair.source), gist(pair.target)) for pair in heldout]
    sources, targets = ({both[side] for both in gists if both[side]} for side in (0, 1))
    seen: set[tuple[int, str]] = set()  # held-out gists only: training data may exceed memory
    for pair in train:
        source, target = gist(pair.source), gist(pair.target)
        if source in sources:
            seen.add((0, source))
        if target in targets:
            seen.add((1, target))
    return [
        index
        for index, (source, target) in enumerate(gists)
        if (0, source) in seen or (1, target) in seen
    ]


def hold_out(
    pairs: Sequence[Pair],
    count: int,
    into: Callable[[Iterator[Pair]], PairSequence] = list,  # type: ignore[assignment]
) -> tuple[list[Pair], PairSequence]:
    """Draw pairs for validation or test, and drop from the others those that `overlap` would count.

    Args:
        pairs: the corpus.
        count: number of pairs to draw, at random with a fixed seed.
        into: builder of the sequence of remaining pairs.

    Returns:
        The drawn pairs, all of different gist, and the remaining pairs for training; both in order.
    """
    heldout: dict[int, Pair] = {}
    sources: set[str] = set()
    targets: set[str] = set()
    for index in random.Random(0).sample(range(len(pairs)), len(pairs)):
        if len(heldout) == count:
            break
        pair = pairs[index]
        source, target = gist(pair.source), gist(pair.target)
        if source not in sources and target not in targets:
            heldout[index] = pair
            sources.add(source)
            targets.add(target)
    rest = (p for p in pairs if gist(p.source) not in sources and gist(p.target) not in targets)
    return [heldout[index] for index in sorted(heldout)], into(rest)


def _unequal(pair: Pair, ratio: float) -> bool:
    shorter, longer = sorted(map(len, pair))
    return longer >= _MIN_RATIO_LENGTH and longer > ratio * shorter


def _letters(text: str) -> float:
    characters = "".join(text.split())
    return sum(map(str.isalpha, characters)) / max(1, len(characters))


def _duplicates(near: bool) -> Callable[[Pair], bool]:
    seen: set[int] = set()  # hashes: texts would double memory use

    def is_duplicate(pair: Pair) -> bool:
        key = hash(tuple(map(gist, pair)) if near else pair)
        if key in seen:
            return True
        seen.add(key)
        return False

    return is_duplicate


def gist(text: str) -> str:
    """Return the words of a text in lower case, or the text itself if it has no words."""
    return re.sub(r"[\W\d_]+", " ", text.casefold()).strip() or text
