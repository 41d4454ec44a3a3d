"""The distillation objective's terms, as sums over tokens: who calls them knows the counts.

Sums, not means, so that an optimisation step is the same however its batch is cut into
micro-batches and devices: the caller divides by the number of tokens of the whole step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Label-smoothed cross-entropy with the references, summed over tokens.

    Args:
        logits: student logits (N, V).
        targets: token ids (N,).
        label_smoothing: mass spread evenly over all V tokens (PyTorch's convention). fairseq's ε,
            spread over the V-1 others, is this with ε·V/(V-1).

    Returns:
        A scalar in nats.
    """
    return functional.cross_entropy(
        logits, targets, reduction="sum", label_smoothing=label_smoothing
    )


def word_level_kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Word-level knowledge distillation, summed over tokens: -τ² Σ p_T log p_S.

    Hinton et al. 2015, section 2; Kim & Rush 2016, section 3.1. Cross-entropy, not KL: the two
    differ by the teacher's entropy, which has no gradient.

    Args:
        student: student logits (N, V).
        teacher: teacher logits (N, V); no gradient flows to them.
        temperature: τ, dividing both sides' logits.

    Returns:
        A scalar in nats.
    """
    probabilities = (teacher.detach() / temperature).softmax(dim=-1)
    loss = functional.cross_entropy(student / temperature, probabilities, reduction="sum")
    return loss * temperature**2


def top_word_level_kd(
    student: Tensor, tokens: Tensor, log_probabilities: Tensor, temperature: float = 1.0
) -> Tensor:
    """`word_level_kd` of a teacher's likeliest tokens, the rest spread evenly over the others.

    Args:
        student: student logits (N, V).
        tokens: the teacher's k likeliest tokens (N, k).
        log_probabilities: theirs (N, k), in nats, at temperature 1.
        temperature: τ, dividing both sides' logits.

    Returns:
        A scalar in nats.
    """
    others = student.shape[-1] - tokens.shape[-1]
    top = log_probabilities.to(student.dtype)
    left = (1 - top.exp().sum(-1, keepdim=True)).clamp_min(torch.finfo(top.dtype).tiny)
    top = (top / temperature).exp()
    rest = (left / max(others, 1)) ** (1 / temperature) * (others > 0)
    total = top.sum(-1, keepdim=True) + others * rest
    top, rest = top / total, rest / total
    predicted = (student / temperature).log_softmax(dim=-1)
    of_top = ((top - rest) * predicted.gather(-1, tokens)).sum()
    of_rest = (rest * predicted.sum(-1, keepdim=True)).sum()
    return -(of_top + of_rest) * temperature**2


def attention_transfer(intermediate: Tensor, teacher: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """Row-wise KL(teacher row ‖ softmax(intermediate row)), every map compared.

    Jin et al. 2024, Eq. 10: nothing is reduced over layers or heads before the comparison. Each
    query row is a distribution over its valid keys; padding and future positions take no part.

    Args:
        intermediate: the alignment's output (B, C_T, Q, K), any real numbers.
        teacher: the teacher's maps (B, C_T, Q, K), probabilities; no gradient flows to them.
        keys: True where a query may attend to a key, broadcastable to (B, Q, K).
        rows: True at valid query positions, (B, Q).

    Returns:
        A scalar in nats: summed over valid query rows, averaged over teacher maps.
    """
    valid = keys.unsqueeze(1)
    target, scores = precise(teacher.detach()), precise(intermediate)
    scores = scores.masked_fill(~valid, torch.finfo(scores.dtype).min)
    predicted = scores.log_softmax(dim=-1)
    tiny = torch.finfo(target.dtype).tiny
    divergence = target * (target.clamp_min(tiny).log() - predicted)
    chosen = (valid & rows[:, None, :, None]).expand_as(divergence)
    return divergence.masked_fill(~chosen, 0.0).sum() / teacher.shape[1]


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
