"""Handling of Ctrl-C and SIGTERM: commands end in seconds, with one sentence and the usual code."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE = 3.0
"""Seconds that a command has to end by itself; after that, a thread ends the process."""
NUMBERS = (signal.SIGINT, signal.SIGTERM)

resumable = False
"""True if the command works on a run: the same command then continues it."""


class Interrupted(BaseException):
    """Exception for SIGINT and SIGTERM.

    It is not a `KeyboardInterrupt`, because libraries handle that in different ways.

    Attributes:
        code: exit code of the command: 128 + the number of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def message() -> str:
    """Return the sentence that a command ends with at a signal."""
    return "Interrupted: repeat the command to continue a run." if resumable else "Interrupted."


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread at SIGINT or SIGTERM.

    Python handles signals only between two of its instructions, so that a long computation of a
    library delays the exception. A thread therefore ends the process `GRACE` seconds after the
    signal; the system wakes that thread at once.
    """
    global resumable
    resumable = False
    read, write = os.pipe()
    os.set_blocking(write, False)
    threading.Thread(target=_end_after_grace, args=(read,), daemon=True).start()
    handlers = {number: signal.signal(number, _interrupt) for number in NUMBERS}
    descriptor = signal.set_wakeup_fd(write)
    hook, sys.unraisablehook = sys.unraisablehook, _show_unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(write)


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, also in the processes that this one starts; in other threads, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def leave(code: int) -> NoReturn:
    """End the process without unloading modules, which takes seconds for PyTorch."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with_parent() -> None:
    """End this process, a worker, when its parent is killed; a thread calls this function."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in NUMBERS:
        signal.signal(each, signal.SIG_IGN)  # further signals change nothing
    raise Interrupted(number)


def _show_unraisable(error: sys.UnraisableHookArgs) -> None:
    """Show errors of finalisers except `Interrupted`, after which a thread ends the process."""
    if not isinstance(error.exc_value, Interrupted):
        sys.__unraisablehook__(error)


def _end_after_grace(read: int) -> None:
    """Wait for a signal; `GRACE` seconds later, end the process if it still runs."""
    number = 0
    while number not in NUMBERS:
        received = os.read(read, 1)
        if not received:  # the command ended
            os.close(read)
            return
        number = received[0]
    time.sleep(GRACE)
    for child in multiprocessing.active_children():
        child.kill()
    print(message(), file=sys.stderr, flush=True)
    os._exit(128 + number)
