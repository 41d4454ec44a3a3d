"""Losses on attention maps, as sums over query rows: who calls them knows the counts.

Sums, not means, so that an optimisation step is the same however its batch is cut into
micro-batches and devices: the caller divides by the number of tokens of the whole step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CHUNK = 2**21
"""Positions of intermediate maps computed at a time: 8 MB in float32."""

_NEGLIGIBLE = 1e-6
"""Of a probability: keeps its logarithm finite."""


def attention_transfer(
    maps: Tensor,
    teacher: Tensor,
    keys: Tensor,
    rows: Tensor,
    *,
    weight: Tensor | None = None,
    formula: str = "paper",
) -> Tensor:
    """Row-wise KL(teacher row ‖ intermediate row), every map compared.

    Jin et al. 2024, Eq. 9 and 10: nothing is reduced over layers or heads before the comparison.
    Each query row is a distribution over its valid keys; padding and future positions take no part.
    Intermediate maps are made for some sentences at a time, their gradient right after their
    divergence: of their size (B, C_T, Q, K), nothing is kept for the backward pass.

    Args:
        maps: the student's (B, C_S, Q, K): probabilities, or anything real for `paper`.
        teacher: the teacher's maps (B, C_T, Q, K), probabilities; no gradient flows to them.
        keys: True where a query may attend to a key, broadcastable to (B, Q, K).
        rows: True at valid query positions, (B, Q).
        weight: of the alignment, (C_T, C_S); None where map stands against map.
        formula: how intermediate rows come from x, the maps, and W, the weight: `paper`
            softmax(W·x), `geometric` softmax(W·log x), `convex` W·x, a distribution already.

    Returns:
        A scalar in nats: summed over valid query rows, averaged over teacher maps.
    """
    with torch.autocast(maps.device.type, enabled=False):
        maps = precise(maps)
        weight = None if weight is None else weight.to(maps.dtype)
        given = maps, weight, teacher.detach(), keys, rows, formula
        value: Tensor = _AttentionTransfer.apply(*given)  # type: ignore[no-untyped-call]
    return value


class _AttentionTransfer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor | None,
        teacher: Tensor,
        keys: Tensor,
        rows: Tensor,
        formula: str,
    ) -> Tensor:
        keys = keys.expand(len(maps), *maps.shape[2:])
        value = maps.new_zeros(())
        learns = any(ctx.needs_input_grad)
        slopes = torch.empty_like(maps) if learns else None
        of_weight = None if weight is None else torch.zeros_like(weight)
        size = max(1, CHUNK // max(1, teacher[0].numel())) if len(maps) else 1
        for start in range(0, len(maps), size):
            part = slice(start, start + size)
            given = maps[part].flatten(2)
            logs = (given + _NEGLIGIBLE).log() if formula == "geometric" else given
            mixed = logs if weight is None else weight @ logs
            mixed = mixed.view(-1, *teacher.shape[1:])
            chosen = (keys[part] & rows[part].unsqueeze(-1)).unsqueeze(1)
            divergence, slope = _divergence(mixed, teacher[part], keys[part], chosen, formula)
            value += divergence
            if slopes is None:
                continue
            slope = slope.flatten(2)
            if weight is not None and of_weight is not None:
                of_weight += (slope @ logs.transpose(1, 2)).sum(0)
                slope = weight.T @ slope
            if formula == "geometric":
                slope = slope.div_(given + _NEGLIGIBLE)
            slopes[part] = slope.view_as(maps[part])
        ctx.save_for_backward(slopes, of_weight)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, value: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if g is None else g * value for g in ctx.saved_tensors), *[None] * 4


def _divergence(
    mixed: Tensor, teacher: Tensor, keys: Tensor, chosen: Tensor, formula: str
) -> tuple[Tensor, Tensor]:
    """Divergence of intermediate maps before any softmax, and its gradient in their place."""
    count = teacher.shape[1]
    wanted = teacher.to(mixed.dtype).masked_fill(~chosen, 0.0)
    scores = (mixed + _NEGLIGIBLE).log() if formula == "convex" else mixed
    lowest = torch.finfo(scores.dtype).min
    predicted = scores.masked_fill(~keys.unsqueeze(1), lowest).log_softmax(dim=-1)
    known = wanted.clamp_min(torch.finfo(wanted.dtype).tiny).log()
    value = (wanted * known.sub_(predicted).masked_fill_(~chosen, 0.0)).sum() / count
    # A row of a cached teacher sums up to one only nearly.
    slope = predicted.exp_().mul_(wanted.sum(-1, keepdim=True)).sub_(wanted)
    if formula == "convex":
        slope.div_(mixed + _NEGLIGIBLE)
    return value, slope.div_(count)


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
