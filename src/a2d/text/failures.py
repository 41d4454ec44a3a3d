"""Failures of translations that a score does not show: copies, loops, lost numbers and others.

Each rule compares a translation with its source and its reference. What the reference does, too, is
not a failure: a reference may keep a product's name untranslated, or write a number as a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from a2d.text.cleaning import fixed_parts, gist
from a2d.text.identification import Identifier, is_installed, sample
from a2d.text.languages import base_code
from a2d.text.pairs import Pair

COPIED = 0.9
"""A translation is a copy if it is at least so similar to its source (`difflib`'s ratio)."""
_LONG, _SHORT = 2.5, 0.4
"""Ratios of a translation's length to its reference's from which it is too long or too short."""
_SLACK = 15
"""Characters that a length may differ in any case: short texts vary more."""
_REPEATS = 3
"""A loop is a sequence of words that occurs at least so often in succession."""
_MIN_KNOWN = 0.5
"""Languages are judged if at least this share of the references is identified as the target's."""


class Segment(NamedTuple):
    """A translated sentence.

    Attributes:
        source: text that was translated.
        reference: human translation.
        hypothesis: translation to judge.
    """

    source: str
    reference: str
    hypothesis: str


class Failure(NamedTuple):
    """A kind of failure.

    Attributes:
        title: name in tables.
        description: what counts, in one sentence.
        occurs: rule that judges a segment.
    """

    title: str
    description: str
    occurs: Callable[[Segment], bool]


def is_empty(segment: Segment) -> bool:
    """Return whether a translation has no letters and digits, but its reference has some."""
    return not re.search(r"\w", segment.hypothesis) and bool(re.search(r"\w", segment.reference))


def is_copied(segment: Segment) -> bool:
    """Return whether a translation is nearly its source, and its reference is not."""
    source, reference, hypothesis = map(gist, segment)
    if not re.search(r"[^\W\d_]", segment.hypothesis):
        return False
    if len(source.split()) < 2:  # a single word may be a name
        return hypothesis == source != reference and len(source) > 3
    return _similar(source, hypothesis) and not _similar(source, reference)


def is_repetitive(segment: Segment) -> bool:
    """Return whether a translation has a loop that is longer than those of source and reference."""
    repeats = longest_loop(segment.hypothesis)
    usual = max(longest_loop(segment.source), longest_loop(segment.reference))
    return repeats >= _REPEATS and repeats > usual


def longest_loop(text: str) -> int:
    """Count how often the most repeated sequence of one to four words occurs in succession.

    A run of one character within a word counts a quarter of its length.

    Example:
        >>> longest_loop("the same, the same, the same"), longest_loop("once")
        (3, 1)
    """
    words = re.findall(r"\w+", text.casefold())
    longest = max((len(run[0]) // 4 for run in re.finditer(r"(\w)\1{7,}", text)), default=1)
    for size in range(1, 5):
        same = 0
        for index in range(size, len(words)):
            same = same + 1 if words[index] == words[index - size] else 0
            longest = max(longest, same // size + 1)
    return longest


def lacks_fixed_parts(segment: Segment) -> bool:
    """Return whether numbers or placeholders that source and reference share are missing."""
    source, reference, hypothesis = map(fixed_parts, segment)
    return bool((source & reference) - hypothesis)


def is_too_long(segment: Segment) -> bool:
    """Return whether a translation is far longer than its reference."""
    return len(segment.hypothesis) > _LONG * len(segment.reference) + _SLACK


def is_too_short(segment: Segment) -> bool:
    """Return whether a translation is far shorter than its reference, but not empty."""
    length = len(segment.hypothesis)
    return length < _SHORT * len(segment.reference) - _SLACK / 3 and not is_empty(segment)


FAILURES: Mapping[str, Failure] = {
    "empty": Failure("empty", "no words, although the reference has some", is_empty),
    "copied": Failure("copied source", "nearly the source, unlike the reference", is_copied),
    "repetition": Failure(
        "repetition",
        f"words that occur {_REPEATS} times or more in succession, unlike in source and reference",
        is_repetitive,
    ),
    "fixed_parts": Failure(
        "lost number or placeholder",
        "a number, placeholder or tag that source and reference share is missing",
        lacks_fixed_parts,
    ),
    "long": Failure("too long", f"more than {_LONG:g} times as long as the reference", is_too_long),
    "short": Failure(
        "too short", f"less than {_SHORT:g} times as long as the reference", is_too_short
    ),
}
"""Kinds of failures by name, without `LANGUAGE`, which needs the languages."""

LANGUAGE = "language"


def failure_kinds(pair: tuple[str, str] | None, references: Sequence[str]) -> dict[str, Failure]:
    """List the kinds of failures that can be judged.

    Args:
        pair: codes of source and target; None if they are unknown.
        references: the references, which show whether the identifier knows the target language.

    Returns:
        Kinds by name: all of `FAILURES`; and `LANGUAGE` if the language identifier is installed and
        knows the target language.
    """
    kinds = dict(FAILURES)
    if pair is None or not is_installed():
        return kinds
    identifier, code = Identifier(), base_code(pair[1])
    texts = sample([Pair("", reference) for reference in references], 1)
    if not texts or identifier.likeliest(texts).get(code, 0.0) < _MIN_KNOWN:
        return kinds

    def is_other_language(segment: Segment) -> bool:
        return identifier.is_other(segment.hypothesis, code) and not identifier.is_other(
            segment.reference, code
        )

    description = f"clearly not {code}, unlike the reference"
    return kinds | {LANGUAGE: Failure("wrong language", description, is_other_language)}


def find_failures(
    sources: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    kinds: Mapping[str, Failure],
) -> dict[str, list[int]]:
    """Find the failures of a system.

    Args:
        sources: texts that were translated.
        references: a reference each.
        hypotheses: the system's translation of each.
        kinds: kinds of failures to look for (`failure_kinds`).

    Returns:
        Kind → indices of the segments with this failure.
    """
    segments = list(map(Segment, sources, references, hypotheses))
    return {
        name: [index for index, segment in enumerate(segments) if kind.occurs(segment)]
        for name, kind in kinds.items()
    }


def _similar(text: str, other: str) -> bool:
    matcher = SequenceMatcher(None, text.split(), other.split(), autojunk=False)
    return matcher.ratio() >= COPIED
