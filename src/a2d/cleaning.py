"""What of a corpus is fit to learn from, and whether held-out text leaks into it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from a2d.errors import UserError
from a2d.pairs import Pair

_RATIO_GRACE = 20


@dataclass(frozen=True)
class CleaningReport:
    """How many pairs `clean` read, dropped under each rule (in the rules' order) and kept."""

    read: int
    empty: int
    too_long: int
    ratio: int
    copies: int
    duplicates: int
    kept: int

    @property
    def dropped(self) -> int:
        """The number of pairs dropped under any rule."""
        return self.read - self.kept

    def as_dict(self) -> dict[str, int]:
        """Give the counts by name, in order.

        Example:
            >>> clean([Pair("ja", "jo"), Pair("ja", "jo")])[1].as_dict()["duplicates"]
            1
        """
        return asdict(self)


def clean(
    pairs: Iterable[Pair],
    *,
    max_words: int | None = 250,
    max_ratio: float | None = 3.0,
    drop_copies: bool = False,
    deduplicate: bool = True,
) -> tuple[list[Pair], CleaningReport]:
    """Drop the pairs that teach a translator nothing or wrong things.

    A pair is counted under the first rule that it breaks, in this order.

    Args:
        pairs: The pairs; their order is kept.
        max_words: The most words, split at whitespace, that either side may have. None: any.
        max_ratio: How many times longer, in characters, the longer side may be; pairs with both
            sides under 20 characters are spared, their ratio says little. None: any.
        drop_copies: Drop pairs whose target equals their source: as a rule untranslated.
        deduplicate: Keep only the first of equal pairs.

    Raises:
        UserError: `max_words` or `max_ratio` is below 1, so that no pair could stay.

    Example:
        >>> kept, report = clean([Pair("ja", "jo"), Pair("nein", ""), Pair("ja", "jo")])
        >>> kept, report.empty, report.duplicates
        ([Pair(source='ja', target='jo')], 1, 1)
    """
    for option, value in (("max_words", max_words), ("max_ratio", max_ratio)):
        if value is not None and not value >= 1:
            raise UserError(f"{option} is {value}: give 1 or more, or None to switch it off")
    counts = dict.fromkeys(("empty", "too_long", "ratio", "copies", "duplicates"), 0)
    kept: list[Pair] = []
    seen: set[Pair] = set()
    for pair in pairs:
        shorter, longer = sorted(map(len, pair))
        if not all(map(str.strip, pair)):
            counts["empty"] += 1
        elif max_words is not None and any(len(side.split()) > max_words for side in pair):
            counts["too_long"] += 1
        elif max_ratio is not None and longer >= _RATIO_GRACE and longer > max_ratio * shorter:
            counts["ratio"] += 1
        elif drop_copies and pair.source == pair.target:
            counts["copies"] += 1
        elif deduplicate and pair in seen:
            counts["duplicates"] += 1
        else:
            kept.append(pair)
            seen.add(pair)
    read = len(kept) + sum(counts.values())
    return kept, CleaningReport(read=read, **counts, kept=len(kept))


def overlap(train: Iterable[Pair], heldout: Iterable[Pair]) -> int:
    """Count the held-out pairs whose source also occurs, exactly so, in `train`.

    Above zero, scores on the held-out pairs also reward memory.

    Example:
        >>> overlap([Pair("ja", "jo")], [Pair("ja", "haj"), Pair("nein", "ně")])
        1
    """
    sources = {pair.source for pair in train}
    return sum(pair.source in sources for pair in heldout)
