"""The training objective: its settings, its terms by name, and the loss made of them.

With S and T the student's and the teacher's attention maps, it is (Jin et al. 2024, Eq. 12)
``(1-α)·CE + α·KD + β·decay^(epoch-1)·[A_encoder + ½(A_decoder + A_cross)]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from a2d.method.attention import GROUPS
from a2d.method.formulas import FORMULAS
from a2d.method.methods import METHODS, Method


class Divisor(IntEnum):
    """Counts of a batch that sums are divided by: positions in the tensor of counts, (2,)."""

    SOURCE_TOKENS = 0
    TARGET_TOKENS = 1


class Term(NamedTuple):
    """One term of the objective.

    Attributes:
        name: its name in logs, and in the dict that `Distillation` returns.
        weight: its factor in the objective, in the first epoch.
        decay: factor on the weight after each epoch.
        divisor: count that its sum is divided by.
        batch_mean: the sum over a batch is first divided by all target positions of that batch,
            padding included.
    """

    name: str
    weight: float
    decay: float = 1.0
    divisor: Divisor = Divisor.TARGET_TOKENS
    batch_mean: bool = False

    def weight_in(self, epoch: int | None) -> float:
        """Return the weight in an epoch, counted from 1.

        None leaves it undecayed, as validation does, so that losses compare across epochs.
        """
        return self.weight if epoch is None else self.weight * self.decay ** (epoch - 1)


TOKEN_LOSS = "tokens"
"""Name of (1-α)·CE + α·KD, which are computed in one pass and have one gradient."""

_GROUP_SHARES = {"encoder": 1.0, "decoder": 0.5, "cross": 0.5}


class Objective(NamedTuple):
    """Settings of the objective (`A2DConfig` explains each).

    Attributes:
        groups: the groups compared, in the order of `GROUPS`.
    """

    method: str
    formula: str
    alpha: float
    temperature: float
    label_smoothing: float
    groups: tuple[str, ...] = GROUPS
    alignment_start: str = "uniform"
    beta: float = 1.0
    decay: float = 1.0

    @property
    def definition(self) -> Method:
        """The method's entry in `METHODS`."""
        return METHODS[self.method]

    @property
    def released_normalisation(self) -> bool:
        """Whether to normalise as the authors' released code does.

        It divides encoder maps by target tokens, averages losses on tokens over all positions of a
        batch, and spreads label smoothing over the tokens other than the target.
        """
        uses_formula = "formula" in self.definition.settings
        return uses_formula and FORMULAS[self.formula].released_normalisation

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms that are logged; their weighted means sum up to the validation loss."""
        released = self.released_normalisation
        alpha = self.alpha if self.definition.distribution else 0.0
        terms = [Term("ce", 1 - alpha, batch_mean=released)]
        if self.definition.distribution:
            terms.append(Term("kd", alpha, batch_mean=released))
        return (*terms, *self._group_terms)

    @property
    def trained_terms(self) -> tuple[Term, ...]:
        """The terms that have gradients; their weighted means sum up to the training loss."""
        return Term(TOKEN_LOSS, 1.0, batch_mean=self.released_normalisation), *self._group_terms

    @property
    def _group_terms(self) -> tuple[Term, ...]:
        if not self.definition.compares:
            return ()
        encoder = Divisor.SOURCE_TOKENS
        if self.released_normalisation:
            encoder = Divisor.TARGET_TOKENS
        divisors = {"encoder": encoder}
        return tuple(
            Term(
                group,
                self.beta * _GROUP_SHARES[group],
                self.decay,
                divisors.get(group, Divisor.TARGET_TOKENS),
            )
            for group in self.groups
        )

    def token_sums(self, losses: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return the sums of the terms on tokens over a batch.

        Args:
            losses: `tokens`, `ce` and `kd`, summed over the batch.
            labels: target tokens (B, T).
        """
        sums = {}
        for term in (*self.trained_terms, *self.terms):
            if term.name in losses:
                factor = 1 / labels.numel() if term.batch_mean else 1.0
                sums[term.name] = losses[term.name] * factor
        return sums

    def label_smoothing_for(self, vocabulary: int) -> float:
        """Return the label smoothing over all tokens of a vocabulary (PyTorch's convention)."""
        if self.released_normalisation:
            return self.label_smoothing * vocabulary / (vocabulary - 1)
        return self.label_smoothing

    def loss(self, sums: Mapping[str, Tensor], counts: Tensor, epoch: int) -> Tensor:
        """Return the training loss.

        Args:
            sums: the sum of each term over a batch, scalars.
            counts: source and target tokens of the whole optimisation step, (2,).
            epoch: counted from 1.
        """
        terms = self.trained_terms
        values = torch.stack([sums[term.name] for term in terms])
        weights = torch.tensor([term.weight_in(epoch) for term in terms], dtype=torch.float64)
        return (weights.to(values) * means(terms, values, counts)).sum()


def detached_sums(terms: Sequence[Term], sums: Mapping[str, Tensor]) -> Tensor:
    """Stack the sums of terms, (terms,), in float32 and without gradients."""
    return torch.stack([sums[term.name].detach().float() for term in terms])


def means(terms: Sequence[Term], sums: Tensor, counts: Tensor) -> Tensor:
    """Divide sums by each term's count.

    Args:
        terms: the terms.
        sums: their sums, (terms,).
        counts: source and target tokens, (2,).
    """
    return sums / torch.stack([counts[term.divisor] for term in terms])
