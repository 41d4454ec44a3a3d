"""Losses on next tokens: against references and the teacher's distributions, in one pass.

Logits are computed for valid tokens only, a chunk at a time, and each chunk's gradient right after
its loss: no tensor of the vocabulary's size is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CHUNK, CHUNK_ON_GPU = 2**23, 2**26
"""Logits computed at a time, on CPU and on GPU: 32 and 256 MB in float32."""

BLOCK = 2**17
"""Logits per thread whose softmax and gradient are computed at a time: they stay in its cache."""


class Prediction(NamedTuple):
    """Distributions over next tokens, represented by what the logits are computed from.

    Attributes:
        hidden: the decoder's output (…, width).
        weight: of the output projection (V, width).
        bias: (V,), a constant, or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    def at(self, positions: Tensor | slice) -> Prediction:
        """Select positions."""
        return self._replace(hidden=self.hidden[positions])

    def to(self, dtype: torch.dtype) -> Prediction:
        """Convert hidden states and weight to a dtype."""
        return self._replace(hidden=self.hidden.to(dtype), weight=self.weight.to(dtype))

    @property
    def logits(self) -> Tensor:
        """The logits (…, V)."""
        if self.bias is None or self.bias.dtype == self.hidden.dtype:
            return functional.linear(self.hidden, self.weight, self.bias)
        return functional.linear(self.hidden, self.weight) + self.bias


class TopTokens(NamedTuple):
    """Distributions over next tokens by their likeliest tokens; the rest is spread evenly.

    Attributes:
        ids: the likeliest tokens (…, k).
        log_probabilities: of these tokens (…, k), in nats, at temperature 1.
    """

    ids: Tensor
    log_probabilities: Tensor

    def at(self, positions: Tensor | slice) -> TopTokens:
        """Select positions."""
        return TopTokens(self.ids[positions], self.log_probabilities[positions])


class TokenLosses(NamedTuple):
    """Sums over tokens, scalars in nats.

    Attributes:
        tokens: (1-α)·CE + α·KD, the only one that has a gradient.
        ce: label-smoothed cross-entropy with the references.
        kd: word-level distillation, 0 without a teacher.
    """

    tokens: Tensor
    ce: Tensor
    kd: Tensor


def token_losses(
    student: Prediction,
    targets: Tensor,
    teacher: Prediction | TopTokens | None = None,
    *,
    alpha: float = 0.5,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
) -> TokenLosses:
    """Cross-entropy with the references and word-level distillation, summed over tokens.

    Distillation is -τ² Σ p_T log p_S (Hinton et al. 2015, section 2; Kim & Rush 2016, section 3.1):
    cross-entropy, not KL; the two differ by the teacher's entropy, which has no gradient.

    Args:
        student: of N tokens.
        targets: token ids (N,).
        teacher: of the same tokens; no gradient flows to it. None: cross-entropy alone.
        alpha: α; ignored and 0 without a teacher.
        temperature: τ, dividing both sides' logits in distillation.
        label_smoothing: mass spread evenly over all V tokens (PyTorch's convention). fairseq's ε,
            spread over the V-1 others, is this with ε·V/(V-1).
    """
    settings = _Settings(alpha if teacher is not None else 0.0, temperature, label_smoothing)
    kind = student.hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        # The weight is not cast: its gradient would be rounded once more.
        student = student._replace(hidden=student.hidden.to(dtype))
        teacher = teacher.to(dtype) if isinstance(teacher, Prediction) else teacher
    with torch.autocast(kind, enabled=False):
        losses = _TokenLosses.apply(*student, targets, teacher, settings)  # type: ignore[no-untyped-call]
        return TokenLosses(*losses)


class _Settings(NamedTuple):
    alpha: float
    temperature: float
    label_smoothing: float


