"""Trainings that diverge: noticed at the first loss or weight that is no finite number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from a2d.errors import UserError
from a2d.models.loading import infinite_tensors
from a2d.training.distillation import TERMS

HELP = (
    "What usually helps: a lower learning_rate (it was {rate:g}), more warmup_steps, "
    "max_grad_norm=1, a lower beta. Checkpoints from before it are kept."
)


class DivergenceWatch(TrainerCallback):
    """Ends a training whose loss is no finite number.

    On a processor it looks after every update. On a graphics card, which must not wait for it, it
    looks whenever there is a log, a validation or a checkpoint. Under fp16 single losses overflow,
    and its scaler skips their updates: there all losses since the last look must be bad.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._sums = torch.empty(0)
        self._all_bad = torch.empty(0)

    def see(self, step: int, sums: Tensor, loss: Tensor) -> None:
        """Note a micro-batch: its update's number, the sums of `TERMS`, (5,), and the loss."""
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
        """Look.

        Raises:
            UserError: the training diverged.
        """
        if self._first is None:
            return
        asked = control.should_log or control.should_evaluate or control.should_save
        if args.device.type != "cpu" and not asked:
            return
        first = int(self._first)
        diverged = first >= 0 and (not args.fp16 or bool(self._all_bad))
        if diverged:
            pairs = zip(TERMS, self._sums.tolist(), strict=True)
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
