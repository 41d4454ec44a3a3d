"""Reading of a run's results: a damaged file ends in one sentence that names it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

from a2d.errors import UserError, first_line

_OF_JSON = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_OF_GZIP = (EOFError, BadGzipFile, zlib.error)


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
    except (*_OF_JSON, *_OF_GZIP) as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path} is damaged ({problem}): {mend}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of results."""
    with intact(path):
        return json.loads(path.read_text("utf-8"))