class _Target(NamedTuple):
    """Target distributions of n tokens: the sum of three parts, of which some are absent.

    Attributes:
        even: probability that every token has, (n, 1).
        ids, more: tokens with more probability, and how much more, both (n, k).
        dense: probabilities of all tokens (n, V).
    """

    even: Tensor | None = None
    ids: Tensor | None = None
    more: Tensor | None = None
    dense: Tensor | None = None

    def cross_entropy(self, log_probabilities: Tensor) -> Tensor:
        """Cross-entropy of predictions (n, V), summed over tokens."""
        total = log_probabilities.new_zeros(())
        if self.even is not None:
            total = total + (self.even * log_probabilities.sum(-1, keepdim=True)).sum()
        if self.ids is not None and self.more is not None:
            total = total + (self.more * log_probabilities.gather(-1, self.ids)).sum()
        if self.dense is not None:
            total = total + torch.linalg.vecdot(self.dense, log_probabilities).sum()
        return -total

    def subtract_from(self, gradient: Tensor, weight: float) -> None:
        """Subtract `weight` times the distributions from (n, V), in place."""
        if self.even is not None:
            gradient.sub_(weight * self.even)
        if self.ids is not None and self.more is not None:
            gradient.scatter_add_(-1, self.ids, -weight * self.more)
        if self.dense is not None:
            gradient.sub_(self.dense, alpha=weight)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        teacher: Prediction | TopTokens | None,
        settings: _Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        precise = torch.promote_types(hidden.dtype, torch.float32)
        ce, kd = hidden.new_zeros(2, dtype=precise).unbind()
        hidden_gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight_gradient = None
        weight = weight.to(hidden.dtype)
        on_cpu = weight.device.type == "cpu"
        block = BLOCK * torch.get_num_threads()
        chunk, block = (CHUNK, block) if on_cpu else (CHUNK_ON_GPU, CHUNK_ON_GPU)
        for part in _slices(len(hidden), chunk // len(weight)):
            logits = Prediction(hidden[part], weight, bias).logits
            selected = None if teacher is None else teacher.at(part)
            chunk_teacher = selected.logits if isinstance(selected, Prediction) else selected
            for rows in _slices(len(logits), block // len(weight)):
                scores = logits[rows].to(precise)
                losses, gradient = _block(
                    scores, targets[part][rows], _at(chunk_teacher, rows), settings
                )
                ce, kd = ce + losses[0], kd + losses[1]
                logits[rows] = gradient  # in place: no second tensor of this size is needed
            gradient = logits.to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient[part] = gradient @ weight
            if ctx.needs_input_grad[1]:
                product = gradient.T @ hidden[part]
                if weight_gradient is None:
                    weight_gradient = product
                else:  # sums of many chunks would lose bits in half precision
                    weight_gradient = weight_gradient.to(precise).add_(product)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(ce, kd)
        return (1 - settings.alpha) * ce + settings.alpha * kd, ce, kd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        # Multiply in float32: rounded to bf16, the factor would be off by up to 0.4%.
        hidden, weight = ctx.saved_tensors
        if hidden is not None:
            hidden = (hidden.to(total.dtype) * total).to(hidden.dtype)
        if weight is not None:
            weight = weight.to(total.dtype, copy=True).mul_(total)
        return hidden, weight, *[None] * 4


def _slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` items that cover `length`; at least one slice."""
    size = max(1, size)
    return (slice(start, start + size) for start in range(0, max(1, length), size))


def _at(teacher: Tensor | TopTokens | None, rows: slice) -> Tensor | TopTokens | None:
    if isinstance(teacher, TopTokens):
        return teacher.at(rows)
    return None if teacher is None else teacher[rows]


def _block(
    logits: Tensor,
    targets: Tensor,
    teacher: Tensor | TopTokens | None,
    settings: _Settings,
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return both losses and the gradient of their weighted sum with respect to the logits."""
    alpha, temperature, smoothing = settings
    ids = targets.unsqueeze(-1)
    share = torch.full_like(ids, 1, dtype=logits.dtype) - smoothing
    even = torch.full_like(share, smoothing / logits.shape[-1]) if smoothing else None
    references = _Target(even, ids, share)
    predicted = logits.log_softmax(-1)
    ce, kd = references.cross_entropy(predicted), logits.new_zeros(())
    if teacher is None:
        gradient = predicted.exp_()
    else:
        distribution = _distribution(teacher, logits, temperature)
        if temperature == 1:
            kd = distribution.cross_entropy(predicted)
            gradient = predicted.exp_()
        else:
            tempered = (logits / temperature).log_softmax(-1)
            kd = distribution.cross_entropy(tempered) * temperature**2
            gradient = predicted.exp_().mul_(1 - alpha)
            gradient.add_(tempered.exp_(), alpha=alpha * temperature)
        distribution.subtract_from(gradient, alpha * temperature)
    references.subtract_from(gradient, 1 - alpha)
    return (ce, kd), gradient


def _distribution(teacher: Tensor | TopTokens, logits: Tensor, temperature: float) -> _Target:
    """Return the teacher's distributions at a temperature, from logits or likeliest tokens."""
    if isinstance(teacher, Tensor):
        scores = teacher.to(logits.dtype)
        return _Target(dense=(scores if temperature == 1 else scores / temperature).softmax(-1))
    others = logits.shape[-1] - teacher.ids.shape[-1]
    top = teacher.log_probabilities.to(logits.dtype)
    remainder = (1 - top.exp().sum(-1, keepdim=True)).clamp_min(torch.finfo(top.dtype).tiny)
    top = (top / temperature).exp()
    rest = (remainder / max(others, 1)) ** (1 / temperature) * (others > 0)
    total = top.sum(-1, keepdim=True) + others * rest
    return _Target(rest / total, teacher.ids, (top - rest) / total)
