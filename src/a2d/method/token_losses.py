"""Losses on next tokens: with the references and with the teacher's distributions, in one pass.

Logits are computed where a token counts, a chunk at a time, and each chunk's gradient right after
its loss: nothing of the vocabulary's size is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CHUNK, CHUNK_ON_CARD = 2**23, 2**26
"""Logits computed at a time, on a processor and on a graphics card: 32 and 256 MB in float32."""

BLOCK = 2**17
"""Logits of which a thread takes softmax and gradient at a time: they stay in its cache."""


class Prediction(NamedTuple):
    """A model's distributions over next tokens, as what its logits are computed from.

    hidden: the decoder's output (…, width).
    weight: of the output projection (V, width).
    bias: (V,), a constant, or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    def at(self, positions: Tensor | slice) -> Prediction:
        """The same at some positions only."""
        return self._replace(hidden=self.hidden[positions])

    def to(self, dtype: torch.dtype) -> Prediction:
        """The same with the product of hidden states and weights in another precision."""
        return self._replace(hidden=self.hidden.to(dtype), weight=self.weight.to(dtype))

    @property
    def logits(self) -> Tensor:
        """All of them, (…, V)."""
        if self.bias is None or self.bias.dtype == self.hidden.dtype:
            return functional.linear(self.hidden, self.weight, self.bias)
        return functional.linear(self.hidden, self.weight) + self.bias


class TopTokens(NamedTuple):
    """A distribution over next tokens by its likeliest tokens; the rest of it is spread evenly.

    ids: the tokens (…, k).
    log_probabilities: theirs (…, k), in nats, at temperature 1.
    """

    ids: Tensor
    log_probabilities: Tensor

    def at(self, positions: Tensor | slice) -> TopTokens:
        """The same at some positions only."""
        return TopTokens(self.ids[positions], self.log_probabilities[positions])


class TokenLosses(NamedTuple):
    """Sums over tokens, scalars in nats.

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
        alpha: α; without a teacher it is 0, whatever is given.
        temperature: τ, dividing both sides' logits in distillation.
        label_smoothing: mass spread evenly over all V tokens (PyTorch's convention). fairseq's ε,
            spread over the V-1 others, is this with ε·V/(V-1).
    """
    settings = _Settings(alpha if teacher is not None else 0.0, temperature, label_smoothing)
    kind = student.hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        # Its weight stays as it is: cast here, it would get its gradient rounded once more.
        student = student._replace(hidden=student.hidden.to(dtype))
        teacher = teacher.to(dtype) if isinstance(teacher, Prediction) else teacher
    with torch.autocast(kind, enabled=False):
        losses = _TokenLosses.apply(*student, targets, teacher, settings)  # type: ignore[no-untyped-call]
        return TokenLosses(*losses)


class _Settings(NamedTuple):
    alpha: float
    temperature: float
    label_smoothing: float


