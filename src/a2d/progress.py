"""Progress of a run: bars on a terminal, lines elsewhere, and a log file."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

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
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from a2d.endings import LOG
from a2d.errors import UserError, disk_is_full

logger = logging.getLogger(__name__)


class Event(NamedTuple):
    """Progress of a task, or a warning.

    Attributes:
        task: name of the task.
        completed, total: steps done, and all steps.
        note: short text beside the bar, such as the latest loss.
        warning: message to the user; the event then carries no progress.
    """

    task: str
    completed: int = 0
    total: int = 0
    note: str = ""
    warning: str = ""


Report = Callable[[Event], None]


class Bars:
    """Display of the progress of tasks, from events of this process or others.

    A terminal shows a bar per task. Other outputs, such as a file or a CI log, get plain lines: at
    the start and the end of a task, and every `_PAUSE` seconds in between.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._draws_bars = _draws(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not self._draws_bars,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, _Lines] = {}

    def __enter__(self) -> Bars:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop drawing; the bars stay on the screen."""
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Show an event."""
        if event.warning:
            text = escape(f"{event.task}: {event.warning}")
            self._console.print(f"[yellow]Warning:[/] {text}")
        elif self._draws_bars:
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
"""Shortest time between two lines of a task, except its last line, in seconds."""


class _Lines:
    """Selection of the events of one task that become lines."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last = float("-inf")
        self._ended = False

    def line(self, event: Event) -> str | None:
        """Line for an event; None if the last line is recent or was the task's end."""
        now = time.monotonic()
        ends = event.completed >= event.total
        if self._ended or not (ends or now - self._last >= _PAUSE):
            return None
        self._last, self._ended = now, ends
        share = event.completed / event.total if event.total else 1.0
        elapsed = timedelta(seconds=round(now - self._start))
        parts = [f"{event.completed:,}/{event.total:,} ({share:.0%})", str(elapsed), event.note]
        return f"{event.task}: {'  '.join(filter(None, parts))}"


def _draws(console: Console) -> bool:
    return bool(console.is_interactive or console.is_jupyter)


@contextmanager
def show_activity(console: Console, activity: str) -> Iterator[None]:
    """Show the current activity: a spinner on a terminal, a line elsewhere."""
    if _draws(console):
        with console.status(activity):
            yield
    else:
        console.print(activity, soft_wrap=True)
        yield


class CountLine:
    """A line on standard error that counts translated lines, if standard error is a terminal.

    Args:
        shown: False: show nothing, because translations appear on the same terminal.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown and sys.stderr is not None and sys.stderr.isatty()
        self._start = time.monotonic()
        self._last = float("-inf")
        self._count = 0

    def __enter__(self) -> CountLine:
        """Start counting."""
        return self

    def __exit__(self, *error: object) -> None:
        """Show the last count, and end the line."""
        if self._shown and self._count:
            self._write()
            print(file=sys.stderr)

    def show(self, count: int) -> None:
        """Show a number of lines, unless the last number is recent."""
        self._count = count
        if self._shown and time.monotonic() - self._last >= _COUNT_PAUSE:
            self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        rate = self._count / max(self._last - self._start, 1e-3)
        line = f"{self._count:,} lines, {rate:,.1f} per second"
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


_COUNT_PAUSE = 0.2
"""Shortest time between two updates of a count, in seconds."""


class WarningEvents(logging.Handler):
    """Log handler that turns warnings into events."""

    def __init__(self, name: str, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._name = name
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report a warning."""
        self._report(Event(self._name, warning=record.getMessage()))


def silence_libraries() -> None:
    """Switch off progress bars and notices of libraries."""
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read when it is imported
    # By default tqdm makes a named semaphore, which a killed process leaves behind.
    tqdm.set_lock(threading.RLock())
    # Marian's tokenizers recommend sacremoses for a normalisation that they never apply.
    warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
    threading.excepthook = _show_thread_error


def _show_thread_error(error: threading.ExceptHookArgs) -> None:
    """Show errors of threads, except a full disk, which TensorBoard's next call raises again."""
    if error.exc_value is None or not disk_is_full(error.exc_value):
        threading.__excepthook__(error)


@contextmanager
def log_to(handler: logging.Handler) -> Iterator[None]:
    """Send log records of this package to one handler only, inside a `with` block.

    If the handler writes a file, the error that ends the block is logged too; with its traceback,
    unless it is a `UserError`.
    """
    package = logging.getLogger("a2d")
    level, propagate = package.level, package.propagate
    package.setLevel(logging.INFO)
    package.propagate = False
    package.addHandler(handler)
    try:
        yield
    except Exception as error:
        file = getattr(handler, "baseFilename", None)
        if file is not None and not hasattr(error, LOG):
            if isinstance(error, UserError):
                package.error("%s", error)
            else:
                package.exception("an error ended the work:")
            setattr(error, LOG, file)
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
        package.setLevel(level)
        package.propagate = propagate


def log_file(path: Path) -> logging.Handler:
    """Make a log handler that appends to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class _LogFile(logging.FileHandler):
    """Log file that drops lines on a full disk; the run's own writing reports the full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Print no traceback, unlike Python's handlers."""

    def close(self) -> None:
        """Flush and close the file; ignore errors of the system."""
        with suppress(OSError):
            super().close()
