"""Failures of translations that a score does not show: copies, loops, lost numbers and others.

Each rule compares a translation with its source and its reference. What the reference does, too, is
not a failure: a reference may keep a product's name untranslated, or write a number as a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from a2d.text.fixed import lacks_parts
from a2d.text.gists import gist
from a2d.text.identification import Identifier, is_installed, sample
from a2d.text.languages import base_code
from a2d.text.loops import Loops, find_loops
from a2d.text.pairs import Pair
from a2d.text.scripts import count_scripts, is_unspaced

COPIED = 0.9
"""A translation is a copy if it is at least so similar to its source (`difflib`'s ratio)."""
_LONG, _SHORT = 2.5, 0.4
"""Ratios of a translation's length to its reference's from which it is too long or too short."""
_SLACK = 15
"""Characters that a length may differ in any case: short texts vary more."""
_MIN_UNSPACED = 4
"""Shorter sources in scripts without spaces are treated as single words."""
_COMPARED = 1000
"""Copies of longer texts are judged by so many words, or characters, at the beginning."""
_MIN_KNOWN = 0.5
"""Languages are judged if at least this share of the references is identified as the target's."""
_RARE_SCRIPT = 0.001
"""References practically never use a script with at most this share of their letters."""
_MIN_LETTERS = 20
"""Scripts are judged if the references have at least so many letters."""
_FEWEST_LETTERS = {"LATIN": 4, "CJK": 1, "KANA": 1, "HANGUL": 1}
"""Fewest letters of a script, by name, that are judged: `km` and `USB` are written everywhere."""

_HAS_WORDS = re.compile(r"[^\W_]").search


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
    return not _HAS_WORDS(segment.hypothesis) and bool(_HAS_WORDS(segment.reference))


def is_copied(segment: Segment) -> bool:
    """Return whether a translation is nearly its source, and its reference is not."""
    source, reference, hypothesis = map(gist, segment)
    if not re.search(r"[^\W\d_]", segment.hypothesis):
        return False
    short = len(source) < _MIN_UNSPACED if is_unspaced(source) else len(source.split()) < 2
    if short:  # a single word may be a name
        return hypothesis == source != reference and len(source) > 3
    return _similar(source, hypothesis) and not _similar(source, reference)


def is_repetitive(segment: Segment) -> bool:
    """Return whether a translation has a loop that is longer than those of source and reference."""
    loops = find_loops(segment.hypothesis)
    if not loops.exist:
        return False
    both = find_loops(segment.source), find_loops(segment.reference)
    return loops.exceed(Loops(*map(max, *both)))


def lacks_fixed_parts(segment: Segment) -> bool:
    """Return whether numbers or placeholders that source and reference share are missing."""
    return lacks_parts(*segment)


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
        "words, phrases, syllables or signs in succession, unlike in source and reference",
        is_repetitive,
    ),
    "fixed_parts": Failure(
        "lost number or placeholder",
        "a number, placeholder, tag or address that source and reference share is missing",
        lacks_fixed_parts,
    ),
    "long": Failure("too long", f"more than {_LONG:g} times as long as the reference", is_too_long),
    "short": Failure(
        "too short", f"less than {_SHORT:g} times as long as the reference", is_too_short
    ),
}
"""Kinds of failures by name, without `LANGUAGE`, which needs the languages."""

LANGUAGE, WRONG_SCRIPT = "language", "wrong script"
"""The kind of failure, and its title where only scripts can be judged."""


def failure_kinds(pair: tuple[str, str] | None, references: Sequence[str]) -> dict[str, Failure]:
    """List the kinds of failures that can be judged.

    Args:
        pair: codes of source and target; None if they are unknown.
        references: the references, which show the target's scripts and whether the identifier knows
            the target language.

    Returns:
        Kinds by name: all of `FAILURES`; and `LANGUAGE`, which is called "wrong script" where only
        scripts can be judged, because the language identifier is not installed or does not know the
        target language.
    """
    uses_other_script = _script_rule(references)
    description = "letters mostly of a script that the references do not use"
    wrong_script = Failure(WRONG_SCRIPT, description, uses_other_script)
    kinds = dict(FAILURES) | {LANGUAGE: wrong_script}
    if pair is None or not is_installed():
        return kinds
    identifier, code = Identifier(), base_code(pair[1])
    texts = sample([Pair("", reference) for reference in references], 1)
    if not texts or identifier.likeliest(texts).get(code, 0.0) < _MIN_KNOWN:
        return kinds

    def is_other_language(segment: Segment) -> bool:
        return uses_other_script(segment) or (
            identifier.is_other(segment.hypothesis, code)
            and not identifier.is_other(segment.reference, code)
        )

    description = f"clearly not {code}, unlike the reference, or {description}"
    return kinds | {LANGUAGE: Failure("wrong language", description, is_other_language)}


def _script_rule(references: Sequence[str]) -> Callable[[Segment], bool]:
    """Build a rule that finds translations mostly in scripts that references practically never use.

    Short codes and units in Latin letters, single letters, and words of the reference are no
    failures.
    """
    scripts = count_scripts(references)
    letters = scripts.total()
    usual = {script for script, count in scripts.items() if count > _RARE_SCRIPT * letters}

    def uses_other_script(segment: Segment) -> bool:
        if letters < _MIN_LETTERS:
            return False
        counts = count_scripts([segment.hypothesis])
        others = {script: n for script, n in counts.items() if script not in usual}
        if 2 * sum(others.values()) <= counts.total():
            return False
        if not any(n >= _FEWEST_LETTERS.get(script, 2) for script, n in others.items()):
            return False
        words = re.findall(r"[^\W\d_]+", segment.hypothesis)
        return any(word not in segment.reference for word in words if _is_of(word, others))

    return uses_other_script


def _is_of(word: str, scripts: Mapping[str, int]) -> bool:
    return not scripts.keys().isdisjoint(count_scripts([word]))


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
    split = list if is_unspaced(text) else str.split
    first, second = split(text), split(other)
    if 2 * min(len(first), len(second)) < COPIED * (len(first) + len(second)):
        return False
    first, second = first[:_COMPARED], second[:_COMPARED]
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.quick_ratio() >= COPIED and matcher.ratio() >= COPIED
