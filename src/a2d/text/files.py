"""Open the files of corpora, compressed or not, and read bytes, lines or blocks within limits."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from itertools import repeat
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from a2d.errors import UserError
from a2d.quoting import quoted
from a2d.text.bounds import MAX_LINE, MAX_SKIPPED, format_size
from a2d.text.encodings import ERROR_HANDLER, UNREADABLE, encoding_of, peek_start
from a2d.text.pairs import Malformed

STANDARD_INPUT = "-"
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = (*_OPENERS, ".zst")

_BLOCK_BYTES = 2**20
"""Bytes read at a time from a file that is not read line by line."""
_BLOCK_OF_LINES = 2**24
"""Bytes read at a time to find the ends of lines."""


def expand_path(name: object) -> Path:
    """Return the path that a user names, with `~` expanded.

    Raises:
        UserError: no file can have this name.
    """
    try:
        path = Path(str(name)).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):  # opening the file reports it
        return path
    except (ValueError, RuntimeError) as error:  # NUL, lone surrogate; unknown home
        raise UserError(f"{quoted(str(name))} is not a path ({error}): check it") from error
    except OSError as error:
        raise UserError(
            f"{quoted(str(name))} cannot be used ({error.strerror}): check the path"
        ) from error
    return path


def suffix_of(path: Path) -> str:
    """Return a file's last suffix, in lower case, without the suffixes of compression."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def missing_file(path: Path) -> UserError:
    """Return the error for a file that does not exist."""
    return UserError(f"there is no {path}: check the path (relative ones start at {Path.cwd()})")


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressed according to its suffix; `-` is standard input.

    Raises:
        UserError: the file is missing, not a regular file, unreadable or damaged. Damage may show
            only while the file is read.
    """
    try:
        with _open(path) as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged_file(path) from error
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except OSError as error:
        if error.errno is None:  # bz2's
            raise _damaged_file(path) from error
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _damaged_file(path: Path) -> UserError:
    return UserError(f"{path} is a damaged {path.suffix[1:]} file: download or compress it again")


def _open(path: Path) -> Any:
    if str(path) == STANDARD_INPUT:
        if sys.stdin is None:
            raise UserError(f"'{STANDARD_INPUT}': standard input is closed: pipe a table into a2d")
        return open(sys.stdin.fileno(), "rb", closefd=False)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe may block for ever
        raise UserError(
            f"{path} is a pipe, a device or a socket: give a regular file (or "
            f"'{STANDARD_INPUT}', a table on standard input)"
        )
    suffix = path.suffix.lower()
    if suffix in _OPENERS:
        return _OPENERS[suffix](path)
    return _zstandard(path) if suffix == ".zst" else path.open("rb")


@contextmanager
def _zstandard(path: Path) -> Iterator[IO[bytes]]:
    from pyarrow import CompressedInputStream

    with path.open("rb") as file, CompressedInputStream(file, "zstd") as stream:
        try:
            yield io.BufferedReader(stream)
        except OSError as error:
            raise _damaged_file(path) from error


def content(path: Path, bound: int) -> bytes:
    """Read a whole file.

    Raises:
        UserError: the file has more than `bound` bytes, or cannot be read.
    """
    with open_binary(path) as file:
        data = file.read(bound + 1)
    if len(data) > bound:
        raise UserError(f"{path} has more than {format_size(bound)}: split it into several files")
    return data


def blocks(file: IO[bytes], encoding: str) -> Iterator[str]:
    """Yield a file's text in blocks; `UNREADABLE` replaces bytes invalid in its encoding."""
    decoder = codecs.getincrementaldecoder(encoding)(errors=ERROR_HANDLER)
    while block := file.read(_BLOCK_BYTES):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


class LineRange(NamedTuple):
    """Successive lines of a file in UTF-8.

    Attributes:
        path: the file, which is not compressed.
        start, end: bytes between which the lines are.
        first: number of the first line, from 1.
    """

    path: Path
    start: int
    end: int
    first: int


