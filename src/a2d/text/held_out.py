"""Held-out text: its choice, and detection of what leaks into training data."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from a2d.text.gists import gist_hashes, gists_of
from a2d.text.pairs import Pair
from a2d.text.storage import PairSequence, select


def overlap(train: Sequence[Pair], heldout: Sequence[Pair], processes: int = 1) -> int:
    """Count held-out pairs of which the source or the target also occurs in `train`.

    Case, numbers, punctuation and spaces are ignored; empty sides do not count. If there are such
    pairs, scores on the held-out pairs also reward memorisation.

    Args:
        train: training data.
        heldout: pairs of a held-out set.
        processes: processes that read the training data (`a2d.text.parts.map_parts`).

    Example:
        >>> overlap([Pair("Ja!", "jo")], [Pair("ja", "haj"), Pair("nein", "ně")])
        1
    """
    return len(leaks(train, heldout, processes))


def leaks(train: Sequence[Pair], heldout: Sequence[Pair], processes: int = 1) -> list[int]:
    """Return the indices, from 0, of the held-out pairs that `overlap` counts."""
    known, looked_for = gist_hashes(train, processes), gists_of(heldout)
    filled = np.array([list(map(bool, pair)) for pair in heldout], bool).reshape(-1, 2)
    occurs = [_occur(looked_for[:, side], known[:, side]) & filled[:, side] for side in (0, 1)]
    found: list[int] = np.flatnonzero(occurs[0] | occurs[1]).tolist()
    return found


def _occur(few: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Return which of a few numbers occur among many, without sorting those."""
    return np.isin(few, many[_are_among(many, few)])


def _are_among(many: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Return which of many numbers are among a few."""
    ordered = np.sort(few)
    if not len(ordered):
        return np.zeros(len(many), bool)
    places = np.searchsorted(ordered, many)
    same: np.ndarray = ordered[np.minimum(places, len(ordered) - 1)] == many
    return same


def hold_out(
    pairs: PairSequence, count: int, processes: int = 1
) -> tuple[list[Pair], PairSequence]:
    """Draw pairs for validation or test, and drop from the others those that `overlap` would count.

    Args:
        pairs: the corpus, a list or stored.
        count: number of pairs to draw, at random with a fixed seed.
        processes: processes that read the corpus (`a2d.text.parts.map_parts`).

    Returns:
        The drawn pairs, all of different gist, and the remaining pairs for training; both in order.
    """
    hashes = gist_hashes(pairs, processes)
    indices: list[int] = []
    sources: set[int] = set()
    targets: set[int] = set()
    for index in _shuffled(len(pairs)):
        if len(indices) == count:
            break
        source, target = hashes[index].tolist()
        if source not in sources and target not in targets:
            indices.append(index)
            sources.add(source)
            targets.add(target)
    drawn = hashes[indices]
    similar = [_are_among(hashes[:, side], drawn[:, side]) for side in (0, 1)]
    return [pairs[index] for index in sorted(indices)], select(pairs, ~(similar[0] | similar[1]))


def _shuffled(count: int) -> Iterator[int]:
    """Yield the numbers below `count` in an order with a fixed seed, by Fisher and Yates' method.

    Only the numbers that were moved are in memory.
    """
    random_numbers = random.Random(0)
    moved: dict[int, int] = {}
    for last in reversed(range(count)):
        place = random_numbers.randrange(last + 1)
        yield moved.get(place, place)
        moved[place] = moved.get(last, last)
