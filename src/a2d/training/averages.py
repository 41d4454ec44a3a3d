"""Averages of the objective's terms over tokens, batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from a2d.method.objective import Term, means
from a2d.text.batching import IGNORE_INDEX


class TermAverages:
    """Sums of terms, and token counts, since the last call of `take`.

    Args:
        terms: terms of the objective, in the order of their sums.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = terms
        self._sums: Tensor | float = 0.0
        self._counts: Tensor | int = 0

    def add(self, sums: Tensor, counts: Tensor) -> None:
        """Add the sums (terms,) and the source and target token counts (2,) of a batch."""
        self._sums = self._sums + sums
        self._counts = self._counts + counts

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Return name → average over all processes, and reset the sums."""
        sums = accelerator.reduce(self._sums, reduction="sum")
        counts = accelerator.reduce(self._counts, reduction="sum")
        self._sums, self._counts = 0.0, 0
        averages = means(self._terms, sums, counts).tolist()
        return {term.name: mean for term, mean in zip(self._terms, averages, strict=True)}


def count_tokens(inputs: dict[str, Any]) -> Tensor:
    """Count the source and target tokens (2,) of a batch, without padding."""
    return torch.stack([inputs["attention_mask"].sum(), inputs["labels"].ne(IGNORE_INDEX).sum()])
