"""Files of corpora, whatever compresses them, as bytes, lines or blocks of text within bounds."""

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
from pathlib import Path
from typing import IO, Any

from a2d.errors import UserError
from a2d.quoting import quoted
from a2d.text.bounds import LINE, SKIPPED, size
from a2d.text.encodings import MARK, UNREADABLE, encoding_of, start_of
from a2d.text.pairs import Malformed

STANDARD_INPUT = "-"
_DECOMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = (*_DECOMPRESSED, ".zst")

_BLOCK = 2**20
"""Bytes read at a time from a file that is no file of lines."""


def located(spec: object) -> Path:
    """The path that a user names, `~` expanded.

    Raises:
        UserError: no file can be called that.
    """
    try:
        path = Path(str(spec)).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):  # told by those who open it
        return path
    except (ValueError, RuntimeError) as error:  # NUL, half a character; no such home
        raise UserError(f"{quoted(str(spec))} can be no path ({error}): check it") from error
    except OSError as error:
        raise UserError(
            f"{quoted(str(spec))} cannot be used ({error.strerror}): check the path"
        ) from error
    return path


def kind(path: Path) -> str:
    """A file's last suffix but for those of compression, in lower case."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def missing(path: Path) -> UserError:
    """What to say of a file that is not there."""
    return UserError(f"there is no {path}: check the path (relative ones start at {Path.cwd()})")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressing it if its name says so; `-` is standard input.

    Raises:
        UserError: it is missing, no regular file, cannot be read, or is not what its name says;
            whenever that shows.
    """
    try:
        with _open(path) as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(path) from error
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        if error.errno is None:  # bz2's
            raise _damaged(path) from error
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is not an intact {path.suffix[1:]} file: fetch or compress it anew")


def _open(path: Path) -> Any:
    if str(path) == STANDARD_INPUT:
        if sys.stdin is None:
            raise UserError(f"'{STANDARD_INPUT}': standard input is closed: pipe a table into a2d")
        return open(sys.stdin.fileno(), "rb", closefd=False)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # to open a pipe may take for ever
        raise UserError(
            f"{path} is a pipe, a device or a socket: give a regular file (or "
            f"'{STANDARD_INPUT}', a table on standard input)"
        )
    suffix = path.suffix.lower()
    if suffix in _DECOMPRESSED:
        return _DECOMPRESSED[suffix](path)
    return _zstandard(path) if suffix == ".zst" else path.open("rb")


@contextmanager
def _zstandard(path: Path) -> Iterator[IO[bytes]]:
    from pyarrow import CompressedInputStream

    with path.open("rb") as file, CompressedInputStream(file, "zstd") as stream:
        try:
            yield io.BufferedReader(stream)
        except OSError as error:
            raise _damaged(path) from error


def content(path: Path, bound: int) -> bytes:
    """All of a file.

    Raises:
        UserError: it has more bytes than the bound, or cannot be read.
    """
    with opened(path) as file:
        data = file.read(bound + 1)
    if len(data) > bound:
        raise UserError(f"{path} has more than {size(bound)}: split it into several files")
    return data


def blocks(file: IO[bytes], encoding: str) -> Iterator[str]:
    """A file's text in pieces, with `UNREADABLE` for what is not in its encoding."""
    decoder = codecs.getincrementaldecoder(encoding)(errors=MARK)
    while block := file.read(_BLOCK):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def lines(path: Path) -> Iterator[str | Malformed]:
    """Yield the lines of a text file without holding more than one; undecodable ones are told.

    Lines end at line feeds alone: `str.splitlines` and universal newlines also break at characters
    which belong to the text (U+2028, U+0085, a lone carriage return), and so would lose the
    alignment. Lines that are too long are told, and refused if they do not seem to end.

    Raises:
        UserError: the file is missing or damaged, or has no line ends but those of old Macs.
    """
    with opened(path) as file:
        encoding = encoding_of(start_of(file), "utf-8")
        # UTF-8 is read as bytes, which is faster; a line feed of UTF-16 is no single byte.
        read: Any = (
            file if encoding == "utf-8" else TextIOWrapper(file, encoding, MARK, newline="\n")
        )
        end: Any = b"\n" if read is file else "\n"
        for number, line in enumerate(iter(partial(read.readline, LINE + 1), end[:0]), start=1):
            text = line.decode("utf-8", MARK) if isinstance(line, bytes) else line
            if number == 1:
                text = text.removeprefix("\ufeff")
                if not text.endswith("\n") and "\r" in text.rstrip("\r"):
                    raise UserError(
                        f"{path} has carriage returns in place of line feeds, as old Macs did: "
                        r"convert it, as with tr '\r' '\n'"
                    )
            if len(line) > LINE and not text.endswith("\n"):
                _skip_line(read, end, f"{path}, line {number}")
                yield Malformed(
                    f"{path}, line {number}", f"has more than {size(LINE)}: split it, or leave it"
                )
            elif UNREADABLE in text:
                name = encoding.upper()
                yield Malformed(f"{path}, line {number}", f"is not {name}: convert the file to it")
            else:
                yield text.removesuffix("\n").removesuffix("\r")


def _skip_line(read: Any, end: Any, where: str) -> None:
    """Read to the end of a line.

    Raises:
        UserError: it is too far away.
    """
    for _ in range(SKIPPED // LINE):
        part = read.readline(LINE)
        if not part or part.endswith(end):
            return
    raise UserError(
        f"{where} has more than {size(SKIPPED)} without a line end: give a corpus of one sentence "
        "or one pair a line"
    )
