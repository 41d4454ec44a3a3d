"""Error messages and exit codes of the command line: one sentence and one code for every error."""

from __future__ import annotations

import pickle
import sys
import traceback
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from a2d.errors import (
    DISK_FULL,
    UserError,
    disk_is_full,
    first_line,
    memory_is_full,
    shorten_message,
)

MEMORY_FULL = (
    "memory ran out: lower training.max_tokens, evaluation.max_tokens or compute.parallel, or use "
    "smaller models."
)
BAD_INPUT, DEFECT = 2, 1
"""Exit codes for problems that the user can solve, and for defects of a2d."""

READER_LEFT = 128 + 13
"""Exit code if the reader of the output ended first, as `head` does: that of SIGPIPE in shells."""

debugging = False
"""True if the user set `--debug`: defects then end in a traceback."""

LOG = "a2d_log"
"""Name of an attribute of errors: the file that `a2d.progress.log_to` wrote the error to."""


class Ending(NamedTuple):
    """Error message and exit code of a command."""

    sentence: str
    code: int


def ending_of(error: BaseException) -> Ending:
    """Describe an error that ended a command. The traceback of a defect is written to a file."""
    if isinstance(error, UserError):
        return Ending(str(error), BAD_INPUT)
    if disk_is_full(error):
        return Ending(DISK_FULL, BAD_INPUT)
    if memory_is_full(error):
        return Ending(MEMORY_FULL, BAD_INPUT)
    if isinstance(error, OSError) and error.filename is not None:
        place = f"{error.filename} cannot be used ({error.strerror}): choose another place."
        return Ending(shorten_message(place), BAD_INPUT)
    return Ending(shorten_message(f"{_problem(error)} {_report(error)}"), DEFECT)


def check_arguments(arguments: list[str]) -> None:
    """Refuse arguments that are not text, because they become file names and parts of messages.

    Raises:
        UserError: an argument is not UTF-8, or holds a NUL character, or `--plugin` follows the
            command.
    """
    rest = iter(arguments)
    for argument in rest:
        if argument == "--plugin":
            next(rest, None)
        elif not argument.startswith("-"):
            break
    if any(argument.partition("=")[0] == "--plugin" for argument in rest):
        raise UserError("--plugin goes before the command: a2d --plugin FILE COMMAND ….")
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the argument {argument!r} is not UTF-8: rename the file, or convert the text."
            ) from error
        if "\0" in argument:
            raise UserError(f"the argument {argument!r} holds a NUL character: remove it.")


def _problem(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"the operating system refused a request of a2d ({error.strerror})."
    kind = type(error).__name__
    if isinstance(error, RecursionError):
        return f"an input is nested too deeply, or this is a defect of a2d ({kind})."
    message = first_line(error)
    return f"this is a defect of a2d ({kind}{'' if message == kind else f': {message}'})."


def _report(error: BaseException) -> str:
    """Say where the traceback is and where to report the defect."""
    place = getattr(error, LOG, None)
    if place is None or not Path(place).exists():  # the log of a dry run is temporary
        place = _write_traceback(error)
    if place is None:
        return "`a2d --debug …` shows the traceback: please report the defect with it."
    tracker = _issue_tracker()
    where = f" at {tracker}" if tracker else ""
    return f"The traceback is in {place}: please report the defect with that file{where}."


def _write_traceback(error: BaseException) -> str | None:
    """Write a traceback to a temporary file and return its path; None if that is not possible."""
    try:
        with NamedTemporaryFile(
            "w", prefix="a2d-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            print(*map(shorten_message, sys.argv), file=file)
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return file.name


def _issue_tracker() -> str | None:
    """Address of the project's issues, or else its first address; None if it has none."""
    try:
        entries = metadata("align-to-distill").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    urls = dict(entry.split(", ", 1) for entry in entries)
    return urls.get("Issues") or next(iter(urls.values()), None)


def portable(error: Exception) -> Exception:
    """Replace an error that cannot be pickled, because it would break the pool."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its constructor can raise errors of any kind
        replacement = RuntimeError(f"{type(error).__name__}: {first_line(error)}")
        setattr(replacement, LOG, getattr(error, LOG, None))
        return replacement
    return error
