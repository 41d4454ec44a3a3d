"""What a run shows while it works: a bar per long task, or a line now and then, and a log."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from datasets import disable_progress_bars
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging as transformers_logging

from a2d.endings import LOG
from a2d.errors import UserError, disk_is_full

logger = logging.getLogger(__name__)


class Event(NamedTuple):
    """News of a task: how far it is, or (with `warning`) something the user must see."""

    task: str
    completed: int = 0
    total: int = 0
    note: str = ""
    warning: str = ""


Report = Callable[[Event], None]


class Bars:
    """Progress of tasks, fed by events from this process or others.

    A terminal shows a bar per task. Anything else, such as a file or a log of CI, gets plain lines:
    at a task's start and end, and every `_PAUSE` seconds between.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn = console.is_interactive or console.is_jupyter
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not self._drawn,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, _Lines] = {}

    def __enter__(self) -> Bars:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bars as they are."""
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Draw an event."""
        if event.warning:
            text = escape(f"{event.task}: {event.warning}")
            self._console.print(f"[yellow]Warning:[/] {text}")
        elif self._drawn:
            self._draw(event)
        else:
            line = self._lines.setdefault(event.task, _Lines()).line(event)
            if line is not None:
                self._console.print(Text(line), soft_wrap=True)

    def _draw(self, event: Event) -> None:
        if event.task not in self._tasks:
            self._tasks[event.task] = self._progress.add_task(event.task, note="")
        self._progress.update(
            self._tasks[event.task],
            completed=event.completed,
            total=event.total,
            note=event.note,
        )
        if event.completed >= event.total:
            self._progress.stop_task(self._tasks[event.task])


_PAUSE = 30.0
"""Least seconds between two lines of a task, other than its first and its last."""


class _Lines:
    """Chooses which events of one task become lines."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._last = float("-inf")
        self._over = False

    def line(self, event: Event) -> str | None:
        """The line for an event; None where the last one is recent, or was the task's end."""
        now = time.monotonic()
        over = event.completed >= event.total
        if self._over or not (over or now - self._last >= _PAUSE):
            return None
        self._last, self._over = now, over
        share = event.completed / event.total if event.total else 1.0
        elapsed = timedelta(seconds=round(now - self._begun))
        parts = [f"{event.completed:,}/{event.total:,} ({share:.0%})", str(elapsed), event.note]
        return f"{event.task}: {'  '.join(filter(None, parts))}"


@contextmanager
def doing(console: Console, what: str) -> Iterator[None]:
    """Show what is being done: a status on a terminal, otherwise a line."""
    if console.is_interactive or console.is_jupyter:
        with console.status(what):
            yield
    else:
        console.print(what, soft_wrap=True)
        yield


class TrainingProgress(TrainerCallback):
    """Reports a training's steps, latest loss and validation BLEU; logs every figure."""

    def __init__(self, name: str, report: Report) -> None:
        self._name = name
        self._report = report
        self._notes = {"loss": "", "BLEU": ""}

    def _tell(self, completed: int, total: int) -> None:
        note = "  ".join(filter(None, self._notes.values()))
        self._report(Event(self._name, completed, total, note))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin, at the step from which an interrupted training goes on."""
        self._tell(state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go one step on; after the last one, a validation is still to come."""
        self._tell(min(state.global_step, state.max_steps - 1), state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the latest figures, with the bar and in the log."""
        logs = logs or {}
        for key, name in (("loss", "loss"), ("eval_bleu", "BLEU")):
            if key in logs:
                self._notes[name] = f"{name} {logs[key]:.2f}"
        figures = ", ".join(f"{key} {float(value):.4g}" for key, value in logs.items())
        logger.info("%s: step %d: %s", self._name, state.global_step, figures)
        self._tell(min(state.global_step, state.max_steps - 1), state.max_steps)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End, perhaps before the last step planned (early stopping)."""
        self._tell(state.global_step, state.global_step)


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

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *rest: Any, **kwargs: Any
    ) -> None:
        """Note the seconds so far with what was logged, for learning curves."""
        self._tick()
        state.log_history[-1]["seconds"] = self.seconds

    def state(self) -> dict[str, Any]:
        """What the checkpoints keep."""
        return {"args": {"seconds": self.seconds}, "attributes": {}}

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now


class WarningEvents(logging.Handler):
    """Turns this package's warnings into events."""

    def __init__(self, name: str, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._name = name
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report a warning."""
        self._report(Event(self._name, warning=record.getMessage()))


def silence_libraries() -> None:
    """Keep the libraries' own progress bars and notices off the screen."""
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    # Marian's tokenizers recommend it for a normalisation that they never apply.
    warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
    threading.excepthook = _show_thread_error


def _show_thread_error(error: threading.ExceptHookArgs) -> None:
    """Show what a thread failed at, but for a full disk: TensorBoard's next call raises that."""
    if error.exc_value is None or not disk_is_full(error.exc_value):
        threading.__excepthook__(error)


@contextmanager
def logged(handler: logging.Handler) -> Iterator[None]:
    """Send what this package logs to a handler, and nowhere else, for a while.

    The traceback of an error that is not the user's is logged too, where the handler has a file.
    """
    own = logging.getLogger("a2d")
    level, propagate = own.level, own.propagate
    own.setLevel(logging.INFO)
    own.propagate = False
    own.addHandler(handler)
    try:
        yield
    except Exception as error:
        file = getattr(handler, "baseFilename", None)
        if file is not None and not isinstance(error, UserError) and not hasattr(error, LOG):
            own.exception("an error ended the work:")
            setattr(error, LOG, file)
        raise
    finally:
        own.removeHandler(handler)
        handler.close()
        own.setLevel(level)
        own.propagate = propagate


def log_file(path: Path) -> logging.Handler:
    """A handler that appends to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class _LogFile(logging.FileHandler):
    """Loses lines on a full disk, which ends the run by what it has to write."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do without the traceback of Python's handlers."""

    def close(self) -> None:
        """Write what is waiting, if it can be."""
        with suppress(OSError):
            super().close()
