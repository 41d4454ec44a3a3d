"""Watch over a training, which ends at the first loss, gradient or weight that is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from a2d.errors import UserError
from a2d.models.loading import infinite_tensors
from a2d.training.gradients import GradientRecord

_REMEDY = (
    "What usually helps: a lower learning_rate (it was {rate:g}), more warmup_steps, "
    "max_grad_norm=1, a lower beta."
)


class NonFiniteError(UserError):
    """A loss, gradient or weight that is not finite: the same settings would diverge again."""


class FinitenessWatch(TrainerCallback):
    """Callback that ends a training whose loss or gradient is infinite or NaN.

    On CPU it checks after every update. On GPU a check waits for all kernels, so it checks only
    before logs, validations and checkpoints. Under fp16, single losses and gradients overflow and
    the gradient scaler skips their updates. The training then diverges only if all losses, or all
    gradients, since the last check are infinite or NaN.

    Args:
        names: names of the terms, in the order of their sums.
        outside: names of the terms that code from outside the package computes → that code.
        gradients: record of the gradients from that code; None if there is no such code.
    """

    def __init__(
        self,
        names: Sequence[str],
        outside: Mapping[str, str] | None = None,
        gradients: GradientRecord | None = None,
    ) -> None:
        self._names = names
        self._outside = outside or {}
        self._gradients = gradients
        self._first_step: Tensor | None = None
        self._first_sums = torch.empty(0)
        self._all_infinite = torch.empty(0)
        self._norms: dict[int, Tensor] = {}
        self._outside_infinite: dict[int, Tensor] = {}

    def record(self, step: int, sums: Tensor, loss: Tensor) -> None:
        """Record a micro-batch, without waiting for the device.

        Args:
            step: number of the update that the micro-batch belongs to.
            sums: sums of the terms, (terms,).
            loss: loss, a scalar.
        """
        infinite = ~(loss.detach().isfinite() & sums.isfinite().all())
        if self._first_step is None:
            self._first_step = torch.full_like(infinite, -1, dtype=torch.long)
            self._first_sums, self._all_infinite = sums, torch.ones_like(infinite)
        is_first = infinite & (self._first_step < 0)
        self._first_step = torch.where(is_first, step, self._first_step)
        self._first_sums = torch.where(is_first, sums, self._first_sums)
        self._all_infinite = self._all_infinite & infinite

    def record_gradient(self, step: int, norm: Tensor | float) -> None:
        """Record the norm of an update's gradient, without waiting for the device.

        Args:
            step: number of the update.
            norm: norm before clipping, a scalar.
        """
        self._norms[step] = torch.as_tensor(norm).detach()
        if self._gradients is not None and (infinite := self._gradients.take()) is not None:
            self._outside_infinite[step] = infinite

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Check the losses and gradients since the last check.

        Raises:
            NonFiniteError: the training diverged.
        """
        if self._first_step is None:
            return
        must_check = control.should_log or control.should_evaluate or control.should_save
        if args.device.type != "cpu" and not must_check:
            return
        remedy = _REMEDY.format(rate=args.learning_rate)
        step = int(self._first_step)
        infinite = [step for step, norm in self._norms.items() if not norm.isfinite()]
        # An update with such a gradient spoils the losses of all later updates.
        is_cause = step >= 0 and not (infinite and infinite[0] < step)
        if is_cause and (not args.fp16 or bool(self._all_infinite)):
            raise self._loss_error(step, remedy)
        if infinite and (not args.fp16 or len(infinite) == len(self._norms)):
            raise self._gradient_error(infinite[0], remedy)
        self._first_step = None
        self._norms.clear()
        self._outside_infinite.clear()

    def _loss_error(self, step: int, remedy: str) -> NonFiniteError:
        sums = dict(zip(self._names, self._first_sums.tolist(), strict=True))
        terms = ", ".join(f"{name} {value:g}" for name, value in sums.items() if value)
        infinite_terms = {name for name, value in sums.items() if not isfinite(value)}
        if infinite_terms and infinite_terms <= self._outside.keys():
            code = self._outside[min(infinite_terms)]
            remedy = f"Only terms of {code} are not finite: correct it."
        return NonFiniteError(
            f"the training diverged: the loss of update {step:,} is not finite (sums of its "
            f"terms: {terms}). {remedy}"
        )

    def _gradient_error(self, step: int, remedy: str) -> NonFiniteError:
        if step in self._outside_infinite and bool(self._outside_infinite[step]):
            code = next(iter(self._outside.values()))
            remedy = (
                f"It comes from {code}: correct it; a logarithm, a root or a division needs an "
                "argument above 0, also where its result is masked."
            )
        return NonFiniteError(
            f"the training diverged: the loss of update {step:,} is finite, but its gradient is "
            f"not. {remedy}"
        )


def check_weights(model: nn.Module, step: int, rate: float) -> None:
    """Check the weights of a model before it is saved.

    Args:
        model: the model.
        step: number of updates so far, for the message.
        rate: peak learning rate, for the message.

    Raises:
        NonFiniteError: a weight is infinite or NaN.
    """
    infinite = infinite_tensors(model)
    if infinite:
        raise NonFiniteError(
            f"the training diverged: after update {step:,} the weights of {infinite[0]} are not "
            "finite, and nothing is saved. " + _REMEDY.format(rate=rate)
        )
