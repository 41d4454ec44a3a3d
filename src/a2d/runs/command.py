"""Translation by a command that reads standard input, one sentence per line."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from select import select
from tempfile import TemporaryFile

from a2d.errors import UserError
from a2d.programs import running
from a2d.runs.lines import one_line
from a2d.text.bounds import MAX_LINE, format_size

_FIRST_SAMPLE = 16
"""Number of sentences of the first sample that a command is timed with."""
_MIN_SAMPLE_SECONDS = 2.0
"""The sample is doubled until the command takes this long, without its start."""
_PATIENCE = 1.0
"""Seconds to wait for more output of a command that has ended, or for its end without output."""


def check_command(command: str) -> list[str]:
    """Split a command into its arguments as a shell would.

    Raises:
        UserError: a quote is not closed, or the program does not exist.
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
    """Translate with a command, which reads one sentence per line and writes as many lines.

    Args:
        command: the command with its arguments; it runs without a shell.
        sentences: sources; line breaks in them become spaces.
        progress: called with the number of lines that the command has written so far.

    Returns:
        A translation for each source.

    Raises:
        UserError: the command does not exist or fails, or its output is not UTF-8 or has another
            number of lines.
    """
    arguments = check_command(command)
    with TemporaryFile() as source:  # a file, because a full pipe would block both processes
        source.write("".join(f"{one_line(text)}\n" for text in sentences).encode())
        source.seek(0)
        try:
            with running(arguments, stdin=source, stdout=subprocess.PIPE) as program:
                lines = _read_lines(program.process, len(sentences), progress)
                status = program.process.poll()
        except OSError as error:
            raise UserError(
                f"teacher.command {command!r} cannot be started: {error.strerror or error}."
            ) from error
        fault = _find_fault(status, lines, len(sentences))
        if fault is not None:
            message = program.first_line
            end = f", and says: {message}" if message else "."
            raise UserError(f"teacher.command {command!r} {fault}{end}")
    return [one_line(line.decode()) for line in lines]


def sentences_per_second(command: str, sentences: Sequence[str]) -> float | None:
    """Measure the speed of a command without its start.

    Args:
        command: as in `translate_by_command`.
        sentences: sources, of which as many are translated as a measurement needs.

    Returns:
        Sentences per second; None if the start takes most of the time, so that the speed is
        unknown.
    """
    count, start = _FIRST_SAMPLE, _seconds(command, sentences[:1])
    while True:
        sample = sentences[: count + 1]
        seconds = _seconds(command, sample) - start
        if seconds >= _MIN_SAMPLE_SECONDS or len(sample) == len(sentences):
            return (len(sample) - 1) / seconds if seconds > start / 4 else None
        count *= 2


def _seconds(command: str, sentences: Sequence[str]) -> float:
    start = time.perf_counter()
    translate_by_command(command, sentences)
    return time.perf_counter() - start


def _read_lines(
    process: subprocess.Popen[bytes], count: int, progress: Callable[[int], None]
) -> list[bytes]:
    """Read a command's output; stop after a line too many or too long, as it may be endless."""
    lines: list[bytes] = []
    rest = b""
    for block in _blocks(process):
        *ended, rest = (rest + block).split(b"\n")
        for line in (*ended, rest) if len(rest) > MAX_LINE else ended:
            lines.append(line)
            if len(lines) > count or len(line) > MAX_LINE:
                return lines
        progress(len(lines))
    if rest:
        lines.append(rest)
    with suppress(subprocess.TimeoutExpired):  # without all lines it has failed already
        process.wait(None if len(lines) == count else _PATIENCE)
    return lines


def _blocks(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Read output until its end. It may have none: children of a program keep its output open."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    while True:
        ended = process.poll() is not None
        if select([output], [], [], _PATIENCE)[0]:
            block = os.read(output, 2**16)
            if not block:
                return
            yield block
        elif ended:
            return


def _find_fault(status: int | None, lines: Sequence[bytes], count: int) -> str | None:
    """Describe the fault of a command that has ended; None if it has none.

    Args:
        status: exit code, or the negative number of a signal; None while the command runs.
        lines: output of the command.
        count: expected number of lines.
    """
    if len(lines) > count:
        return f"returns more lines than the {count:,} that it got"
    if lines and len(lines[-1]) > MAX_LINE:
        size = format_size(MAX_LINE)
        return f"returns a line of more than {size} (line {len(lines):,} of {count:,})"
    if status is not None and status < 0:
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
