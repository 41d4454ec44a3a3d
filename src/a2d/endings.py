"""How a command ends that could not do its work: one sentence and an exit code for every error."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import PackageNotFoundError, metadata
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from a2d.errors import (
    DISK_FULL,
    UserError,
    disk_is_full,
    first_line,
    memory_is_full,
    one_line,
)

MEMORY_FULL = (
    "memory ran out: lower training.max_tokens, evaluation.max_tokens or compute.parallel, or take "
    "smaller models."
)
BAD_INPUT, DEFECT = 2, 1
"""Exit codes: of what the user can mend, and of what a2d's developers must."""

debugging = False
"""Whether the command was asked for tracebacks."""

LOG = "a2d_log"
"""Attribute of an error: the file that its traceback was written to (`a2d.progress.logged`)."""


class Ending(NamedTuple):
    """The last words of a command, and its exit code."""

    sentence: str
    code: int


def ending_of(error: BaseException) -> Ending:
    """What to say of an error that ended a command; a defect's traceback is written to a file."""
    if isinstance(error, UserError):
        return Ending(str(error), BAD_INPUT)
    if disk_is_full(error):
        return Ending(DISK_FULL, BAD_INPUT)
    if memory_is_full(error):
        return Ending(MEMORY_FULL, BAD_INPUT)
    if isinstance(error, OSError) and error.filename is not None:
        place = f"{error.filename} cannot be used ({error.strerror}): choose another place."
        return Ending(one_line(place), BAD_INPUT)
    return Ending(one_line(f"{_problem(error)} {_report(error)}"), DEFECT)


def check_arguments(arguments: list[str]) -> None:
    """Refuse what is no text, before it becomes a name of a file or a part of a message.

    Raises:
        UserError: an argument is not in the encoding of the system.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the argument {argument!r} is not UTF-8: rename the file, or convert the text."
            ) from error
        if "\0" in argument:
            raise UserError(f"the argument {argument!r} holds a NUL character: leave it out.")


def _problem(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"the system refuses what a2d needs ({error.strerror})."
    kind = type(error).__name__
    if isinstance(error, RecursionError):
        return f"an input is nested too deeply, or this is a defect of a2d ({kind})."
    said = first_line(error)
    return f"this is a defect of a2d ({kind}{'' if said == kind else f': {said}'})."


def _report(error: BaseException) -> str:
    """Where the traceback is, and whom to give it."""
    place = getattr(error, LOG, None) or _written(error)
    if place is None:
        return "`a2d --debug …` shows its traceback: please report it with that."
    tracker = _tracker()
    where = f" at {tracker}" if tracker else ""
    return f"Its traceback is in {place}: please report it with that file{where}."


def _written(error: BaseException) -> str | None:
    """Write a traceback to a file of its own; None if that is not possible."""
    try:
        with NamedTemporaryFile(
            "w", prefix="a2d-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            print(*map(one_line, sys.argv), file=file)
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return file.name


def _tracker() -> str | None:
    """The address of the project, if its package names one."""
    try:
        named = metadata("align-to-distill").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    urls = dict(entry.split(", ", 1) for entry in named)
    return urls.get("Issues") or next(iter(urls.values()), None)
