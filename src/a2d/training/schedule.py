"""A learning-rate schedule that follows validation: a linear decay, cut short on a plateau."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from a2d.progress import Stopwatch

FINISH_SHARE = 0.25
"""Share of all updates that a training still takes once its end is near."""


class PlateauSchedule(LRScheduler):
    """Warm up, decay linearly to zero over the planned updates, or sooner if told to.

    `finish` lets the learning rate fall faster, so that it is zero after a third as many updates as
    there have been: `FINISH_SHARE` of all. `docs/schedule.md` compares it with a constant rate.

    Args:
        optimizer: its current learning rates are the peaks.
        warmup_steps: updates until the peak is reached.
        max_steps: planned updates.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, max_steps: int) -> None:
        self.warmup_steps = warmup_steps
        self.max_steps = max_steps
        self.end = max_steps
        self.finish_start: int | None = None
        super().__init__(optimizer)

    def finish(self, step: int) -> None:
        """Let the last updates begin at this one, unless they have begun already."""
        if self.finish_start is None:
            self.finish_start = step
            self.end = min(self.max_steps, max(step + 1, math.ceil(step / (1 - FINISH_SHARE))))

    def get_lr(self) -> list[Any]:
        """Learning rate of every parameter group."""
        return [base * self._factor(self.last_epoch) for base in self.base_lrs]

    def _factor(self, step: int) -> float:
        if self.finish_start is None or step <= self.finish_start:
            warm = (step + 1) / max(1, self.warmup_steps)
            left = (self.max_steps - step) / max(1, self.max_steps - self.warmup_steps)
            return max(0.0, min(1.0, warm, left))
        share = (self.end - step) / max(1, self.end - self.finish_start)
        return self._factor(self.finish_start) * max(0.0, share)


class FinishOnPlateau(TrainerCallback, ExportableState):
    """Lets a `PlateauSchedule` finish when validation stops improving; ends the training.

    A validation improves on those before if the Trainer's `metric_for_best_model` or the
    cross-entropy has a new best value: models that start at random lower it long before they
    translate.

    Args:
        patience: validations without an improvement before it finishes.
    """

    def __init__(self, patience: int = 1) -> None:
        self.patience = patience
        self.best = float("-inf")
        self.least_ce = float("inf")
        self.validations_since_best = 0

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        lr_scheduler: PlateauSchedule | None = None,
        **kwargs: Any,
    ) -> None:
        """Count validations without improvement."""
        if lr_scheduler is None:  # a validation outside of a training
            return
        value = metrics[f"eval_{args.metric_for_best_model}"]
        value = value if args.greater_is_better else -value
        improved = value > self.best or metrics["eval_ce"] < self.least_ce
        self.best = max(self.best, value)
        self.least_ce = min(self.least_ce, metrics["eval_ce"])
        self.validations_since_best = 0 if improved else self.validations_since_best + 1
        if self.validations_since_best >= self.patience:
            lr_scheduler.finish(state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        lr_scheduler: PlateauSchedule,
        **kwargs: Any,
    ) -> None:
        """End with a last validation and checkpoint once the learning rate is zero."""
        if state.global_step >= lr_scheduler.end:
            control.should_log = control.should_evaluate = control.should_save = True
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """What checkpoints keep."""
        return {
            "args": {"patience": self.patience},
            "attributes": {
                "best": self.best,
                "least_ce": self.least_ce,
                "validations_since_best": self.validations_since_best,
            },
        }


class TimeLimit(Stopwatch):
    """Lets a `PlateauSchedule` finish early enough for the training to end in time.

    Time counts over interruptions. The clock decides how many updates there are, so that a second
    training with a limit gives another model.

    Args:
        limit: seconds that the whole training may take.
        seconds: seconds that it has taken.
    """

    def __init__(self, limit: float = float("inf"), seconds: float = 0.0) -> None:
        super().__init__(seconds)
        self.limit = limit

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        lr_scheduler: PlateauSchedule,
        **kwargs: Any,
    ) -> None:
        """Compare the time with the limit."""
        self._tick()
        if self.seconds >= self.limit * (1 - FINISH_SHARE):
            lr_scheduler.finish(state.global_step)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Leave the log to `Stopwatch`."""

    def state(self) -> dict[str, Any]:
        """What checkpoints keep."""
        return {"args": {"limit": self.limit, "seconds": self.seconds}, "attributes": {}}
