"""What of a corpus is fit to learn from, and whether held-out text leaks into it."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from a2d.errors import UserError
from a2d.text.identification import language_rule
from a2d.text.pairs import Pair

_GRACE = 20
"""Characters below which ratios say little."""

Rule = tuple[str, Callable[[Pair], bool]]
Kept = TypeVar("Kept", bound=Sequence[Pair])


@dataclass(frozen=True)
class CleaningReport:
    """How many pairs `clean` read, dropped under each rule (in the rules' order) and kept."""

    read: int
    dropped: dict[str, int]
    kept: int

    def as_dict(self) -> dict[str, int]:
        """Give the counts by name, in order.

        Example:
            >>> clean([Pair("ja", "jo"), Pair("ja", "jo")])[1].as_dict()["duplicates"]
            1
        """
        return {"read": self.read, **self.dropped, "kept": self.kept}


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
    into: Callable[[Iterator[Pair]], Kept] = list,  # type: ignore[assignment]
) -> tuple[Kept, CleaningReport]:
    """Drop the pairs that teach a translator nothing or wrong things.

    A pair is counted under the first rule that it breaks, in this order.

    Args:
        pairs: The pairs; their order is kept.
        max_words: The most words, split at whitespace, that either side may have. None: any.
        max_ratio: How many times longer, in characters, the longer side may be; pairs with both
            sides under 20 characters are spared, their ratio says little. None: any.
        min_letters: The least share of letters among the characters of either side that are no
            white space. None: any.
        drop_copies: Drop pairs whose target equals their source: as a rule untranslated.
        consistent: Drop pairs whose sides differ in their numbers (however grouped) or
            placeholders (`{name}`, `%s`, `${x}`, `<b>`).
        languages: Drop pairs with a side of 20 characters or more that is clearly in another
            language than these two, by fastText's 176 languages; off with a warning for a side
            whose language it does not know well. None: any.
        deduplicate: Keep only the first of equal pairs; `near`: of pairs that are equal but for
            case, numbers, punctuation and spaces.
        into: What makes a sequence of the pairs that stay (`a2d.text.storage.StoredPairs`, where
            they do not fit into memory).

    Raises:
        UserError: A limit lets no pair stay, what tells languages is not installed, or it finds
            source and target swapped.

    Example:
        >>> kept, report = clean([Pair("ja", "jo"), Pair("nein", ""), Pair("ja", "jo")])
        >>> kept, report.dropped["empty"], report.dropped["duplicates"]
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
    kept = into(_passing(pairs, rules, dropped))
    return kept, CleaningReport(len(kept) + sum(dropped.values()), dropped, len(kept))


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
    """The rules of `clean` by name, each to be asked about all pairs in their order.

    Args:
        pairs: what it is told by whether `languages` are known well enough for a rule.
        max_words, max_ratio, min_letters, drop_copies, consistent, languages, deduplicate: as
            `clean` explains them.

    Raises:
        UserError: as `clean`.
    """
    for option, value in (("max_words", max_words), ("max_ratio", max_ratio)):
        if value is not None and not value >= 1:
            raise UserError(f"{option} is {value}: give 1 or more, or None to switch it off")
    if min_letters is not None and not 0 <= min_letters <= 1:
        raise UserError(f"min_letters is {min_letters}: give a share, between 0 and 1")
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
        rules.append(("inconsistent", lambda pair: _marks(pair.source) != _marks(pair.target)))
    if languages is not None and (rule := language_rule(languages, pairs)) is not None:
        rules.append(("language", rule))
    if deduplicate:
        rules.append(("duplicates", _duplicates(near=deduplicate == "near")))
    return rules


def _passing(pairs: Iterable[Pair], rules: list[Rule], dropped: dict[str, int]) -> Iterator[Pair]:
    for pair in pairs:
        broken = next((name for name, breaks in rules if breaks(pair)), None)
        if broken is None:
            yield pair
        else:
            dropped[broken] += 1


def overlap(train: Iterable[Pair], heldout: Iterable[Pair]) -> int:
    """Count the held-out pairs of which a side also occurs in `train`.

    Case, numbers, punctuation and spaces make no difference; empty sides do not count. Above zero,
    scores on the held-out pairs also reward memory.

    Example:
        >>> overlap([Pair("Ja!", "jo")], [Pair("ja", "haj"), Pair("nein", "ně")])
        1
    """
    return len(leaks(train, heldout))


def leaks(train: Iterable[Pair], heldout: Iterable[Pair]) -> list[int]:
    """Give the numbers, from 0, of the held-out pairs that `overlap` counts."""
    gists = [(gist(pair.source), gist(pair.target)) for pair in heldout]
    sources, targets = ({both[side] for both in gists if both[side]} for side in (0, 1))
    seen: set[tuple[int, str]] = set()  # training data may be larger than memory
    for pair in train:
        source, target = gist(pair.source), gist(pair.target)
        if source in sources:
            seen.add((0, source))
        if target in targets:
            seen.add((1, target))
    return [
        number
        for number, (source, target) in enumerate(gists)
        if (0, source) in seen or (1, target) in seen
    ]


def hold_out(
    pairs: Sequence[Pair],
    count: int,
    into: Callable[[Iterator[Pair]], Kept] = list,  # type: ignore[assignment]
) -> tuple[list[Pair], Kept]:
    """Draw pairs for validation or test, and drop from the rest what `overlap` would count.

    Args:
        pairs: the corpus.
        count: how many to draw, at random but always the same.
        into: what makes a sequence of the rest.

    Returns:
        The pairs drawn, all of different gist, and what is left to learn from; both in order.
    """
    drawn: dict[int, Pair] = {}
    sources: set[str] = set()
    targets: set[str] = set()
    for index in random.Random(0).sample(range(len(pairs)), len(pairs)):
        if len(drawn) == count:
            break
        pair = pairs[index]
        source, target = gist(pair.source), gist(pair.target)
        if source not in sources and target not in targets:
            drawn[index] = pair
            sources.add(source)
            targets.add(target)
    rest = (p for p in pairs if gist(p.source) not in sources and gist(p.target) not in targets)
    return [drawn[index] for index in sorted(drawn)], into(rest)


def _unequal(pair: Pair, ratio: float) -> bool:
    shorter, longer = sorted(map(len, pair))
    return longer >= _GRACE and longer > ratio * shorter


def _letters(text: str) -> float:
    characters = "".join(text.split())
    return sum(map(str.isalpha, characters)) / max(1, len(characters))


_PLACEHOLDER = re.compile(
    r"\$?\{[^{}]*\}+|%(?:\d+\$)?[-+#0]*+\d*+(?:\.\d+)?[a-zA-Z@]|%\(\w+\)[a-z]|</?\w[^<>]*>"
)
_NUMBER = re.compile(r"\d+(?:[.,'\u00a0\u202f ]\d{3})*(?:[.,]\d+)?")


def _marks(text: str) -> Counter[str]:
    """Placeholders and the digits of numbers, however often each."""
    found = Counter(_PLACEHOLDER.findall(text))
    rest = _PLACEHOLDER.sub(" ", text)
    return found + Counter(re.sub(r"\D", "", number) for number in _NUMBER.findall(rest))


def _duplicates(near: bool) -> Callable[[Pair], bool]:
    seen: set[int] = set()  # hashes: texts would double the memory

    def again(pair: Pair) -> bool:
        key = hash(tuple(map(gist, pair)) if near else pair)
        if key in seen:
            return True
        seen.add(key)
        return False

    return again


def gist(text: str) -> str:
    """The words of a text in lower case; the text itself where it has none."""
    return re.sub(r"[\W\d_]+", " ", text.casefold()).strip() or text
