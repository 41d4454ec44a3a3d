"""Gists of texts: equal for texts that differ only in case, numbers, punctuation and spaces."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import xxhash

from a2d.text.pairs import Pair
from a2d.text.parts import map_parts
from a2d.text.storage import StoredPairs

_OTHERS = re.compile(r"[\W\d_]+")
"""Characters that are not part of a gist."""

_SPACE, _END = ord(" "), 0


def gist(text: str) -> str:
    """Return the words of a text in lower case, or the text itself if it has no words.

    Example:
        >>> gist("Yes, 3 files!")
        'yes files'
    """
    return _OTHERS.sub(" ", text.casefold()).strip() or text


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """Return a 64-bit hash of each text (N,), which is the same in every process."""
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), np.uint64)


def hash_gists(texts: Sequence[str]) -> np.ndarray:
    """Return a hash of the gist of each text (N,), several times as fast as one by one."""
    joined = "\0".join(texts)
    if not texts or joined.count("\0") >= len(texts):  # a text contains the separator
        return hash_texts(map(gist, texts))
    folded = joined.casefold().encode("utf-32-le", "surrogatepass")
    codes = _kept_characters()[np.frombuffer(folded, np.uint32)]
    spaces, starts = codes == _SPACE, np.concatenate([[True], (codes <= _SPACE)[:-1]])
    codes = codes[~(spaces & starts)]  # of several spaces the first; none where a text starts
    ends = np.concatenate([(codes == _END)[1:], [True]])
    codes = codes[~((codes == _SPACE) & ends)]
    gists = codes.tobytes().decode("utf-32-le", "surrogatepass").split("\0")
    return hash_texts(words or text for words, text in zip(gists, texts, strict=True))


@cache
def _kept_characters() -> np.ndarray:
    """Code of what replaces each character in a gist (1,114,112): itself, or a space."""
    codes = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    everything = codes.tobytes().decode("utf-32-le", "surrogatepass")
    for match in _OTHERS.finditer(everything):
        codes[match.start() : match.end()] = _SPACE
    codes[_END] = _END
    return codes


def gists_of(pairs: Sequence[Pair]) -> np.ndarray:
    """Return the hashes of the gists of both sides of each pair (N, 2)."""
    return np.stack([hash_gists([pair[side] for pair in pairs]) for side in (0, 1)], axis=1)


def gist_hashes(pairs: Sequence[Pair], processes: int = 1) -> np.ndarray:
    """Return `gists_of` a large corpus; a `StoredPairs` keeps them.

    Args:
        pairs: the corpus.
        processes: number of processes, as in `map_parts`.
    """
    if isinstance(pairs, StoredPairs) and pairs.gists is not None:
        return pairs.gists
    empty = np.empty((0, 2), np.uint64)
    hashes = np.concatenate([empty, *map_parts(gists_of, pairs, processes)])
    if isinstance(pairs, StoredPairs):
        pairs.gists = hashes
    return hashes
