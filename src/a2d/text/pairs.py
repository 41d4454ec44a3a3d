"""Sentence pairs, other entries of a corpus, and the selection of pairs from a file."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from a2d.quoting import escaped, quoted
from a2d.text.bounds import MAX_COMBINING


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class Languages(NamedTuple):
    """Codes of the source and target languages."""

    source: str
    target: str


class Malformed(NamedTuple):
    """Entry of a corpus that should hold a pair but does not.

    Attributes:
        where: file and line, as messages name them.
        problem: what is wrong and how to correct it; follows `where` in a sentence.
    """

    where: str
    problem: str

    def __str__(self) -> str:
        """Return place and problem as one clause."""
        return escaped(f"{self.where} {self.problem}")


class Omitted(NamedTuple):
    """Valid entry that is left out; `reason` follows "12 entries" in a message."""

    reason: str


Entries = Iterator[Pair | Malformed | Omitted]


class Keys(NamedTuple):
    """Location of the two texts in a file: names (dots reach into objects) or columns, from 1."""

    source: str | int
    target: str | int


class Threshold(NamedTuple):
    """Minimum of the score that a file has for each pair.

    Attributes:
        key: name or column (from 1) of the score.
        minimum: pairs with a lower score are omitted.
    """

    key: str | int
    minimum: float

    def judge(self, value: object, pair: Pair, where: str) -> Pair | Malformed | Omitted:
        """Return the pair if its score reaches the minimum, else why it is left out."""
        try:
            nested = isinstance(value, Mapping | list)
            score = math.nan if nested else float(str(value).strip().replace(",", "."))
        except ValueError:
            score = math.nan
        if math.isnan(score):
            problem = f"has {quoted(value)} as its score {quoted(self.key)}: write a number"
            return Malformed(where, problem)
        return pair if score >= self.minimum else Omitted(f"with a score below {self.minimum:g}")


@dataclass(frozen=True)
class Selection:
    """Selection of pairs from a file.

    Attributes:
        languages: codes of source and target, for files that name languages.
        keys: location of the texts, if the user names it.
        threshold: minimum score of a pair, if the user sets one.
    """

    languages: Languages | None = None
    keys: Keys | None = None
    threshold: Threshold | None = None


def normal_pair(source: str, target: str) -> Pair:
    """Build a pair of normalised texts.

    Texts are brought to Unicode NFC; outer white space and characters without width (such as
    byte-order marks) are stripped. Combining characters in a row beyond what any language has are
    cut off.
    """
    return Pair(_normalise(source), _normalise(target))


def _normalise(text: str) -> str:
    if str.isascii(text):  # a TypeError names the reader of a plugin that gives something else
        return text.strip()
    if len(text) > _MIN_CUT:
        # Cut long runs first: normalisation sorts combining characters in quadratic time.
        text = _combining_runs().sub(r"\1", text)
    plain = unicodedata.normalize("NFC", text).strip()
    if plain and (plain[0] in _ZERO_WIDTH or plain[-1] in _ZERO_WIDTH):
        plain = plain.strip(_ZERO_WIDTH + _white_space())
    return plain


_MIN_CUT = 256
"""Texts up to this length are not cut: normalising them is fast, whatever they contain."""

_ZERO_WIDTH = "\ufeff\u200b\u2060"
"""Byte-order mark (left inside by joining files), zero-width space, word joiner."""


@cache
def _combining_runs() -> re.Pattern[str]:
    """Match runs of combining characters longer than in any language; group 1 is what remains."""
    combining = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.combining(c))
    return re.compile(f"([{combining}]{{{MAX_COMBINING}}})[{combining}]+")


@cache
def _white_space() -> str:
    return "".join(c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace())
