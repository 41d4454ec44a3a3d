"""What a run shows while it works: one progress bar per long task, and a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)


def bars(console: Console) -> Progress:
    """A group of progress bars in the style of this package."""
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


@contextmanager
def task(progress: Progress, description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show one bar; yields the function that advances it."""
    identity = progress.add_task(description, total=total, note="")
    yield lambda count: progress.advance(identity, count)
    progress.stop_task(identity)


class TrainingProgress(TrainerCallback):
    """Shows a training as one bar with its latest loss and validation BLEU."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._description = description
        self._task: Any = None
        self._note = {"loss": "", "BLEU": ""}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar, at the step from which an interrupted training goes on."""
        self._task = self._progress.add_task(
            self._description, total=state.max_steps, completed=state.global_step, note=""
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance the bar."""
        self._progress.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the latest figures, on the bar and in the log file."""
        logs = logs or {}
        for key, name in (("loss", "loss"), ("eval_bleu", "BLEU")):
            if key in logs:
                self._note[name] = f"{name} {logs[key]:.2f}"
        self._progress.update(self._task, note="  ".join(filter(None, self._note.values())))
        figures = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in logs.items()
        )
        logger.info("%s: step %d: %s", self._description, state.global_step, figures)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar (early stopping may end before the last step)."""
        self._progress.update(self._task, total=state.global_step)
        self._progress.stop_task(self._task)


class Stopwatch(TrainerCallback, ExportableState):
    """Seconds of training, summed over interruptions through the checkpoints."""

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
        """Count the validation: it chooses the checkpoint, so it belongs to the training."""
        self._tick()

    def state(self) -> dict[str, Any]:
        """What the checkpoints keep."""
        return {"args": {"seconds": self.seconds}, "attributes": {}}

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append everything logged by this package, and others' warnings, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, own = logging.getLogger(), logging.getLogger("a2d")
    root.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