def line_ranges(path: Path, size: int) -> tuple[list[LineRange], int]:
    """Divide a file into ranges of `size` lines; the last one has the rest.

    Returns:
        The ranges, and the number of lines in the file. There are no ranges if the file is
        compressed, not in UTF-8 or not a regular file.
    """
    if not path.is_file() or path.suffix.lower() in COMPRESSED:
        return [], 0
    starts, count, position, last = [0], 0, 0, b"\n"
    with open_binary(path) as file:
        if encoding_of(peek_start(file), "utf-8") != "utf-8":
            return [], 0
        while block := file.read(_BLOCK_OF_LINES):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            before = -(count + 1) % size  # ends of lines before that of the next range's last line
            starts += (position + 1 + ends[before::size]).tolist()
            count, position, last = count + len(ends), position + len(block), block[-1:]
    starts = [start for start in starts if start < position]
    numbers = range(1, size * len(starts) + 1, size)
    ranges = list(map(LineRange, repeat(path), starts, [*starts[1:], position], numbers))
    return ranges, count + (last != b"\n")


def lines(source: Path | LineRange) -> Iterator[str | Malformed]:
    """Yield the lines of a text file one at a time; undecodable and overlong lines are `Malformed`.

    Lines end at line feeds only. `str.splitlines` and universal newlines also break at characters
    that belong to the text (U+2028, U+0085, a lone carriage return), which would lose the
    alignment.

    Args:
        source: a file, or some of its lines.

    Raises:
        UserError: the file is missing or damaged, has a line without a visible end, or ends its
            lines with carriage returns alone, as old Macs did.
    """
    part = source if isinstance(source, LineRange) else None
    path = source.path if isinstance(source, LineRange) else source
    with open_binary(path) as file:
        encoding = encoding_of(peek_start(file), "utf-8")
        # UTF-8 is read as bytes, which is faster; in UTF-16, a line feed is not a single byte.
        stream: Any = file
        if encoding != "utf-8":
            stream = TextIOWrapper(file, encoding, ERROR_HANDLER, newline="\n")
        end: Any = b"\n" if stream is file else "\n"
        read_line = partial(stream.readline, MAX_LINE + 1)
        name, left = str(path), sys.maxsize
        if part is not None:
            stream.seek(part.start)
            left = part.end - part.start
        for number, line in enumerate(iter(read_line, end[:0]), start=part.first if part else 1):
            if left <= 0:
                return
            left -= len(line)
            place = f"{name}, line {number}"
            text = line.decode("utf-8", ERROR_HANDLER) if isinstance(line, bytes) else line
            if number == 1:
                text = text.removeprefix("\ufeff")
                if not text.endswith("\n") and "\r" in text.rstrip("\r"):
                    raise UserError(
                        f"{path} ends its lines with carriage returns, as old Macs did: "
                        r"convert it, for example with tr '\r' '\n'"
                    )
            if len(line) > MAX_LINE and not text.endswith("\n"):
                _skip_line(stream, end, place)
                left = left if part is None else part.end - stream.tell()
                yield Malformed(place, f"has more than {format_size(MAX_LINE)}: split or delete it")
            elif UNREADABLE in text:
                code = encoding.upper()
                yield Malformed(place, f"is not valid {code}: convert the file to {code}")
            else:
                yield text.removesuffix("\n").removesuffix("\r")


def _skip_line(stream: Any, end: Any, where: str) -> None:
    """Read to the end of a line.

    Raises:
        UserError: the line does not end within `MAX_SKIPPED` bytes.
    """
    for _ in range(MAX_SKIPPED // MAX_LINE):
        part = stream.readline(MAX_LINE)
        if not part or part.endswith(end):
            return
    raise UserError(
        f"{where} has more than {format_size(MAX_SKIPPED)} without a line end: give a file with "
        "one sentence or one pair per line"
    )
