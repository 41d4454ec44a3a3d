"""The training objective: its settings, its terms, and the loss.

It is (Jin et al. 2024, Eq. 12)
``(1-α)·CE + α·KD + β·decay^(epoch-1)·[A_encoder + ½(A_decoder + A_cross)]``: the cross-entropy with
the references, the divergence of next-token distributions from the teacher's, and for each group of
attention the divergence A of the student's aligned maps from the teacher's.
`beta_until` lets β fall linearly to zero beside or instead of the paper's decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from a2d.errors import UserError
from a2d.method.attention import GROUPS
from a2d.method.formulas import FORMULAS
from a2d.method.methods import METHODS, Method
from a2d.plugin_errors import defined_at


class Divisor(IntEnum):
    """Token count that a term is divided by: index in the tensor of counts (2,)."""

    SOURCE_TOKENS = 0
    TARGET_TOKENS = 1


class Moment(NamedTuple):
    """A moment of a training, on which the weights of terms depend.

    Attributes:
        epoch: epoch, counted from 1.
        share: updates so far, as a share of all updates.
    """

    epoch: int
    share: float


class Term(NamedTuple):
    """One term of the objective.

    Attributes:
        name: name in logs, and in the dict that `Distillation` returns.
        weight: factor in the objective at the first update.
        decay: factor by which the weight is multiplied after each epoch.
        until: share of all updates over which the weight falls linearly to zero; None: it does not
            fall.
        divisor: token count that the sum is divided by.
        batch_mean: before anything else, divide the sum over a batch by the number of its target
            positions. Padding counts, too.
    """

    name: str
    weight: float
    decay: float = 1.0
    until: float | None = None
    divisor: Divisor = Divisor.TARGET_TOKENS
    batch_mean: bool = False

    def weight_at(self, moment: Moment) -> float:
        """Return the factor of the term at a moment of the training."""
        weight = self.weight * self.decay ** (moment.epoch - 1)
        if self.until is None:
            return weight
        return weight * max(0.0, 1 - moment.share / self.until)


TOKEN_LOSS = "tokens"
"""Name of the term (1-α)·CE + α·KD, which is computed in one pass with one gradient."""

_GROUP_SHARES = {"encoder": 1.0, "decoder": 0.5, "cross": 0.5}


class Objective(NamedTuple):
    """Settings of the objective, described in `a2d.training.settings`.

    Attributes:
        groups: compared groups, in the order of `GROUPS`.
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
    beta_until: float | None = None

    @property
    def definition(self) -> Method:
        """The method's entry in `METHODS`."""
        return METHODS[self.method]

    @property
    def released_normalisation(self) -> bool:
        """Check whether losses are normalised as in the authors' released code.

        That code divides the loss of encoder maps by target tokens, averages losses on tokens over
        all positions of a batch, and spreads label smoothing over all tokens but the target.
        """
        uses_formula = "formula" in self.definition.settings
        return uses_formula and FORMULAS[self.formula].released_normalisation

    @property
    def terms(self) -> tuple[Term, ...]:
        """Terms that are logged.

        The validation loss is the sum of their means by `weight`, which is the same throughout the
        training, so that losses are comparable.
        """
        released = self.released_normalisation
        alpha = self.alpha if self.definition.distribution else 0.0
        terms = [Term("ce", 1 - alpha, batch_mean=released)]
        if self.definition.distribution:
            terms.append(Term("kd", alpha, batch_mean=released))
        return (*terms, *self._group_terms)

    @property
    def trained_terms(self) -> tuple[Term, ...]:
        """Terms with gradients; the sum of their weighted means is the training loss."""
        return Term(TOKEN_LOSS, 1.0, batch_mean=self.released_normalisation), *self._group_terms

    @property
    def _group_terms(self) -> tuple[Term, ...]:
        if not self.definition.compares:
            return ()
        divisors = {} if self.released_normalisation else {"encoder": Divisor.SOURCE_TOKENS}
        return tuple(
            Term(
                group,
                self.beta * _GROUP_SHARES[group],
                self.decay,
                self.beta_until,
                divisors.get(group, Divisor.TARGET_TOKENS),
            )
            for group in self.groups
        )

    def token_sums(self, losses: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute the sums of the terms on tokens over a batch.

        Args:
            losses: `tokens`, `ce` and `kd`, summed over the batch.
            labels: target token ids (B, T).

        Returns:
            Name of a term → sum.
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

    def loss(self, sums: Mapping[str, Tensor], counts: Tensor, moment: Moment) -> Tensor:
        """Compute the training loss.

        Args:
            sums: name of a term → sum over a batch, a scalar.
            counts: source and target tokens (2,) of the whole optimisation step.
            moment: the moment of the optimisation step.

        Returns:
            A scalar.
        """
        terms = self.trained_terms
        values = torch.stack([sums[term.name] for term in terms])
        weights = torch.tensor([term.weight_at(moment) for term in terms], dtype=torch.float64)
        return (weights.to(values) * means(terms, values, counts)).sum()


class DeclaredObjective(Objective):
    """Objective for `Method.build`: settings that the method does not declare cannot be read.

    Recipes take such settings for unused: a change of them would not train a model again.
    """

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        """Return an attribute.

        Raises:
            UserError: it is a setting that the method does not declare.
        """
        if name in _DECLARED:
            definition = self.definition
            if name not in definition.settings:
                needed = (*definition.build_settings, name)
                raise UserError(
                    f"method {self.method!r}, {defined_at(definition.build)}, reads the setting "
                    f"{name!r}, but does not declare it: write Method(…, build_settings={needed})."
                )
        return super().__getattribute__(name)


_DECLARED = frozenset(Objective._fields) - {"method", "groups", "label_smoothing"}
"""Settings that not all methods use."""


def detached_sums(terms: Sequence[Term], sums: Mapping[str, Tensor]) -> Tensor:
    """Stack the sums of terms into a float32 tensor (terms,) without gradients."""
    return torch.stack([sums[term.name].detach().float() for term in terms])


def means(terms: Sequence[Term], sums: Tensor, counts: Tensor) -> Tensor:
    """Divide sums by each term's count.

    Args:
        terms: the terms.
        sums: sums of the terms (terms,).
        counts: source and target tokens (2,).

    Returns:
        Means (terms,).
    """
    return sums / torch.stack([counts[term.divisor] for term in terms])
