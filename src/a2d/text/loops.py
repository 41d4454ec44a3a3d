"""Loops: words, phrases, syllables and signs that occur several times in succession."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import eq
from typing import NamedTuple

from a2d.text.scripts import UNSPACED, is_unspaced

MIN_REPEATS = 3
"""Words are a loop if they occur at least so often in succession."""
PHRASE, UNSPACED_PHRASE = 4, 8
"""Fewest words, and characters of scripts without spaces, that are a loop if they occur twice, as a
sentence or with nothing but spaces between."""
SIGNS = 8
"""Shortest run of one letter or one sign that is a loop."""
SPACED_SIGNS = 4
"""Shortest run of one sign with spaces between that is a loop."""
_MAX_COMPARISONS = 4_000_000
"""Comparisons of tokens in one text: very long texts are searched for short loops only."""

# No \w: vowel signs of Indic scripts would end words.
_SIGN = "!-/:-@\\[-`{-~¡-©«-±´¶-¸»-¿÷‐-⁞₠-₿←-⯿、-〄〈-〠！-／：-＠［-｀｛-･،؛؟।॥"
_TOKEN = re.compile(f"[{UNSPACED}]|[^\\s{_SIGN}{UNSPACED}]+")
_SYLLABLES = re.compile(rf"([^\W\d_{UNSPACED}]{{2,12}}?)\1{{2,}}")
_LETTERS = re.compile(rf"([^\W\d_])\1{{{SIGNS - 1},}}")
_SIGNS = re.compile(rf"([^\w\s]|_)(?:\1{{{SIGNS - 1},}}|(?:\s\1){{{SPACED_SIGNS - 1},}})")
_SENTENCE_END = re.compile(r"[.!?…:;\n。！？：；؟।]")


class Loops(NamedTuple):
    """Longest loops of a text.

    Attributes:
        words: repeats of the most repeated words or syllables; from `MIN_REPEATS` on a loop.
        phrases: 2, which is a loop, if a sentence or phrase of at least `PHRASE` words occurs
            twice; otherwise 1.
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
        minima = MIN_REPEATS, 2, 1
        return any(
            n >= max(least, other + 1) for n, least, other in zip(self, minima, others, strict=True)
        )


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
    words, phrases = _token_loops(folded, is_unspaced(text))
    for run in _SYLLABLES.finditer(folded):
        words = max(words, len(run[0]) // len(run[1]) - (len(run[1]) == 2))
    words = max([words, *(len(run[0]) // 4 + 1 for run in _LETTERS.finditer(folded))])
    text = text.replace("…", "..")  # four are too many, two are usual in Chinese
    signs = max((len("".join(run[0].split())) // 4 for run in _SIGNS.finditer(text)), default=0)
    return Loops(words, phrases, signs)


def _token_loops(text: str, unspaced: bool) -> tuple[int, int]:
    """Return repeats of words and of phrases, of every size that the bound on time allows."""
    spans = [match.span() for match in _TOKEN.finditer(text)]
    tokens = [text[start:end] for start, end in spans]
    words = phrases = 1
    phrase = UNSPACED_PHRASE if unspaced else PHRASE
    largest = min(len(tokens) // 2, _MAX_COMPARISONS // max(1, len(tokens)))
    for size in range(1, largest + 1):
        equal = bytes(map(eq, tokens[size:], tokens))  # a token equals the one a size before it
        if b"\1" * size not in equal:
            continue
        repeats = max(map(len, equal.split(b"\0"))) // size + 1
        words = max(words, repeats - max(0, 3 - size) if unspaced else repeats)
        if repeats == 2 and size >= phrase and phrases == 1:
            phrases += any(_stands_twice(text, spans, i, size) for i in _runs(equal, size))
    return words, phrases


def _runs(equal: bytes, size: int) -> Iterator[int]:
    """Yield the places from which on a sequence of tokens occurs twice."""
    place = equal.find(b"\1" * size)
    while place >= 0:
        yield place
        place = equal.find(b"\1" * size, place + 1)


def _stands_twice(text: str, spans: list[tuple[int, int]], first: int, size: int) -> bool:
    """Return whether a phrase occurs twice without a break, or as a sentence.

    "Save the old file; the old file is kept" is neither.
    """
    second, after = first + size, first + 2 * size

    def gap(index: int) -> str:
        return text[spans[index - 1][1] : spans[index][0]]

    starts, ends = first == 0, after == len(spans)
    if not gap(second).strip() or (starts and ends):
        return True
    starts = starts or bool(_SENTENCE_END.search(gap(first)))
    ends = ends or bool(_SENTENCE_END.search(gap(after)))
    return starts and ends and bool(_SENTENCE_END.search(gap(second)))
