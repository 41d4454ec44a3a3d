"""Choice of the channels, head directions and neurons that a narrower student keeps.

All layers of a stack read and write one *residual stream*. A student keeps the same channels of it
everywhere, because embeddings, norms and layers share them. Within an attention head it keeps
directions instead of channels, because rotating both queries and keys does not change attention. In
a feed-forward block it keeps neurons. The choice depends on activations on sample text, as in
Minitron (Muralidharan et al. 2024, arXiv 2407.14679).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_UNUSED = 1e-10
"""Directions with less than this share of the largest variance count as unused."""


class HeadMoments(NamedTuple):
    """Second moments within the heads of an attention module, (heads, head width, head width) each.

    Attributes:
        query, key: moments of queries and keys.
        context: moments of the output projection's inputs.
    """

    query: Tensor
    key: Tensor
    context: Tensor


class HeadMaps(NamedTuple):
    """Linear maps from the teacher's heads to a student's, over all heads of an attention module.

    Attributes:
        query, key, value: maps of these projections' outputs (student's width of all heads,
            teacher's width of all heads).
        output: map of the output projection's inputs, the same sizes transposed.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


def choose_channels(scores: Tensor, width: int, sinusoidal: bool) -> Tensor:
    """Choose the channels of the residual stream with the highest scores.

    Sinusoidal positions are computed from the width: one half of the channels holds sines, the
    other half cosines, each by falling frequency. Each of the student's channels therefore comes
    from teacher channels of about the same frequency.

    Args:
        scores: importance of each channel (teacher's width).
        width: number of channels to choose.
        sinusoidal: True if positions are sinusoidal.

    Returns:
        Ascending indices (width).
    """
    if width == len(scores):
        return torch.arange(width)
    if not sinusoidal:
        return scores.topk(width).indices.sort().values
    halves = (len(scores) + 1) // 2, (width + 1) // 2
    chosen = []
    for start, total, count in (
        (0, halves[0], halves[1]),
        (halves[0], len(scores) - halves[0], width - halves[1]),
    ):
        for index in range(count):
            low = start + index * total // count
            high = start + (index + 1) * total // count
            chosen.append(low + int(scores[low:high].argmax()))
    return torch.tensor(chosen)


def share_heads(importance: Tensor, heads: int, width: int, teacher_width: int) -> list[list[int]]:
    """Choose the teacher's heads that each of a student's heads is made from.

    If the student has at least as many heads, several of them may come from the same teacher head.
    If it has fewer but wider heads, each of them joins several of the most important teacher heads.
    Otherwise it keeps the most important heads.

    Args:
        importance: importance of each of the teacher's heads (heads).
        heads: number of the student's heads.
        width, teacher_width: width of one head.

    Returns:
        Indices of the teacher's heads, for each of the student's.
    """
    total = len(importance)
    if heads >= total:
        counts = torch.full((total,), heads // total)
        counts[importance.topk(heads % total).indices] += 1
        return [[head] for head in range(total) for _ in range(int(counts[head]))]
    joined = max(1, min(math.ceil(width / teacher_width), total // heads))
    chosen = importance.topk(heads * joined).indices.sort().values.tolist()
    return [chosen[index * joined : (index + 1) * joined] for index in range(heads)]


def map_heads(
    moments: HeadMoments, output: Tensor, groups: Sequence[Sequence[int]], width: int
) -> HeadMaps:
    """Compute the directions within heads that preserve attention scores and outputs best.

    Student heads from the same teacher head have the same scores and divide its values.

    Args:
        moments: moments of the teacher's heads.
        output: weight of the teacher's output projection, rows of the student's channels only
            (channels, teacher's width of all heads).
        groups: the teacher's heads that each of the student's heads is made from.
        width: width of one of the student's heads. Directions that the teacher lacks are 0.
    """
    heads, depth = moments.query.shape[:2]
    maps = HeadMaps(
        *(output.new_zeros(len(groups) * width, heads * depth) for _ in HeadMaps._fields)
    )
    for index, group in enumerate(groups):
        columns = torch.cat([torch.arange(head * depth, (head + 1) * depth) for head in group])
        query, key, context = (torch.block_diag(*(m[head] for head in group)) for m in moments)
        equal = [number for number, heads in enumerate(groups) if list(heads) == list(group)]
        start, rank = index * width, min(width, len(columns))
        rows = slice(start, start + rank)
        maps.query[rows, columns], maps.key[rows, columns] = _score_directions(query, key, rank)
        share = slice(equal.index(index), None, len(equal))
        values, back = _value_directions(
            context, output[:, columns], min(width * len(equal), len(columns))
        )
        rows = slice(start, start + len(values[share]))
        maps.value[rows, columns], maps.output[rows, columns] = values[share], back.T[share]
    return maps._replace(output=maps.output.T)


def _score_directions(query: Tensor, key: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return maps (rank, size) of queries and keys with the least mean square error of scores."""
    size = len(query)
    if rank == size:
        return torch.eye(size).to(query), torch.eye(size).to(query)
    u, s, v = torch.linalg.svd(_power(query, 0.5) @ _power(key, 0.5))
    scale = s[:rank, None].sqrt()
    return scale * (u.T[:rank] @ _power(query, -0.5)), scale * (v[:rank] @ _power(key, -0.5))


def _value_directions(context: Tensor, output: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return a map (rank, size) and a map back (size, rank) with the least error of outputs."""
    size = len(context)
    if rank == size:
        return torch.eye(size).to(context), torch.eye(size).to(context)
    root = _power(context, 0.5)
    v = torch.linalg.svd(output @ root)[2][:rank]
    scale = (context.trace() / size).sqrt()  # new values are about as large as the teacher's
    return scale * v @ _power(context, -0.5), root @ v.T / scale


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Raise a positive semi-definite matrix to a power; unused directions become 0."""
    values, vectors = torch.linalg.eigh(matrix)
    used = values > _UNUSED * values[-1]
    powers = torch.where(used, values.clamp_min(1e-300) ** exponent, 0.0)
    power: Tensor = vectors * powers @ vectors.T
    return power
