"""Writers of sentence pairs, in formats that `a2d.text.corpus` reads."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from a2d import files
from a2d.errors import UserError
from a2d.text.pairs import Pair

_BATCH_PAIRS = 10_000


def _write_table(pairs: Iterable[Pair], file: BinaryIO) -> None:
    for pair in pairs:
        source, target = (" ".join(_split(text)) for text in pair)
        file.write(f"{source}\t{target}\n".encode())


def _split(text: str) -> list[str]:
    """Split a text where it would break a table."""
    return text.replace("\t", "\n").replace("\r\n", "\n").split("\n")


def _write_json_lines(pairs: Iterable[Pair], file: BinaryIO) -> None:
    for pair in pairs:
        file.write((json.dumps(pair._asdict(), ensure_ascii=False) + "\n").encode())


def _write_parquet(pairs: Iterable[Pair], file: BinaryIO) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([(side, pyarrow.string()) for side in Pair._fields])
    remaining = iter(pairs)
    with ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(remaining, _BATCH_PAIRS)):
            columns = [pyarrow.array(column) for column in zip(*batch, strict=True)]
            writer.write_table(pyarrow.table(columns, schema=schema))


WRITERS: dict[str, Callable[[Iterable[Pair], BinaryIO], None]] = {
    ".parquet": _write_parquet,
    ".tsv": _write_table,
    ".tsv.gz": _write_table,
    ".jsonl": _write_json_lines,
    ".jsonl.gz": _write_json_lines,
}


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse an output file that cannot be written, before there is anything to write.

    Raises:
        UserError: its suffix is unknown, or as `files.check_output`.
    """
    _output_suffix(path)
    files.check_output(path, overwrite)


def write_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """Write pairs as Parquet, JSON lines or a table, according to the suffix.

    If writing fails, the file stays as it was. In tables, tabs and line breaks in texts become
    spaces.

    Raises:
        UserError: the suffix is unknown.
    """
    suffix = _output_suffix(path)
    with _atomic_file(path) as file:
        if suffix.endswith(".gz"):
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
                WRITERS[suffix](pairs, cast(BinaryIO, compressed))
        else:
            WRITERS[suffix](pairs, file)


def _output_suffix(path: Path) -> str:
    suffix = next((ending for ending in WRITERS if path.name.lower().endswith(ending)), None)
    if suffix is None:
        raise UserError(f"{path} has no suffix of an output format: end it in {', '.join(WRITERS)}")
    return suffix


@contextmanager
def _atomic_file(path: Path) -> Iterator[Any]:
    """Open a temporary file that takes the name `path` when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
