"""How a training ends: on a plateau of validation, in time, or early."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from a2d.errors import UserError
from a2d.training.callbacks import Stopwatch

if TYPE_CHECKING:
    from a2d.training.config import A2DConfig

FINISH_SHARE = 0.25
"""Share of all updates that follows the call of `PlateauSchedule.finish`."""


class PlateauSchedule(LRScheduler):
    """Learning rate with linear warm-up and linear decay to zero over the planned updates.

    `finish` makes the rate decay faster: it reaches zero after a further third of the updates so
    far, which is `FINISH_SHARE` of all updates. `docs/schedule.md` compares this schedule with a
    constant rate.

    Args:
        optimizer: optimiser whose current learning rates are the peaks.
        warmup_steps: number of updates until the peak.
        max_steps: number of planned updates.

    Attributes:
        finish_start: update at which the faster decay begins; None before `finish` is called.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, max_steps: int) -> None:
        self.warmup_steps = warmup_steps
        self.max_steps = max_steps
        self.finish_start: int | None = None
        super().__init__(optimizer)

    def finish(self, step: int) -> None:
        """Begin the faster decay at an update; further calls change nothing."""
        if self.finish_start is None:
            self.finish_start = step

    @property
    def end(self) -> int:
        """Update at which the learning rate is zero."""
        if self.finish_start is None:
            return self.max_steps
        share = math.ceil(self.finish_start / (1 - FINISH_SHARE))
        return min(self.max_steps, max(self.finish_start + 1, share))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state. The planned updates stay, so that they can differ from before."""
        planned = {"warmup_steps": self.warmup_steps, "max_steps": self.max_steps}
        super().load_state_dict(state_dict | planned)

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each parameter group."""
        return [base * self._factor(self.last_epoch) for base in self.base_lrs]

    def _factor(self, step: int) -> float:
        if self.finish_start is None or step <= self.finish_start:
            warmup = (step + 1) / max(1, self.warmup_steps)
            decay = (self.max_steps - step) / max(1, self.max_steps - self.warmup_steps)
            return max(0.0, min(1.0, warmup, decay))
        finish = (self.end - step) / max(1, self.end - self.finish_start)
        return self._factor(self.finish_start) * max(0.0, finish)


class FinishOnPlateau(TrainerCallback, ExportableState):
    """Callback that calls `PlateauSchedule.finish` on a plateau, and ends the training.

    A validation counts as an improvement if the Trainer's `metric_for_best_model` or the
    cross-entropy has a new best value. The cross-entropy counts too, because models with random
    initial weights lower it long before they translate.

    Args:
        patience: number of validations in a row without improvement that make a plateau.
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
        if lr_scheduler is None:  # `evaluate` was called outside of a training
            return
        name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        if name not in metrics:
            raise UserError(
                f"metric_for_best_model is {args.metric_for_best_model!r}, which validations do "
                f"not measure: choose one of {', '.join(sorted(metrics))}."
            )
        value = metrics[name]
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
        """End the training with a validation and a checkpoint once the learning rate is zero."""
        if state.global_step >= lr_scheduler.end:
            control.should_log = control.should_evaluate = control.should_save = True
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """State that transformers saves in checkpoints."""
        return {
            "args": {"patience": self.patience},
            "attributes": {
                "best": self.best,
                "least_ce": self.least_ce,
                "validations_since_best": self.validations_since_best,
            },
        }


class TimeLimit(Stopwatch):
    """Callback that calls `PlateauSchedule.finish` early enough for a training to end in time.

    Interrupted and resumed parts of a training are added up. The number of updates depends on the
    clock, so that a repeated training gives another model.

    Args:
        limit: duration that the training may take, in seconds.
        seconds: duration so far, in seconds.
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
        """Compare the duration with the limit."""
        self._tick()
        if self.seconds >= self.limit * (1 - FINISH_SHARE):
            lr_scheduler.finish(state.global_step)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the run's own `Stopwatch` adds the duration to the log."""

    def state(self) -> dict[str, Any]:
        """State that transformers saves in checkpoints."""
        return {"args": {"limit": self.limit, "seconds": self.seconds}, "attributes": {}}


_SETTINGS: dict[type, str] = {
    FinishOnPlateau: "patience",
    EarlyStoppingCallback: "early_stopping_patience",
    TimeLimit: "limit",
}
"""Attribute of each callback that is a setting, not a state."""


def ends_of(args: A2DConfig) -> Iterator[TrainerCallback]:
    """Yield the callbacks that end a training, by its settings."""
    if args.plateau_patience is not None:
        yield FinishOnPlateau(args.plateau_patience)
    elif args.early_stopping_patience is not None:
        yield EarlyStoppingCallback(args.early_stopping_patience)
    if args.max_hours is not None:
        yield TimeLimit(3600 * args.max_hours)


def take_settings(callbacks: Iterable[TrainerCallback], others: Iterable[TrainerCallback]) -> None:
    """Set callbacks as others of the same class are set; their states stay."""
    sources = {type(callback): callback for callback in others}
    for callback in callbacks:
        source = sources.get(type(callback))
        if source is not None:
            name = _SETTINGS[type(callback)]
            setattr(callback, name, getattr(source, name))
