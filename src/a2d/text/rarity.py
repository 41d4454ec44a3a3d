"""How rare the words of held-out sentences are in the training data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from a2d.text.pairs import Pair
from a2d.text.parts import map_parts


def rarest_words(pairs: Sequence[Pair], training: Sequence[Pair], processes: int = 1) -> list[int]:
    """Count in training data how often the rarest word of each source occurs.

    Args:
        pairs: held-out pairs.
        training: training pairs.
        processes: number of processes, as in `map_parts`.
    """
    texts = [_words(pair.source) for pair in pairs]
    count = WordCounter(frozenset(word for words in texts for word in words))
    occurrences = Counter[str]()
    for counts in map_parts(count, training, processes):
        occurrences.update(counts)
    return [min((occurrences[word] for word in words), default=0) for words in texts]


@dataclass(frozen=True)
class WordCounter:
    """Function that counts certain words in the sources of a part of a corpus.

    Attributes:
        words: the words, in lower case.
    """

    words: frozenset[str]

    def __call__(self, pairs: Sequence[Pair]) -> Counter[str]:
        """Count the words."""
        words = _words("\n".join(pair.source for pair in pairs))
        return Counter(filter(self.words.__contains__, words))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
