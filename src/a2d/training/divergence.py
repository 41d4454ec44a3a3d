"""Trainings that diverge: noticed at the first loss or weight that is no finite number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from a2d.errors import UserError
from a2d.models.loading import infinite_tensors

HELP = (
    "What usually helps: a lower learning_rate (it was {rate:g}), more warmup_steps, "
    "max_grad_norm=1, a lower beta. Checkpoints from before it are kept."
)


class DivergenceWatch(TrainerCallback):
    """Ends a training whose loss is no finite number.

    On CPU it checks after every update. On GPU, which would have to wait, it checks before every
    log, validation and checkpoint. Under fp16 single losses overflow, and the gradient scaler skips
    their updates: there all losses since the last check must be infinite or NaN.

    Args:
        names: of the terms, in the order of their sums.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._first: Tensor | None = None
        self._sums = torch.empty(0)
        self._all_bad = torch.empty(0)

    def see(self, step: int, sums: Tensor, loss: Tensor) -> None:
        """Note a micro-batch.

        Args:
            step: the number of its update.
            sums: of its terms, (terms,).
            loss: its loss.
        """
        bad = ~(loss.detach().isfinite() & sums.isfinite().all())
        if self._first is None:
            self._first = torch.full_like(bad, -1, dtype=torch.long)
            self._sums, self._all_bad = sums, torch.ones_like(bad)
        fresh = bad & (self._first < 0)
        self._first = torch.where(fresh, step, self._first)
        self._sums = torch.where(fresh, sums, self._sums)
        self._all_bad = self._all_bad & bad

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Check the losses since the last check.

        Raises:
            UserError: the training diverged.
        """
        if self._first is None:
            return
        due = control.should_log or control.should_evaluate or control.should_save
        if args.device.type != "cpu" and not due:
            return
        first = int(self._first)
        diverged = first >= 0 and (not args.fp16 or bool(self._all_bad))
        if diverged:
            pairs = zip(self._names, self._sums.tolist(), strict=True)
            terms = ", ".join(f"{name} {value:g}" for name, value in pairs if value)
            raise UserError(
                f"the training diverged: the loss of update {first:,} is no finite number (sums of "
                f"its terms: {terms}). " + HELP.format(rate=args.learning_rate)
            )
        self._first = None


def check_weights(model: nn.Module, step: int, rate: float) -> None:
    """Make sure that a model is worth saving.

    Args:
        model: the model.
        step: updates that it has had.
        rate: its peak learning rate.

    Raises:
        UserError: some of its weights are no finite numbers.
    """
    infinite = infinite_tensors(model)
    if infinite:
        raise UserError(
            f"the training diverged: after update {step:,} the weights of {infinite[0]} are no "
            "finite numbers, and nothing is saved. " + HELP.format(rate=rate)
        )
