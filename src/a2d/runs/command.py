"""Translation by a command that reads standard input, one sentence per line."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import TemporaryFile

from a2d.errors import UserError
from a2d.programs import running
from a2d.runs.lines import one_line
from a2d.text.bounds import MAX_LINE, format_size

_FIRST_SAMPLE = 16
"""Number of sentences of the first sample that a command is timed with."""
_MIN_SAMPLE_SECONDS = 2.0
"""The sample is doubled until the command takes this long, without its start."""


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
        except OSError as error:
            raise UserError(
                f"teacher.command {command!r} cannot be started: {error.strerror or error}."
            ) from error
        fault = _find_fault(program.process.returncode, lines, len(sentences))
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


def _find_fault(status: int, lines: Sequence[bytes], count: int) -> str | None:
    """Describe the fault of a command that has ended; None if it has none.

    Args:
        status: exit code, or the negative number of a signal.
        lines: output of the command.
        count: expected number of lines.
    """
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
