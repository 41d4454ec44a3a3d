"""Reading of a run's results: a damaged file ends in one sentence that names it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from a2d.errors import UserError, first_line

T = TypeVar("T")

_OF_JSON = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_OF_GZIP = (EOFError, zlib.error)


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Turn errors from reading a file of results, or from using its content, into a `UserError`."""
    mend = "repeat the run's command, which writes it again."
    if path.exists() and not path.is_file():  # reading a pipe may never end
        raise UserError(f"{path} is not a regular file: {mend}")
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {mend}") from error
    except BadGzipFile as error:  # an OSError
        raise _damaged(path, error, mend) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {mend}") from error
    except (*_OF_JSON, *_OF_GZIP) as error:
        raise _damaged(path, error, mend) from error


def _damaged(path: Path, error: Exception, mend: str) -> UserError:
    problem = f"{type(error).__name__}: {first_line(error)}"
    return UserError(f"{path} is damaged ({problem}): {mend}")


def is_there(path: Path) -> bool:
    """Check for a file that may be absent. A link to nothing is there, and damaged."""
    return os.path.lexists(path)


def read_results(path: Path, kind: type[T]) -> T:
    """Read a JSON file of results.

    Args:
        path: the file.
        kind: type of its content, as pydantic reads it: keys beyond it are ignored.

    Raises:
        UserError: the file is missing, damaged, or of another type.
    """
    with intact(path):
        try:
            return TypeAdapter(kind).validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
