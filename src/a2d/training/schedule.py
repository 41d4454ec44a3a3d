"""A learning-rate schedule that follows validation: warm-up, constant rate, decay on a plateau."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from a2d.progress import Stopwatch

DECAY_SHARE = 0.25
"""Share of all updates during which the learning rate falls."""


class PlateauSchedule(LRScheduler):
    """Warm up, stay at the peak learning rate, then decay linearly to zero when told to.

    A warmup-stable-decay schedule (Hu et al. 2024, "MiniCPM", section 4) whose decay starts when
    `start_decay` is called, or in time to end at the last planned update. The decay takes
    `DECAY_SHARE` of all updates.

    Args:
        optimizer: its current learning rates are the peaks.
        warmup_steps: updates until the peak is reached.
        max_steps: updates at most.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, max_steps: int) -> None:
        self.warmup_steps = warmup_steps
        self.decay_start = max_steps - _decay_steps(max_steps)
        self.decay_steps = max(1, _decay_steps(max_steps))
        super().__init__(optimizer)

    @property
    def end(self) -> int:
        """The update after which the learning rate is zero."""
        return self.decay_start + self.decay_steps

    def start_decay(self, step: int) -> None:
        """Let the decay start at this update, unless it has started already."""
        if step < self.decay_start:
            self.decay_start = step
            total = math.ceil(step / (1 - DECAY_SHARE))
            self.decay_steps = max(1, min(total - step, self.decay_steps))

    def get_lr(self) -> list[Any]:
        """Learning rate of every parameter group."""
        return [base * self._factor(self.last_epoch) for base in self.base_lrs]

    def _factor(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * min(1.0, max(0.0, (self.end - step) / self.decay_steps))


def _decay_steps(total: int) -> int:
    return max(1, round(DECAY_SHARE * total))


class DecayOnPlateau(TrainerCallback, ExportableState):
    """Starts the decay of a `PlateauSchedule` when validation stops improving; ends the training.

    A validation improves on those before if the Trainer's `metric_for_best_model` or the loss has a
    new best value: models that start at random lower their loss long before they translate.

    Args:
        patience: validations without an improvement before the decay starts.
    """

    def __init__(self, patience: int = 1) -> None:
        self.patience = patience
        self.best = float("-inf")
        self.least_loss = float("inf")
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
        improved = value > self.best or metrics["eval_loss"] < self.least_loss
        self.best = max(self.best, value)
        self.least_loss = min(self.least_loss, metrics["eval_loss"])
        self.validations_since_best = 0 if improved else self.validations_since_best + 1
        if self.validations_since_best >= self.patience:
            lr_scheduler.start_decay(state.global_step)

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
                "least_loss": self.least_loss,
                "validations_since_best": self.validations_since_best,
            },
        }


class TimeLimit(Stopwatch):
    """Starts the decay of a `PlateauSchedule` early enough for the training to end in time.

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
        if self.seconds >= self.limit * (1 - DECAY_SHARE):
            lr_scheduler.start_decay(state.global_step)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Leave the log to `Stopwatch`."""

    def state(self) -> dict[str, Any]:
        """What checkpoints keep."""
        return {"args": {"limit": self.limit, "seconds": self.seconds}, "attributes": {}}
