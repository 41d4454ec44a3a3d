"""Other programs, run by this process: they end with it, and their errors are read."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

_MAX_STDERR = 10_000
"""Bytes of standard error that are stored at its start, and at its end."""
_PATIENCE = 1.0
"""Seconds to wait for the end of standard error, which a program's children may keep open."""


class Program(NamedTuple):
    """A program that runs.

    Attributes:
        process: the process.
        start, end: what standard error begins and ends with; complete when `running` is left.
    """

    process: subprocess.Popen[bytes]
    start: bytearray
    end: bytearray

    @property
    def first_line(self) -> str:
        """First line of standard error that is not blank; empty if there is none."""
        return next(iter(_lines(self.start)), "")

    @property
    def last_line(self) -> str:
        """Last line of standard error that is not blank; empty if there is none."""
        return next(reversed(_lines(self.end)), "")


@contextmanager
def running(arguments: Sequence[str], **options: Any) -> Iterator[Program]:
    """Run a program without a shell; at the end it is killed with its children.

    Args:
        arguments: the program and its arguments.
        options: of `subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, start_new_session=True, **options)
    program = Program(process, bytearray(), bytearray())
    reader = threading.Thread(target=_drain, args=(process.stderr, program), daemon=True)
    reader.start()
    try:
        yield program
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(_PATIENCE)


def _drain(stream: IO[bytes], program: Program) -> None:
    """Read standard error to its end, so that its writer is not blocked; store start and end."""
    with stream:
        while block := stream.read1(2**16):  # type: ignore[attr-defined]
            program.start.extend(block[: _MAX_STDERR - len(program.start)])
            program.end[:] = (program.end + block)[-_MAX_STDERR:]


def _lines(errors: bytearray) -> list[str]:
    text = errors.decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
