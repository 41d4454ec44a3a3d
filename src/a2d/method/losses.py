"""Losses on attention maps, as sums over query rows: who calls them knows the counts.

Sums, not means, so that an optimisation step is the same however its batch is cut into
micro-batches and devices: the caller divides by the number of tokens of the whole step.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from a2d.method.attention import Attended, Piece, masking

CHUNK, CHUNK_ON_CARD = 2**19, 2**24
"""Positions of intermediate maps computed at a time, on a processor, whose caches hold 2 MB, and on
a graphics card, which takes as long to be told of little as of much."""

_NEGLIGIBLE = 1e-6
"""Of a probability: keeps its logarithm finite."""

_LOWEST = -80.0
"""Of an exponent: its power is nothing beside 1, and processors take long for smaller ones."""


def attention_transfer(
    maps: Tensor | Attended,
    teacher: Tensor | Attended,
    keys: Tensor,
    rows: Tensor,
    *,
    weight: Tensor | None = None,
    formula: str = "paper",
) -> Tensor:
    """Row-wise KL(teacher row ‖ intermediate row), every map compared.

    Jin et al. 2024, Eq. 9 and 10: nothing is reduced over layers or heads before the comparison.
    Each query row is a distribution over its valid keys; padding and future positions take no part.
    Intermediate maps are made for some sentences, or some rows of a long one, at a time, and their
    gradient right after their divergence: of their size (B, C_T, Q, K), nothing is kept.

    Args:
        maps: the student's (B, C_S, Q, K): probabilities, or anything real for `paper`; or what
            they are to be computed from, piece by piece too.
        teacher: the teacher's, (B, C_T, Q, K), in either form; no gradient flows to them.
        keys: True where a query may attend to a key, broadcastable to (B, Q, K).
        rows: True at valid query positions, (B, Q).
        weight: of the alignment, (C_T, C_S); None where map stands against map.
        formula: how intermediate rows come from x, the maps, and W, the weight: `paper`
            softmax(W·x), `geometric` softmax(W·log x), `convex` W·x, a distribution already.

    Returns:
        A scalar in nats: summed over valid query rows, averaged over teacher maps.
    """
    tensors = [maps] if isinstance(maps, Tensor) else [maps.query, maps.key]
    given = _Given(maps, teacher, keys, rows, formula)
    with torch.autocast(tensors[0].device.type, enabled=False):
        value: Tensor = _AttentionTransfer.apply(given, weight, *tensors)  # type: ignore[no-untyped-call]
    return value


class _Given(NamedTuple):
    maps: Tensor | Attended
    teacher: Tensor | Attended
    keys: Tensor
    rows: Tensor
    formula: str


class _AttentionTransfer(torch.autograd.Function):
    """The tensors after `given` are what autograd knows of: weight, and what maps consist of."""

    @staticmethod
    def forward(ctx: Any, given: _Given, weight: Tensor | None, *tensors: Tensor) -> Tensor:
        learns = any(ctx.needs_input_grad)
        maps = given.maps
        student = _Stacked(maps) if isinstance(maps, Tensor) else _Recomputed(maps)
        values: list[Tensor] = []
        of_weight: list[Tensor] = []
        for piece in _pieces(given):
            read = student.read(piece)
            value, slope, slope_of_weight = _divergence(read, weight, given, piece)
            values.append(value)
            if slope_of_weight is not None:
                of_weight.append(slope_of_weight)
            if learns:
                student.write(piece, slope)
        total = reduce(torch.add, of_weight) if of_weight else None
        ctx.save_for_backward(total, *student.gradients)
        ctx.count = _channels(given.teacher)
        mean: Tensor = reduce(torch.add, values) / ctx.count
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, value: Tensor) -> tuple[Tensor | None, ...]:
        share = value / ctx.count
        found = (None if g is None else g * share.to(g.dtype) for g in ctx.saved_tensors)
        return None, *found


class _Stacked:
    """Maps at hand, and their gradient."""

    def __init__(self, maps: Tensor) -> None:
        self.dtype = torch.promote_types(maps.dtype, torch.float32)
        self._maps = maps
        self._gradient = torch.empty_like(maps, dtype=self.dtype)

    def read(self, piece: Piece) -> Tensor:
        return self._maps[piece.sentences, :, piece.queries].to(self.dtype)

    def write(self, piece: Piece, slope: Tensor) -> None:
        self._gradient[piece.sentences, :, piece.queries] = slope

    @property
    def gradients(self) -> list[Tensor]:
        return [self._gradient]


class _Recomputed:
    """Maps computed from queries and keys, and the gradients of these."""

    def __init__(self, attended: Attended) -> None:
        self.dtype = torch.promote_types(attended.query.dtype, torch.float32)
        self._attended = attended
        # Laid out as layers project them, position by position: they would copy anything else.
        query, key = attended.query.transpose(1, 2), attended.key.transpose(1, 2)
        of_query = query.new_empty(query.shape, dtype=self.dtype)
        of_key = key.new_zeros(key.shape, dtype=self.dtype)  # sums over pieces
        self.gradients = [of_query.transpose(1, 2), of_key.transpose(1, 2)]

    def read(self, piece: Piece) -> Tensor:
        self._maps = self._attended.maps(piece)
        return self._maps

    def write(self, piece: Piece, slope: Tensor) -> None:
        sentences, queries = piece
        query, key, scale, _ = self._attended
        query, key = query[sentences, :, queries], key[sentences]
        scores = torch._softmax_backward_data(slope, self._maps, -1, self.dtype)
        # Not in fp16, where numbers as small as a loss's before its scaling are lost.
        precision = torch.bfloat16 if query.dtype == torch.bfloat16 else self.dtype
        scores = (scores * scale).to(precision)
        query, key = query.to(precision), key.to(precision)
        of_query, of_key = self.gradients
        of_query[sentences, :, queries] = scores @ key
        of_key[sentences] += scores.transpose(2, 3) @ query


def _pieces(given: _Given) -> Iterator[Piece]:
    """Sentences, or rows of one, whose intermediate maps fit in a chunk; at least one piece."""
    batch, queries = max(1, len(given.rows)), given.rows.shape[1]
    keys = given.keys.shape[-1]
    size = CHUNK if given.rows.device.type == "cpu" else CHUNK_ON_CARD
    at_once = max(1, size // max(1, _channels(given.teacher) * keys))  # rows
    if at_once >= queries:
        step = at_once // max(1, queries)
        yield from (
            Piece(slice(start, start + step), slice(None)) for start in range(0, batch, step)
        )
        return
    for sentence in range(batch):
        for start in range(0, queries, at_once):
            yield Piece(slice(sentence, sentence + 1), slice(start, start + at_once))


def _channels(maps: Tensor | Attended) -> int:
    return (maps if isinstance(maps, Tensor) else maps.query).shape[1]


def _divergence(
    maps: Tensor, weight: Tensor | None, given: _Given, piece: Piece
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Divergence of a piece, summed over maps, its gradient for the student's and the weight."""
    wanted = given.teacher
    if isinstance(wanted, Tensor):
        wanted = wanted[piece.sentences, :, piece.queries]
    else:
        wanted = wanted.maps(piece)
    rows = given.rows[piece.sentences, piece.queries]
    keys = given.keys.expand(len(given.rows), given.rows.shape[1], -1)
    keys = keys[piece.sentences, piece.queries].unsqueeze(1)
    weight = None if weight is None else weight.to(maps.dtype)

    # Combine.
    basis = flat = maps.flatten(2)
    if given.formula == "geometric":
        flat = flat + _NEGLIGIBLE
        basis = flat.log()
    mixed = basis if weight is None else _times(weight, basis)
    mixed = mixed.view(-1, *wanted.shape[1:])
    # Compare.
    value, slope = _row_wise_kl(mixed, wanted, keys, rows[:, None, :, None], given.formula)
    # And back.
    slope, slope_of_weight = slope.flatten(2), None
    if weight is not None:
        slope_of_weight = (slope @ basis.transpose(1, 2)).sum(0)
        slope = _times(weight.T, slope)
    if given.formula == "geometric":
        slope.div_(flat)
    return value, slope.view_as(maps), slope_of_weight


