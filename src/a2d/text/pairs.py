"""Sentence pairs, entries that are none, and files opened whatever compresses them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import sys
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from a2d.errors import UserError

STANDARD_INPUT = "-"
_DECOMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = (*_DECOMPRESSED, ".zst")


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class Languages(NamedTuple):
    """Codes of source and target."""

    source: str
    target: str


class Malformed(NamedTuple):
    """An entry of a corpus that holds no pair, though it should: where, and what is wrong."""

    where: str
    problem: str

    def __str__(self) -> str:
        """One clause."""
        return f"{self.where} {self.problem}"


class Omitted(NamedTuple):
    """An entry that is left out though nothing is wrong with it: `reason` follows "12 entries"."""

    reason: str


Entries = Iterator[Pair | Malformed | Omitted]


class Keys(NamedTuple):
    """Where a file has its two texts: names (dots reach into objects), or columns from 1."""

    source: str | int
    target: str | int


class Threshold(NamedTuple):
    """Which of a file's numbers says how good a pair is, and the least that will do."""

    key: str | int
    least: float

    def judge(self, value: object, pair: Pair, where: str) -> Pair | Malformed | Omitted:
        """A pair if its score is no less."""
        try:
            score = float(str(value).strip().replace(",", "."))
        except ValueError:
            score = math.nan
        if math.isnan(score):
            return Malformed(where, f"has {value!r} as its score {self.key!r}: put a number there")
        return pair if score >= self.least else Omitted(f"score less than {self.least:g}")


@dataclass(frozen=True)
class Wanted:
    """Which pairs of a file are asked for.

    Attributes:
        languages: codes of source and target, for files that name languages.
        keys: where the texts are, if the user says so.
        threshold: a score that pairs must have.
    """

    languages: Languages | None = None
    keys: Keys | None = None
    threshold: Threshold | None = None


def normal(source: str, target: str) -> Pair:
    """A pair in Unicode NFC without outer whitespace and what has no width, as byte-order marks."""
    return Pair(_normal(source), _normal(target))


def _normal(text: str) -> str:
    plain = unicodedata.normalize("NFC", text).strip()
    while plain and (plain[0] in _NO_WIDTH or plain[-1] in _NO_WIDTH):
        plain = plain.strip(_NO_WIDTH).strip()
    return plain


_NO_WIDTH = "\ufeff\u200b\u2060"
"""Byte-order mark (inside files put together), zero-width space, word joiner."""


def kind(path: Path) -> str:
    """A file's last suffix but for those of compression, in lower case."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def missing(path: Path) -> UserError:
    """What to say of a file that is not there."""
    return UserError(f"there is no {path}: check the path (relative ones start at {Path.cwd()})")


def needs(extra: str, error: ImportError) -> UserError:
    """What to say where an optional library is not installed."""
    return UserError(
        f"{error.name} is not installed: pip install 'align-to-distill[{extra}]' for that."
    )


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressing it if its name says so; `-` is standard input.

    Raises:
        UserError: it is missing, cannot be read, or is not what its name says; whenever that shows.
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
        return open(sys.stdin.fileno(), "rb", closefd=False)
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