class _Wanted(NamedTuple):
    """A target distribution: an even part for every token, more for some, and any other."""

    even: Tensor | None = None  # (n, 1)
    ids: Tensor | None = None  # (n, k)
    more: Tensor | None = None  # (n, k)
    other: Tensor | None = None  # (n, V)

    def cross_entropy(self, log_probabilities: Tensor) -> Tensor:
        """Summed over tokens."""
        total = log_probabilities.new_zeros(())
        if self.even is not None:
            total = total + (self.even * log_probabilities.sum(-1, keepdim=True)).sum()
        if self.ids is not None and self.more is not None:
            total = total + (self.more * log_probabilities.gather(-1, self.ids)).sum()
        if self.other is not None:
            total = total + torch.linalg.vecdot(self.other, log_probabilities).sum()
        return -total

    def subtract_from(self, gradient: Tensor, weight: float) -> None:
        """Subtract `weight` times the distribution, in place."""
        if self.even is not None:
            gradient.sub_(weight * self.even)
        if self.ids is not None and self.more is not None:
            gradient.scatter_add_(-1, self.ids, -weight * self.more)
        if self.other is not None:
            gradient.sub_(self.other, alpha=weight)


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
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = None  # sums of many chunks would lose bits in half precision
        weight = weight.to(hidden.dtype)
        on_processor = weight.device.type == "cpu"
        block = BLOCK * torch.get_num_threads()
        chunk, block = (CHUNK, block) if on_processor else (CHUNK_ON_CARD, CHUNK_ON_CARD)
        for part in _slices(len(hidden), chunk // len(weight)):
            logits = Prediction(hidden[part], weight, bias).logits
            told = None if teacher is None else teacher.at(part)
            said = told.logits if isinstance(told, Prediction) else told
            for rows in _slices(len(logits), block // len(weight)):
                scores = logits[rows].to(precise)
                losses, slope = _block(scores, targets[part][rows], _at(said, rows), settings)
                ce, kd = ce + losses[0], kd + losses[1]
                logits[rows] = slope  # where they were: nothing else of this size is needed
            slope = logits.to(hidden.dtype)
            if of_hidden is not None:
                of_hidden[part] = slope @ weight
            if ctx.needs_input_grad[1]:
                product = slope.T @ hidden[part]
                of_weight = product if of_weight is None else of_weight.to(precise).add_(product)
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.mark_non_differentiable(ce, kd)
        return (1 - settings.alpha) * ce + settings.alpha * kd, ce, kd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        # Rounded to half precision, the factor would be off by up to 0.4% for all tokens.
        hidden, weight = ctx.saved_tensors
        if hidden is not None:
            hidden = (hidden.to(total.dtype) * total).to(hidden.dtype)
        if weight is not None:
            weight = weight.to(total.dtype, copy=True).mul_(total)
        return hidden, weight, *[None] * 4


def _slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most so many, at least one."""
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
    """Both losses, and the gradient of their weighted sum with respect to the logits."""
    alpha, temperature, smoothing = settings
    ids = targets.unsqueeze(-1)
    share = torch.full_like(ids, 1, dtype=logits.dtype) - smoothing
    even = torch.full_like(share, smoothing / logits.shape[-1]) if smoothing else None
    references = _Wanted(even, ids, share)
    predicted = logits.log_softmax(-1)
    ce, kd = references.cross_entropy(predicted), logits.new_zeros(())
    if teacher is None:
        slope = predicted.exp_()
    else:
        wanted = _distribution(teacher, logits, temperature)
        if temperature == 1:
            kd = wanted.cross_entropy(predicted)
            slope = predicted.exp_()
        else:
            tempered = (logits / temperature).log_softmax(-1)
            kd = wanted.cross_entropy(tempered) * temperature**2
            slope = predicted.exp_().mul_(1 - alpha)
            slope.add_(tempered.exp_(), alpha=alpha * temperature)
        wanted.subtract_from(slope, alpha * temperature)
    references.subtract_from(slope, 1 - alpha)
    return (ce, kd), slope


def _distribution(teacher: Tensor | TopTokens, logits: Tensor, temperature: float) -> _Wanted:
    """The teacher's distribution at a temperature, by its logits or likeliest tokens."""
    if isinstance(teacher, Tensor):
        scores = teacher.to(logits.dtype)
        return _Wanted(other=(scores if temperature == 1 else scores / temperature).softmax(-1))
    others = logits.shape[-1] - teacher.ids.shape[-1]
    top = teacher.log_probabilities.to(logits.dtype)
    left = (1 - top.exp().sum(-1, keepdim=True)).clamp_min(torch.finfo(top.dtype).tiny)
    top = (top / temperature).exp()
    rest = (left / max(others, 1)) ** (1 / temperature) * (others > 0)
    total = top.sum(-1, keepdim=True) + others * rest
    return _Wanted(rest / total, teacher.ids, (top - rest) / total)
