"""Terms of the objective, averaged over tokens, batches and processes."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from a2d.training.distillation import IGNORED, TERMS


class TermAverages:
    """Sums of terms and token counts since the last `take`."""

    def __init__(self) -> None:
        self._sums: Tensor | float = 0.0
        self._counts: Tensor | int = 0

    def add(self, sums: Tensor, counts: Tensor) -> None:
        """Add the sums of a batch, (5,), and its numbers of source and target tokens, (2,)."""
        self._sums = self._sums + sums
        self._counts = self._counts + counts

    def take(self, accelerator: Accelerator, official: bool) -> dict[str, float]:
        """Return the averages over all processes and start anew.

        Args:
            accelerator: knows the other processes.
            official: normalise as the released code does.
        """
        sums = accelerator.reduce(self._sums, reduction="sum")
        counts = accelerator.reduce(self._counts, reduction="sum")
        self._sums, self._counts = 0.0, 0
        means = sums / denominators(counts, official)
        return dict(zip(TERMS, means.tolist(), strict=True))


def sums_of(terms: dict[str, Tensor]) -> Tensor:
    """The sums of `TERMS` over a batch, (5,), in float32 and without gradients."""
    return torch.stack([terms[name].detach().float() for name in TERMS])


def count_tokens(inputs: dict[str, Any]) -> Tensor:
    """Count a batch's source and target tokens, (2,), without padding."""
    return torch.stack([inputs["attention_mask"].sum(), inputs["labels"].ne(IGNORED).sum()])


def denominators(counts: Tensor, official: bool) -> Tensor:
    """Tokens that each of `TERMS` is divided by: source for the encoder's maps, else target.

    The released code divides everything by the number of target tokens.

    Args:
        counts: source and target tokens, (2,).
        official: as the released code does.
    """
    source, target = counts
    encoder = target if official else source
    return torch.stack([target, target, encoder, target, target])
