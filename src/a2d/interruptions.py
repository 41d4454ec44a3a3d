"""Ctrl-C and SIGTERM: a command ends within seconds, with one sentence and the usual exit code."""

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
"""Seconds that a command has for its own end; then the process is ended from outside."""
NUMBERS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = "Interrupted: the same command continues a run."


class Interrupted(BaseException):
    """A signal to end.

    It is no `KeyboardInterrupt`, which libraries handle in ways of their own.

    Attributes:
        code: exit code of the command, 128 + the signal's number.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread at SIGINT or SIGTERM; end the process if that is late.

    Python handles signals between two of its own steps, which a long computation of a library
    delays. A thread that the system wakes at once counts `GRACE` seconds meanwhile.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    threading.Thread(target=_end_late_ones, args=(read,), daemon=True).start()
    handlers = {number: signal.signal(number, _interrupt) for number in NUMBERS}
    descriptor = signal.set_wakeup_fd(write)
    shown, sys.unraisablehook = sys.unraisablehook, _show_unraisable
    try:
        yield
    finally:
        sys.unraisablehook = shown
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(write)


def leave(code: int) -> NoReturn:
    """End the process without taking its modules apart, which takes PyTorch seconds."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in NUMBERS:
        signal.signal(each, signal.SIG_IGN)  # the end has begun
    raise Interrupted(number)


def _show_unraisable(error: sys.UnraisableHookArgs) -> None:
    """Show what a finaliser failed at, but for `Interrupted`: the process is ended from outside."""
    if not isinstance(error.exc_value, Interrupted):
        sys.__unraisablehook__(error)


def _end_late_ones(read: int) -> None:
    """Wait for a signal, then for the process to end by itself."""
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
    print(MESSAGE, file=sys.stderr, flush=True)
    os._exit(128 + number)
