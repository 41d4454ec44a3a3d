"""Losses on next tokens, against references and the teacher's distributions, in one pass.

Logits are computed for valid tokens only, one chunk at a time, with the chunk's gradient. The
backward pass therefore stores no tensor of the vocabulary's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CHUNK, CHUNK_ON_GPU = 2**23, 2**26
"""Logits that are computed at a time, on CPU and on GPU: 32 and 256 MB in float32."""

BLOCK = 2**17
"""Logits per thread whose softmax and gradient are computed at a time, to stay in its cache."""


class Prediction(NamedTuple):
    """Distributions over next tokens, as the inputs of the output projection.

    Attributes:
        hidden: output of the decoder (…, width).
        weight: weight of the output projection (V, width).
        bias: constant bias of the output projection (V,), or None.
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
        """Logits (…, V)."""
        if self.bias is None or self.bias.dtype == self.hidden.dtype:
            return functional.linear(self.hidden, self.weight, self.bias)
        return functional.linear(self.hidden, self.weight) + self.bias


class TopTokens(NamedTuple):
    """Distributions over next tokens, as their likeliest tokens.

    The remaining probability is spread evenly over the other tokens.

    Attributes:
        ids: ids of the likeliest tokens (…, k).
        log_probabilities: log-probabilities of these tokens (…, k), in nats, at temperature 1.
    """

    ids: Tensor
    log_probabilities: Tensor

    def at(self, positions: Tensor | slice) -> TopTokens:
        """Select positions."""
        return TopTokens(self.ids[positions], self.log_probabilities[positions])


class TokenLosses(NamedTuple):
    """Losses summed over tokens, scalars in nats.

    Attributes:
        tokens: (1-α)·CE + α·KD, the only loss with a gradient.
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
    """Compute cross-entropy with the references and word-level distillation, summed over tokens.

    Word-level distillation is -τ² Σ p_T log p_S (Hinton et al. 2015, section 2; Kim & Rush 2016,
    section 3.1). It is a cross-entropy: KL differs from it by the teacher's entropy, which has no
    gradient.

    Args:
        student: distributions of the student at N tokens.
        targets: ids of the reference tokens (N,).
        teacher: distributions of the teacher at the same tokens, without gradients; None: no
            distillation.
        alpha: α, weight of distillation; 0 without a teacher.
        temperature: τ, by which the logits of both sides are divided in distillation.
        label_smoothing: probability that is spread evenly over all V tokens (PyTorch's
            convention). fairseq spreads ε over the V-1 other tokens, which is ε·V/(V-1) here.

    Returns:
        The losses.
    """
    settings = _Settings(alpha if teacher is not None else 0.0, temperature, label_smoothing)
    kind = student.hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        # The weight is not converted here, because its gradient would be rounded once more.
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
    """Target distributions of n tokens, as a sum of up to three parts.

    Attributes:
        uniform: probability of each token, (n, 1).
        ids: ids of tokens with additional probability, (n, k).
        additional: additional probability of these tokens, (n, k).
        dense: probabilities of all tokens, (n, V).
    """

    uniform: Tensor | None = None
    ids: Tensor | None = None
    additional: Tensor | None = None
    dense: Tensor | None = None

    def cross_entropy(self, log_probabilities: Tensor) -> Tensor:
        """Compute the cross-entropy of predictions (n, V), summed over tokens."""
        total = log_probabilities.new_zeros(())
        if self.uniform is not None:
            total = total + (self.uniform * log_probabilities.sum(-1, keepdim=True)).sum()
        if self.ids is not None and self.additional is not None:
            total = total + (self.additional * log_probabilities.gather(-1, self.ids)).sum()
        if self.dense is not None:
            total = total + torch.linalg.vecdot(self.dense, log_probabilities).sum()
        return -total

    def subtract_from(self, gradient: Tensor, weight: float) -> None:
        """Subtract `weight` times the distributions from (n, V), in place."""
        if self.uniform is not None:
            gradient.sub_(weight * self.uniform)
        if self.ids is not None and self.additional is not None:
            gradient.scatter_add_(-1, self.ids, -weight * self.additional)
        if self.dense is not None:
            gradient.sub_(self.dense, alpha=weight)


class _TokenLosses(torch.autograd.Function):
    """Autograd function of the losses, with gradients for hidden states and output weight."""

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
                logits[rows] = gradient  # in place, to avoid a second tensor of this size
            gradient = logits.to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient[part] = gradient @ weight
            if ctx.needs_input_grad[1]:
                product = gradient.T @ hidden[part]
                if weight_gradient is None:
                    weight_gradient = product
                else:  # sums over many chunks are too imprecise in half precision
                    weight_gradient = weight_gradient.to(precise).add_(product)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(ce, kd)
        return (1 - settings.alpha) * ce + settings.alpha * kd, ce, kd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        # In float32, because rounding to bfloat16 would change the factor by up to 0.4%.
        hidden, weight = ctx.saved_tensors
        if hidden is not None:
            hidden = (hidden.to(total.dtype) * total).to(hidden.dtype)
        if weight is not None:
            weight = weight.to(total.dtype, copy=True).mul_(total)
        return hidden, weight, *[None] * 4


def _slices(length: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `size` items that cover `length`; at least one slice."""
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
    """Compute the losses of a block of tokens.

    Args:
        logits: logits of the student (n, V).
        targets: ids of the reference tokens (n,).
        teacher: logits (n, V) or likeliest tokens of the teacher, or None.
        settings: settings of the losses.

    Returns:
        Cross-entropy and distillation, and the gradient of their weighted sum (n, V).
    """
    alpha, temperature, smoothing = settings
    ids = targets.unsqueeze(-1)
    probability = torch.full_like(ids, 1, dtype=logits.dtype) - smoothing
    uniform = torch.full_like(probability, smoothing / logits.shape[-1]) if smoothing else None
    references = _Target(uniform, ids, probability)
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
    """Compute the teacher's distributions at a temperature, from logits or likeliest tokens."""
    if isinstance(teacher, Tensor):
        scores = teacher.to(logits.dtype)
        return _Target(dense=(scores if temperature == 1 else scores / temperature).softmax(-1))
    other_count = logits.shape[-1] - teacher.ids.shape[-1]
    top = teacher.log_probabilities.to(logits.dtype)
    remainder = (1 - top.exp().sum(-1, keepdim=True)).clamp_min(torch.finfo(top.dtype).tiny)
    top = (top / temperature).exp()
    other = (remainder / max(other_count, 1)) ** (1 / temperature) * (other_count > 0)
    total = top.sum(-1, keepdim=True) + other_count * other
    return _Target(other / total, teacher.ids, (top - other) / total)
