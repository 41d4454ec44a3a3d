"""Sentence pairs into files that `a2d.text.corpus` reads."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from a2d.errors import UserError
from a2d.text.pairs import Pair

_AT_ONCE = 10_000


def _tabs(pairs: Iterable[Pair], file: BinaryIO) -> None:
    for pair in pairs:
        source, target = (" ".join(_parts(text)) for text in pair)
        file.write(f"{source}\t{target}\n".encode())


def _parts(text: str) -> list[str]:
    """A text cut where a table would be."""
    return text.replace("\t", "\n").replace("\r\n", "\n").split("\n")


def _json_lines(pairs: Iterable[Pair], file: BinaryIO) -> None:
    for pair in pairs:
        file.write((json.dumps(pair._asdict(), ensure_ascii=False) + "\n").encode())


def _parquet(pairs: Iterable[Pair], file: BinaryIO) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(side, pyarrow.string()) for side in Pair._fields])
    waiting = iter(pairs)
    with ParquetWriter(file, schema, compression="zstd") as writer:
        while part := list(islice(waiting, _AT_ONCE)):
            columns = [pyarrow.array(column) for column in zip(*part, strict=True)]
            writer.write_table(pyarrow.table(columns, schema=schema))


WRITERS: dict[str, Callable[[Iterable[Pair], BinaryIO], None]] = {
    ".parquet": _parquet,
    ".tsv": _tabs,
    ".tsv.gz": _tabs,
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
}


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before there is anything to write.

    Raises:
        UserError: its suffix is unknown, it exists and must not be overwritten, or its folder does
            not exist.
    """
    _ending(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already: choose another name, or add --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}: make it, or choose another one")


def write_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """Write pairs as Parquet, JSON lines or a table, by the suffix; all of them or no file.

    Tabs and line breaks within a text become spaces in a table.

    Raises:
        UserError: the suffix is unknown.
    """
    ending = _ending(path)
    with _whole(path) as file:
        if ending.endswith(".gz"):
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                WRITERS[ending](pairs, cast(BinaryIO, packed))
        else:
            WRITERS[ending](pairs, file)


def _ending(path: Path) -> str:
    ending = next((end for end in WRITERS if path.name.lower().endswith(end)), None)
    if ending is None:
        raise UserError(f"{path} is of no type to write: end it in {', '.join(WRITERS)}")
    return ending


@contextmanager
def _whole(path: Path) -> Iterator[Any]:
    """A file that takes its name when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
