"""Losses on attention maps, as sums over query rows.

They are sums, not means: the caller divides them by the number of tokens of the optimisation step.
The step is therefore the same for every division into micro-batches and devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from a2d.method.maps import AttentionMaps, Block, additive_mask

CHUNK, CHUNK_ON_GPU = 2**19, 2**24
"""Positions of intermediate maps that are computed at a time. On CPU a chunk fits into a cache of
2 MB. On GPU it is larger, because launching a kernel takes longer than computing a small chunk."""

EPSILON = 1e-6
"""Added to attention probabilities before a logarithm, to keep it finite."""

_LOWEST_EXPONENT = -80.0
"""Exponents are clamped here: exp(-80) is negligible, and denormal numbers are slow on CPU."""


def attention_transfer(
    student: AttentionMaps,
    teacher: AttentionMaps,
    keys: Tensor,
    rows: Tensor,
    *,
    weight: Tensor | None = None,
    log_maps: bool = False,
    log_combined: bool = False,
) -> Tensor:
    """Compute KL(teacher row ‖ intermediate row) for all rows of all maps.

    This is Eq. 9 and 10 of Jin et al. 2024: nothing is reduced over layers or heads before the
    comparison. A query row is a distribution over its valid keys, without padding and future
    positions. An intermediate row is softmax(W·S), where W is `weight` and S the student's maps.

    Intermediate maps and their gradient are computed for one block of rows at a time. The backward
    pass therefore stores no tensor of their size (B, C_T, Q, K).

    Args:
        student: the student's maps (B, C_S, Q, K): probabilities, or scores if no logarithm is
            taken of them.
        teacher: the teacher's maps (B, C_T, Q, K); no gradient flows to them.
        keys: True where a query may attend to a key, broadcastable to (B, Q, K).
        rows: True at valid query positions, (B, Q).
        weight: weights of the alignment (C_T, C_S); None: each map is compared with the teacher's
            map of the same index (C_S = C_T).
        log_maps: intermediate rows are softmax(W·log S).
        log_combined: intermediate rows are softmax(log(W·S)), which is W·S if that sums to one.

    Returns:
        A scalar in nats: summed over valid query rows, averaged over teacher maps.
    """
    comparison = _Comparison(student, teacher, keys, rows, log_maps, log_combined)
    with torch.autocast(keys.device.type, enabled=False):
        value: Tensor = _AttentionTransfer.apply(comparison, weight, *student.inputs)  # type: ignore[no-untyped-call]
    return value


class _Comparison(NamedTuple):
    student: AttentionMaps
    teacher: AttentionMaps
    keys: Tensor
    rows: Tensor
    log_maps: bool
    log_combined: bool


class _AttentionTransfer(torch.autograd.Function):
    """Autograd function of the loss, with gradients for the weight and `AttentionMaps.inputs`."""

    @staticmethod
    def forward(
        ctx: Any, comparison: _Comparison, weight: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        maps_gradient = comparison.student.new_gradient() if any(ctx.needs_input_grad) else None
        values: list[Tensor] = []
        weight_gradients: list[Tensor] = []
        for block in _blocks(comparison):
            maps = comparison.student.block(block)
            value, gradient, weight_gradient = _divergence(maps, weight, comparison, block)
            values.append(value)
            if weight_gradient is not None:
                weight_gradients.append(weight_gradient)
            if maps_gradient is not None:
                maps_gradient.add(block, maps, gradient)
        total = reduce(torch.add, weight_gradients) if weight_gradients else None
        ctx.save_for_backward(total, *(maps_gradient.tensors if maps_gradient else ()))
        ctx.count = comparison.teacher.channels
        mean: Tensor = reduce(torch.add, values) / ctx.count
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, value: Tensor) -> tuple[Tensor | None, ...]:
        share = value / ctx.count
        return None, *(None if g is None else g * share.to(g.dtype) for g in ctx.saved_tensors)


def _blocks(comparison: _Comparison) -> Iterator[Block]:
    """Yield blocks of sentences, or of one sentence's rows, that fit a chunk; at least one."""
    batch, queries = max(1, len(comparison.rows)), comparison.rows.shape[1]
    keys = comparison.keys.shape[-1]
    chunk = CHUNK if comparison.rows.device.type == "cpu" else CHUNK_ON_GPU
    rows = max(1, chunk // max(1, comparison.teacher.channels * keys))
    if rows >= queries:
        step = rows // max(1, queries)
        yield from (Block(slice(start, start + step)) for start in range(0, batch, step))
        return
    for sentence in range(batch):
        for start in range(0, queries, rows):
            yield Block(slice(sentence, sentence + 1), slice(start, start + rows))


def _divergence(
    maps: Tensor, weight: Tensor | None, comparison: _Comparison, block: Block
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the divergence of a block.

    Args:
        maps: the student's maps of the block (b, C_S, q, K).
        weight: weights of the alignment (C_T, C_S), or None.
        comparison: arguments of the loss.
        block: the rows.

    Returns:
        The divergence summed over maps, and its gradients for `maps` and for `weight`.
    """
    teacher = comparison.teacher.block(block)
    rows = comparison.rows[block.sentences, block.queries]
    keys = comparison.keys.expand(len(comparison.rows), comparison.rows.shape[1], -1)
    keys = keys[block.sentences, block.queries].unsqueeze(1)
    weight = None if weight is None else weight.to(maps.dtype)

    # Combine.
    basis = flat = maps.flatten(2)
    if comparison.log_maps:
        flat = flat + EPSILON
        basis = flat.log()
    combined = basis if weight is None else _multiply(weight, basis)
    combined = combined.view(-1, *teacher.shape[1:])
    # Compare.
    value, gradient = _row_wise_kl(
        combined, teacher, keys, rows[:, None, :, None], comparison.log_combined
    )
    # Backpropagate.
    gradient, weight_gradient = gradient.flatten(2), None
    if weight is not None:
        weight_gradient = (gradient @ basis.transpose(1, 2)).sum(0)
        gradient = _multiply(weight.T, gradient)
    if comparison.log_maps:
        gradient.div_(flat)
    return value, gradient.view_as(maps), weight_gradient


def _multiply(weight: Tensor, channels: Tensor) -> Tensor:
    """Multiply channels by a weight, sentence by sentence (`matmul` would copy the channels)."""
    return torch.bmm(weight.expand(len(channels), -1, -1), channels)


def _row_wise_kl(
    combined: Tensor, teacher: Tensor, keys: Tensor, rows: Tensor, log_combined: bool
) -> tuple[Tensor, Tensor]:
    """Compute the divergence of intermediate maps before the softmax, and its gradient.

    Operations are in place where possible, because passes over the maps of long sentences are slow.
    """
    target = teacher.to(combined.dtype) * (keys & rows)
    mass = target.sum(-1, keepdim=True)  # cached rows sum to one only approximately
    scores = (combined + EPSILON).log() if log_combined else combined
    scores = scores + additive_mask(keys, scores.dtype)
    scores.sub_(scores.amax(-1, keepdim=True))
    difference = target.clamp_min(_tiny(target)).log_().sub_(scores)
    predicted = scores.clamp_min_(_LOWEST_EXPONENT).exp_().mul_(keys)
    total = predicted.sum(-1, keepdim=True).clamp_min_(_tiny(predicted))
    value = torch.dot(target.flatten(), difference.add_(total.log()).flatten())
    gradient = predicted.mul_(mass / total).sub_(target)
    if log_combined:
        gradient.div_(combined + EPSILON)
    return value, gradient


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny


def map_distance(predicted: Tensor, teacher: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """Compute the squared distance of maps, summed over keys and rows, averaged over maps.

    Args:
        predicted: maps (B, C, Q, K).
        teacher: maps of the same shape; gradients flow to them too, if they are learned.
        keys, rows: as in `attention_transfer`.

    Returns:
        A scalar.
    """
    valid = keys.unsqueeze(1) & rows[:, None, :, None]
    distance = (predicted - teacher).square().masked_fill(~valid, 0.0)
    return distance.sum() / teacher.shape[1]


def official_attention_transfer(intermediate: Tensor, teacher: Tensor) -> Tensor:
    """Compute KL between softmaxes over whole maps, as in the authors' released code.

    A softmax over the flattened Q·K positions is applied to both sides. For the teacher's
    probabilities it is a second softmax, after which they are nearly uniform. Padding and future
    positions are included.

    Args:
        intermediate: output of the alignment (B, C_T, Q, K).
        teacher: the teacher's maps (B, C_T, Q, K); no gradient flows to them.

    Returns:
        A scalar in nats, summed over sentences, maps and positions.
    """
    predicted = precise(intermediate).flatten(2).log_softmax(dim=-1)
    target = precise(teacher.detach()).flatten(2).log_softmax(dim=-1)
    return functional.kl_div(predicted, target, reduction="sum", log_target=True)


def precise(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
