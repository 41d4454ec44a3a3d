"""Processes that share a machine's cores or graphics cards and tell their parent how far they are.

With one worker there is no process: work is done where it is submitted.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

import torch

from a2d.endings import LOG
from a2d.errors import UserError, first_line
from a2d.interruptions import leave
from a2d.plugins import load_plugins
from a2d.progress import Report, log_file, log_to, silence_libraries

_PATIENCE = 2.0
"""Seconds that a process has for its own end."""

_events: Any = None  # a worker's way to its parent
_log: Path
_busy = False


class Workers:
    """A pool whose tasks are called as `task(*arguments, report)`.

    Args:
        count: how many tasks run at once; each gets its share of the cores and, in turn, one of
            the graphics cards.
        log: the file that tasks' logging goes to.
        report: told of every event, in this process.
        plugins: Python files that every process imports (`a2d.plugins`).
    """

    def __init__(self, count: int, log: Path, report: Report, plugins: Sequence[str] = ()) -> None:
        self.count = count
        self._report = report
        self._pool: ProcessPoolExecutor | None = None
        if count == 1:
            return
        self._others = multiprocessing.active_children()
        context = multiprocessing.get_context("spawn")
        self._events = context.Queue()
        self._reader = threading.Thread(target=self._forward, daemon=True)
        cards: Any = context.Queue()
        for number in range(count):
            cards.put(_card(number))
        threads = max(1, torch.get_num_threads() // count)
        arguments = (threads, cards, self._events, log, tuple(plugins))
        self._pool = ProcessPoolExecutor(count, context, _start, arguments)
        self._reader.start()

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a task; with one worker, finish it, its errors raised at once."""
        if self._pool is not None:
            return self._pool.submit(_work, task, *arguments)
        future: Future[Any] = Future()
        future.set_result(task(*arguments, self._report))
        return future

    def __enter__(self) -> Workers:
        """Nothing: processes start with the first task."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for what runs; after an error end it at once: what it finished is kept.

        Raises:
            UserError: a process was killed.
        """
        if self._pool is not None and error[0] is None:
            self._pool.shutdown()
            self._events.put(None)
            self._reader.join()
        elif self._pool is not None:
            self._events.cancel_join_thread()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._end_processes()
        if isinstance(error[1], BrokenProcessPool):
            raise UserError(
                "a process was killed, most likely for want of memory: lower compute.parallel or "
                "training.max_tokens; what was finished is kept."
            ) from error[1]

    def _end_processes(self) -> None:
        """Ask processes to end, so that they end what they have started; then kill them."""
        ours = [child for child in multiprocessing.active_children() if child not in self._others]
        for child in ours:
            child.terminate()
        deadline = time.monotonic() + _PATIENCE
        for child in ours:
            child.join(max(0.0, deadline - time.monotonic()))
            child.kill()

    def _forward(self) -> None:
        for event in iter(self._events.get, None):
            self._report(event)


def _card(number: int) -> str | None:
    """The graphics card for a worker, by the name that CUDA gives it; None without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    return cards[number % len(cards)] if torch.cuda.is_available() and cards else None


def _start(threads: int, cards: Any, events: Any, log: Path, plugins: Sequence[str]) -> None:
    global _events, _log
    _events, _log = events, log
    card = cards.get()
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    torch.set_num_threads(threads)
    silence_libraries()
    load_plugins(plugins)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers
    signal.signal(signal.SIGTERM, _end)
    sys.unraisablehook = _end_after_finaliser


def _end_after_finaliser(error: sys.UnraisableHookArgs) -> None:
    """Send SIGTERM again if it came during a finaliser, where Python drops the exception.

    A thread sends it, because the finaliser must be over then.
    """
    if isinstance(error.exc_value, SystemExit):
        signal.signal(signal.SIGTERM, _end)
        again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(error)


def _end_with_parent() -> None:
    """Leave the folder to a successor when the run is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: Callable[..., Any], *arguments: Any) -> Any:
    global _busy
    try:
        _busy = True
        with log_to(log_file(_log)):
            return task(*arguments, _events.put)
    except SystemExit:  # the pool would go on to the next task
        leave(128 + signal.SIGTERM)
    except Exception as error:
        raise _portable(error) from error
    finally:
        _busy = False


def _portable(error: Exception) -> Exception:
    """An error that the parent can read: one that it cannot would break the pool."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor raises
        other = RuntimeError(f"{type(error).__name__}: {first_line(error)}")
        setattr(other, LOG, getattr(error, LOG, None))
        return other
    return error


def _end(*_: Any) -> NoReturn:
    """End the task, and with it what it started; a second request has nothing to add."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not _busy:
        leave(128 + signal.SIGTERM)
    sys.exit(128 + signal.SIGTERM)
