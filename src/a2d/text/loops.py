"""Loops: words, phrases, syllables and signs that occur several times in succession."""

from __future__ import annotations

import re
from operator import eq
from typing import NamedTuple

from a2d.text.scripts import UNSPACED, is_unspaced

MIN_REPEATS = 3
"""Words are a loop if they occur at least so often in succession."""
PHRASE, UNSPACED_PHRASE = 4, 8
"""Fewest words, and characters of scripts without spaces, that are a loop if they occur twice."""
SIGNS = 8
"""Shortest run of one letter or one sign that is a loop."""
SPACED_SIGNS = 4
"""Shortest run of one sign with spaces between that is a loop."""
_MAX_COMPARISONS = 4_000_000
"""Comparisons of tokens in one text: very long texts are searched for short loops only."""

# No \w: vowel signs of Indic scripts would end words.
_SIGN = "!-/:-@\\[-`{-~¡-©«-±´¶-¸»-¿×÷‐-⁞₠-₿←-⯿、-〄〈-〠！-／：-＠［-｀｛-･،؛؟।॥"
_TOKEN = re.compile(f"[{UNSPACED}]|[^\\s{_SIGN}{UNSPACED}]+")
_SYLLABLES = re.compile(rf"([^\W\d_{UNSPACED}]{{2,12}}?)\1{{2,}}")
_LETTERS = re.compile(rf"([^\W\d_])\1{{{SIGNS - 1},}}")
_SIGNS = re.compile(rf"([^\w\s]|_)(?:\1{{{SIGNS - 1},}}|(?:\s\1){{{SPACED_SIGNS - 1},}})")


class Loops(NamedTuple):
    """Longest loops of a text.

    Attributes:
        words: repeats of the most repeated words or syllables; from `MIN_REPEATS` on a loop.
        phrases: repeats of the most repeated sequence of at least `PHRASE` words; from 2 on a loop.
        signs: quarter of the longest run of signs; from 1 on a loop.
    """

    words: int
    phrases: int
    signs: int

    @property
    def exist(self) -> bool:
        """Whether one of them is a loop."""
        return self.words >= MIN_REPEATS or self.phrases >= 2 or self.signs >= 1

    def exceed(self, others: Loops) -> bool:
        """Return whether one of them is a loop, and longer than that of another text."""
        minima = Loops(MIN_REPEATS, 2, 1)
        return any(map(lambda n, least, other: n >= least and n > other, self, minima, others))


def find_loops(text: str) -> Loops:
    """Count how often parts of a text occur in succession.

    Short parts mean less: a syllable of two letters and two characters of a script without spaces
    count one repeat less, and one such character two less. A run of one letter counts a quarter of
    its length, plus one.

    Example:
        >>> find_loops("the same, the same, the same"), find_loops("Elefantantantant --------")
        (Loops(words=3, phrases=1, signs=0), Loops(words=4, phrases=1, signs=2))
    """
    folded = text.casefold()
    words, phrases = _token_loops(_TOKEN.findall(folded), is_unspaced(text))
    for run in _SYLLABLES.finditer(folded):
        words = max(words, len(run[0]) // len(run[1]) - (len(run[1]) == 2))
    words = max([words, *(len(run[0]) // 4 + 1 for run in _LETTERS.finditer(folded))])
    signs = max((len("".join(run[0].split())) // 4 for run in _SIGNS.finditer(text)), default=0)
    return Loops(words, phrases, signs)


def _token_loops(tokens: list[str], unspaced: bool) -> tuple[int, int]:
    """Return repeats of words and of phrases, of every size that the bound on time allows."""
    words = phrases = 1
    phrase = UNSPACED_PHRASE if unspaced else PHRASE
    largest = min(len(tokens) // 2, _MAX_COMPARISONS // max(1, len(tokens)))
    for size in range(1, largest + 1):
        equal = bytes(map(eq, tokens[size:], tokens))  # a token equals the one a size before it
        if b"\1" * size not in equal:
            continue
        repeats = max(map(len, equal.split(b"\0"))) // size + 1
        if size >= phrase:
            phrases = max(phrases, repeats)
        words = max(words, repeats - max(0, 3 - size) if unspaced else repeats)
    return words, phrases
