"""Streams of lines: input that a thread reads while earlier lines are used, and output."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from select import select
from typing import Any, TextIO

from a2d.errors import UserError
from a2d.files import check_output
from a2d.text.bounds import MAX_LINE, format_size
from a2d.text.files import expand_path, missing_file

_BLOCK = 2**16
"""Bytes that are read at once."""
_MAX_WAITING = 2**22
"""Bytes of lines that are read ahead, and bytes of a chunk."""
_FIRST_CHUNK, _LAST_CHUNK = 16, 4096
"""Lines of the first chunk, and largest number of lines of a chunk."""
_GROWTH = 4
_LONGEST_CHUNK_SECONDS = 10.0
"""Chunks grow as long as their user takes less time than this for one."""
_PAUSE = 0.01
"""A chunk ends when no further line has come this many seconds after its first line."""

_MARK = b"\xef\xbb\xbf"
"""Byte order mark, with which some programs begin a file."""


class LineStream:
    """Lines of a binary stream, which a thread reads while earlier lines are used.

    Args:
        stream: an unbuffered binary stream. A buffered one would hold a lock while it waits for
            input, and Python cannot end while a thread holds it.
        name: name of the stream in error messages.
    """

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self.name = stream, name
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def chunks(self) -> Iterator[list[str]]:
        """Yield lists of lines without line ends, until the end of the stream.

        Chunks grow, so that the first lines are soon translated and later ones in full batches. A
        chunk ends early if no further line is waiting.

        Raises:
            UserError: the stream cannot be read, or a line is too long or not UTF-8. All lines
                before it have been yielded.
        """
        self._thread.start()
        limit, number = _FIRST_CHUNK, 0
        while chunk := self._take(limit):
            lines = []
            for line in chunk:
                try:
                    lines.append(line.removesuffix(b"\r").decode())
                except UnicodeDecodeError as error:
                    if lines:
                        yield lines
                    raise UserError(
                        f"{self.name}, line {number + len(lines) + 1:,} is not UTF-8: convert it, "
                        "for example with iconv."
                    ) from error
            number += len(lines)
            start = time.monotonic()
            yield lines
            if len(lines) == limit and time.monotonic() - start < _LONGEST_CHUNK_SECONDS:
                limit = min(limit * _GROWTH, _LAST_CHUNK)
        if self._error is not None:
            raise self._error

    def reads(self, path: Path) -> bool:
        """Check whether the stream reads a certain regular file."""
        try:
            status = os.fstat(self._stream.fileno())
        except (OSError, AttributeError):  # a stream in memory
            return False
        return stat.S_ISREG(status.st_mode) and os.path.samestat(status, path.stat())

    def _take(self, limit: int) -> list[bytes]:
        """Take the waiting lines, at most `limit`; wait for the first one."""
        chunk: list[bytes] = []
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._ended)
            deadline, size = time.monotonic() + _PAUSE, 0
            while len(chunk) < limit and size < _MAX_WAITING:
                if not self._lines:
                    pause = deadline - time.monotonic()
                    if self._ended or not self._changed.wait_for(lambda: self._lines, pause):
                        break
                chunk.append(self._lines.popleft())
                size += len(chunk[-1])
                self._bytes -= len(chunk[-1])
                if self._bytes <= _MAX_WAITING:
                    self._changed.notify_all()
        return chunk

    def _read(self) -> None:
        try:
            for lines in _split(self._stream, self.name):
                with self._changed:
                    self._lines.extend(lines)
                    self._bytes += sum(map(len, lines))
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._bytes <= _MAX_WAITING)
        except OSError as error:
            self._error = UserError(
                f"{self.name} cannot be read ({error.strerror}): give a text file or a pipe with "
                "one sentence per line."
            )
        except BaseException as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _split(stream: Any, name: str) -> Iterator[list[bytes]]:
    """Read a stream block by block; yield the lines that end in each block, and the last one."""
    rest, number, first = bytearray(), 1, True
    while (block := stream.read(_BLOCK)) != b"":
        if block is None:  # another program made the stream non-blocking
            select([stream], [], [])
            continue
        start = len(rest)
        rest += block
        if first and len(rest) >= len(_MARK):
            if rest.startswith(_MARK):
                del rest[: len(_MARK)]
            first, start = False, 0
        end = rest.rfind(b"\n", start)
        lines = bytes(rest[:end]).split(b"\n") if end >= 0 else []
        del rest[: end + 1]
        for place, line in enumerate([*lines, rest]):
            if len(line) > MAX_LINE:
                if place:
                    yield lines[:place]
                raise UserError(
                    f"{name}, line {number + place:,} is longer than {format_size(MAX_LINE)}: "
                    "split it into sentences."
                )
        number += len(lines)
        if lines:
            yield lines
    if rest:
        yield [bytes(rest)]


def open_input(path: Path | None) -> LineStream:
    """Open a file, or standard input for None or "-".

    Raises:
        UserError: the file cannot be opened, or standard input is closed.
    """
    if path is None or str(path) == "-":
        if sys.stdin is None:
            raise UserError("standard input is closed: give it sentences, one per line.")
        buffer: Any = sys.stdin.buffer
        return LineStream(getattr(buffer, "raw", buffer), "standard input")
    path = expand_path(path)
    try:
        return LineStream(path.open("rb", buffering=0), str(path))
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a text file with one sentence per "
            "line."
        ) from error


class ReaderLeft(Exception):
    """The program that reads the output has ended, as `head` does."""


class LineOutput:
    """File or standard output that receives lines; every `write` arrives at once.

    Args:
        path: the file; None or "-" is standard output.
        overwrite: whether to replace an existing file. Pipes and devices need no permission.
        source: the input, which must not be the same file.

    Raises:
        UserError: the file exists already or cannot be written, or standard output is closed.
    """

    def __init__(self, path: Path | None, overwrite: bool, source: LineStream) -> None:
        self._file: TextIO | None = None
        self._begun = False
        self._path = None if path is None or str(path) == "-" else expand_path(path)
        self.name = "standard output" if self._path is None else str(self._path)
        if self._path is None:
            if sys.stdout is None:
                raise UserError("standard output is closed: open it, or give --output.")
            return
        if self._path.is_file() and source.reads(self._path):
            raise UserError(f"{self.name} is the input, too: write another file.")
        check_output(self._path, overwrite, stream=True)

    def open(self) -> None:
        """Open the file. The first `write` empties it.

        Raises:
            UserError: that is not possible.
        """
        if self._path is None:
            self._file = sys.stdout
            if isinstance(sys.stdout, TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8", newline="\n")
            return
        try:
            self._file = self._path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def is_terminal(self) -> bool:
        """True if a person reads the output on a terminal."""
        return self._path is None and sys.stdout.isatty()

    def write(self, text: str) -> None:
        """Write a text and pass it on to its reader.

        Raises:
            ReaderLeft: nobody reads the output any more.
            UserError: it cannot be written, for example because the disk is full.
        """
        assert self._file is not None
        try:
            if self._path is not None and not self._begun and self._path.is_file():
                self._file.truncate(0)
            self._begun = True
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            _abandon(self._file)
            if isinstance(error, BrokenPipeError):
                raise ReaderLeft from error
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.name} cannot be written ({error.strerror}): choose another place.")


def _abandon(file: TextIO) -> None:
    """Redirect a file to nowhere, because Python writes the rest of its buffer when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)