def _times(weight: Tensor, channels: Tensor) -> Tensor:
    """weight · channels for every sentence (`matmul` would copy the channels)."""
    return torch.bmm(weight.expand(len(channels), -1, -1), channels)


def _row_wise_kl(
    mixed: Tensor, teacher: Tensor, keys: Tensor, rows: Tensor, formula: str
) -> tuple[Tensor, Tensor]:
    """Divergence of intermediate maps before any softmax, and its gradient in their place.

    Long sentences make every pass over the maps count, those with logarithms and powers most.
    """
    wanted = teacher.to(mixed.dtype) * (keys & rows)
    mass = wanted.sum(-1, keepdim=True)  # a row of a cached teacher sums up to one only nearly
    scores = (mixed + _NEGLIGIBLE).log() if formula == "convex" else mixed
    scores = scores + masking(keys, scores.dtype)
    scores.sub_(scores.amax(-1, keepdim=True))
    difference = wanted.clamp_min(_tiny(wanted)).log_().sub_(scores)
    predicted = scores.clamp_min_(_LOWEST).exp_().mul_(keys)
    total = predicted.sum(-1, keepdim=True).clamp_min_(_tiny(predicted))
    value = torch.dot(wanted.flatten(), difference.add_(total.log()).flatten())
    slope = predicted.mul_(mass / total).sub_(wanted)
    if formula == "convex":
        slope.div_(mixed + _NEGLIGIBLE)
    return value, slope


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny


def map_distance(predicted: Tensor, teacher: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """Squared distance between maps, summed over keys and query rows, averaged over maps.

    Args:
        predicted: maps (B, C, Q, K).
        teacher: maps of the same shape; a gradient flows to them where they are learned.
        keys, rows: as in `attention_transfer`.
    """
    chosen = keys.unsqueeze(1) & rows[:, None, :, None]
    distance = (predicted - teacher).square().masked_fill(~chosen, 0.0)
    return distance.sum() / teacher.shape[1]


def official_attention_transfer(intermediate: Tensor, teacher: Tensor) -> Tensor:
    """The formula of the authors' released code: KL between softmaxes over whole maps.

    Both sides pass a softmax over the flattened Q·K positions, the teacher's probabilities too
    (a second softmax, which leaves them nearly uniform); padding and future positions take part.

    Args:
        intermediate: the alignment's output (B, C_T, Q, K).
        teacher: the teacher's maps (B, C_T, Q, K); no gradient flows to them.

    Returns:
        A scalar in nats, summed over sentences, maps and positions.
    """
    predicted = precise(intermediate).flatten(2).log_softmax(dim=-1)
    target = precise(teacher.detach()).flatten(2).log_softmax(dim=-1)
    return functional.kl_div(predicted, target, reduction="sum", log_target=True)


def precise(tensor: Tensor) -> Tensor:
    """The same in float32, where it was less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
