"""A teacher that is a command: it translates standard input, one sentence a line."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import TemporaryFile
from typing import IO

from a2d.errors import UserError
from a2d.runs.lines import one_line
from a2d.text.bounds import MAX_LINE, format_size

_SAMPLE = 16
"""Sentences of the first sample that a command is timed with."""
_ERRORS = 10_000
"""Bytes of its standard error that are kept."""
_LAST_WORDS = 1.0
"""Seconds to wait for the end of its standard error."""
_LONG_ENOUGH = 2.0
"""Seconds: the sample is doubled until the command needs as long, beside its start."""


def check_command(command: str) -> list[str]:
    """Split a command as a shell would.

    Raises:
        UserError: a quote is open, or there is no such program.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UserError(
            f"teacher.command {command!r} cannot be split ({error}): quote it as for a shell."
        ) from error
    if not arguments or shutil.which(arguments[0]) is None:
        raise UserError(
            f"teacher.command {command!r}: there is no program {''.join(arguments[:1])!r}: install "
            "it, or give its path."
        )
    return arguments


def translate_by_command(
    command: str, sentences: Sequence[str], progress: Callable[[int], None] = lambda done: None
) -> list[str]:
    """Let a command translate; it gets all sentences, one a line, and returns as many lines.

    Args:
        command: what to run, without a shell.
        sentences: sources; line breaks in them become spaces.
        progress: called with the number of lines that came back so far.

    Raises:
        UserError: the command is missing or fails, its output is not UTF-8, or it has another
            number of lines.
    """
    arguments = check_command(command)
    with TemporaryFile() as source:  # no pipe fills up while another one is read
        source.write("".join(f"{one_line(text)}\n" for text in sentences).encode())
        source.seek(0)
        try:
            process = subprocess.Popen(
                arguments,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(
                f"teacher.command {command!r} cannot be started: {error.strerror or error}."
            ) from error
        errors = bytearray()
        reader = threading.Thread(target=_drain, args=(process.stderr, errors), daemon=True)
        reader.start()
        try:
            lines = _lines(process, len(sentences), progress)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started
                process.wait()
            reader.join(_LAST_WORDS)  # what it has started may hold it open
        fault = _fault(process.returncode, lines, len(sentences))
        if fault is not None:
            first = _first_line(errors)
            said = f", and says: {first}" if first else "."
            raise UserError(f"teacher.command {command!r} {fault}{said}")
    return [one_line(line.decode()) for line in lines]


def sentences_per_second(command: str, sentences: Sequence[str]) -> float | None:
    """Speed of a command without its start; None where that takes the time, so that it is unknown.

    Args:
        command: as in `translate_by_command`.
        sentences: sources; as many are translated as a while takes.
    """
    count, start = _SAMPLE, _seconds(command, sentences[:1])
    while True:
        sample = sentences[: count + 1]
        seconds = _seconds(command, sample) - start
        if seconds >= _LONG_ENOUGH or len(sample) == len(sentences):
            return (len(sample) - 1) / seconds if seconds > start / 4 else None
        count *= 2


def _seconds(command: str, sentences: Sequence[str]) -> float:
    begun = time.perf_counter()
    translate_by_command(command, sentences)
    return time.perf_counter() - begun


def _lines(
    process: subprocess.Popen[bytes], count: int, progress: Callable[[int], None]
) -> list[bytes]:
    """The lines that come back; one too many or too long ends the reading: there may be no end."""
    assert process.stdout is not None
    lines: list[bytes] = []
    with process.stdout as output:
        for line in iter(partial(output.readline, MAX_LINE + 1), b""):
            lines.append(line)
            if len(lines) > count or len(line) > MAX_LINE:
                return lines
            progress(len(lines))
    process.wait()
    return lines


def _fault(status: int, lines: Sequence[bytes], count: int) -> str | None:
    """What is wrong with a command that has ended."""
    if len(lines) > count:
        return f"returns more lines than the {count:,} that it got"
    if lines and len(lines[-1]) > MAX_LINE:
        size = format_size(MAX_LINE)
        return f"returns a line of more than {size} (line {len(lines):,} of {count:,})"
    if status < 0:
        return f"was killed by signal {-status}"
    if status:
        return f"fails with exit code {status}"
    if len(lines) < count:
        return f"returns {len(lines):,} lines for {count:,}"
    for number, line in enumerate(lines, 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"returns a line that is not UTF-8 (line {number:,} of {count:,})"
    return None


def _drain(stream: IO[bytes], start: bytearray) -> None:
    """Keep the start of a stream, and read on to its end, so that its writer is not held up."""
    with stream:
        while block := stream.read1(2**16):  # type: ignore[attr-defined]
            start += block[: _ERRORS - len(start)]


def _first_line(errors: bytearray) -> str:
    text = errors.decode(errors="replace")
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
