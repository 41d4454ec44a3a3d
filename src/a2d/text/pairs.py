"""Sentence pairs, entries that are none, and which of them are asked for."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from a2d.errors import UserError
from a2d.quoting import escaped, quoted
from a2d.text.bounds import MARKS


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class Languages(NamedTuple):
    """Codes of source and target."""

    source: str
    target: str


class Malformed(NamedTuple):
    """An entry of a corpus that holds no pair, though it should: where, and what is wrong."""

    where: str
    problem: str

    def __str__(self) -> str:
        """One clause."""
        return escaped(f"{self.where} {self.problem}")


class Omitted(NamedTuple):
    """An entry that is left out though nothing is wrong with it: `reason` follows "12 entries"."""

    reason: str


Entries = Iterator[Pair | Malformed | Omitted]


class Keys(NamedTuple):
    """Where a file has its two texts: names (dots reach into objects), or columns from 1."""

    source: str | int
    target: str | int


class Threshold(NamedTuple):
    """Which of a file's numbers says how good a pair is, and the least that will do."""

    key: str | int
    least: float

    def judge(self, value: object, pair: Pair, where: str) -> Pair | Malformed | Omitted:
        """A pair if its score is no less."""
        try:
            nested = isinstance(value, Mapping | list)
            score = math.nan if nested else float(str(value).strip().replace(",", "."))
        except ValueError:
            score = math.nan
        if math.isnan(score):
            return Malformed(
                where, f"has {quoted(value)} as its score {quoted(self.key)}: put a number there"
            )
        return pair if score >= self.least else Omitted(f"score less than {self.least:g}")


@dataclass(frozen=True)
class Wanted:
    """Which pairs of a file are asked for.

    Attributes:
        languages: codes of source and target, for files that name languages.
        keys: where the texts are, if the user says so.
        threshold: a score that pairs must have.
    """

    languages: Languages | None = None
    keys: Keys | None = None
    threshold: Threshold | None = None


def normal(source: str, target: str) -> Pair:
    """A pair in Unicode NFC without outer whitespace and what has no width, as byte-order marks.

    Of more combining characters in a row than any language has, the rest is cut off.
    """
    return Pair(_normal(source), _normal(target))


def _normal(text: str) -> str:
    if len(text) > _LONG and not text.isascii():
        # To put them into order takes the square of their number.
        text = _marks().sub(r"\1", text)
    plain = unicodedata.normalize("NFC", text).strip()
    if plain and (plain[0] in _NO_WIDTH or plain[-1] in _NO_WIDTH):
        plain = plain.strip(_NO_WIDTH + _white_space())
    return plain


_LONG = 256
"""Characters up to which a text of combining characters alone is put into order in no time."""

_NO_WIDTH = "\ufeff\u200b\u2060"
"""Byte-order mark (inside files put together), zero-width space, word joiner."""


@cache
def _marks() -> re.Pattern[str]:
    """Combining characters in a row, more than any language has; the first group is as many."""
    combining = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.combining(c))
    return re.compile(f"([{combining}]{{{MARKS}}})[{combining}]+")


@cache
def _white_space() -> str:
    return "".join(c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace())


def needs(extra: str, error: ImportError) -> UserError:
    """What to say where an optional library is not installed."""
    return UserError(
        f"{error.name} is not installed: pip install 'align-to-distill[{extra}]' for that."
    )
