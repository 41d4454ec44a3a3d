"""Callbacks of the Trainer: progress and duration of a training."""

from __future__ import annotations

import logging
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from a2d.progress import Event, Report

logger = logging.getLogger(__name__)


class TrainingProgress(TrainerCallback):
    """Callback that reports steps, the latest loss and validation BLEU, and logs every value.

    Args:
        name: name of the training, the task of its events.
        report: receiver of the events.
    """

    def __init__(self, name: str, report: Report) -> None:
        self._name = name
        self._report = report
        self._notes = {"loss": "", "BLEU": ""}

    def _report_step(self, completed: int, total: int) -> None:
        note = "  ".join(filter(None, self._notes.values()))
        self._report(Event(self._name, completed, total, note))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report the first step, which is not 0 if the training was interrupted."""
        self._report_step(state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report a step. The last step counts only after the validation that follows it."""
        self._report_step(min(state.global_step, state.max_steps - 1), state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the latest values beside the bar and into the log."""
        logs = logs or {}
        for key, name in (("loss", "loss"), ("eval_bleu", "BLEU")):
            if key in logs:
                self._notes[name] = f"{name} {logs[key]:.2f}"
        values = ", ".join(f"{key} {float(value):.4g}" for key, value in logs.items())
        logger.info("%s: step %d: %s", self._name, state.global_step, values)
        self._report_step(min(state.global_step, state.max_steps - 1), state.max_steps)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report the end, which early stopping may bring before the last planned step."""
        self._report_step(state.global_step, state.global_step)


class Stopwatch(TrainerCallback, ExportableState):
    """Duration of a training in seconds; checkpoints carry the sum over interruptions."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._last = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start counting."""
        self._last = time.monotonic()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Count the step."""
        self._tick()

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Count the validation, which belongs to the training because it selects checkpoints."""
        self._tick()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *rest: Any, **kwargs: Any
    ) -> None:
        """Add the seconds so far to the log entry, for learning curves."""
        self._tick()
        state.log_history[-1]["seconds"] = self.seconds

    def state(self) -> dict[str, Any]:
        """State that transformers saves in checkpoints."""
        return {"args": {"seconds": self.seconds}, "attributes": {}}

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now
