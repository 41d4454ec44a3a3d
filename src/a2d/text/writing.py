"""Writers of sentence pairs, in formats that `a2d.text.corpus` reads."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast

from a2d import files
from a2d.errors import UserError
from a2d.text import remote
from a2d.text.files import expand_path
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


def check_output(name: str, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before there is anything to write.

    Args:
        name: path or address of a file, or of numbered files (`write_pairs`).
        overwrite: whether existing files may be replaced.

    Raises:
        UserError: its suffix is unknown, files exist and `overwrite` is False, or as
            `files.check_output`.
    """
    _output_suffix(name)
    folder, _, file = name.rpartition("/")
    if "*" in folder or file.count("*") > 1:
        raise UserError(f"{name} has a '*' too many: write one, in the name of the file")
    if not remote.is_address(name):
        files.check_output(expand_path(name), overwrite)
    several = "*" in file or remote.is_address(name)
    if several and not overwrite and (found := remote.existing(name)):
        raise UserError(f"{found[0]} exists already: choose another name, or add --overwrite.")


def write_pairs(pairs: Sequence[Pair], name: str | Path, pairs_per_file: int = 1_000_000) -> int:
    """Write pairs as Parquet, JSON lines or a table, according to the suffix.

    If writing fails, the file stays as it was. In tables, tabs and line breaks in texts become
    spaces.

    Args:
        pairs: the pairs.
        name: path or address of the file. A `*` in the name of the file becomes a number from
            00000, for as many files as needed. Files with further numbers are deleted afterwards,
            because the pattern would read them, too; other files that match stay.
        pairs_per_file: most pairs in each of several files.

    Returns:
        The number of files.

    Raises:
        UserError: the suffix is unknown, or the store at the address refuses the file.
    """
    name = str(name)
    if "*" not in name:
        _write_file(pairs, name)
        return 1
    numbered = re.compile(r"\d{5}".join(map(re.escape, name.rpartition("/")[2].split("*"))))
    found = remote.existing(name)
    old = {each for each in found if numbered.fullmatch(each.rpartition("/")[2])}
    remaining = iter(pairs)
    count = max(1, -(-len(pairs) // pairs_per_file))
    for number in range(count):
        part = islice(remaining, pairs_per_file)
        old.discard(_write_file(part, name.replace("*", f"{number:05}")))
    for each in sorted(old):
        remote.remove(each)
    return count


def _write_file(pairs: Iterable[Pair], name: str) -> str:
    """Write one file; return the name by which `remote.existing` lists it."""
    suffix = _output_suffix(name)
    if not remote.is_address(name):
        path = expand_path(name)
        with _atomic_file(path) as file:
            _write(pairs, file, suffix)
        return str(path)
    with TemporaryDirectory(dir=files.temporary_folder()) as folder:
        path = Path(folder) / "pairs"
        with path.open("wb") as file:
            _write(pairs, file, suffix)
        return remote.upload(path, name)


def _write(pairs: Iterable[Pair], file: BinaryIO, suffix: str) -> None:
    if suffix.endswith(".gz"):
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
            WRITERS[suffix](pairs, cast(BinaryIO, compressed))
    else:
        WRITERS[suffix](pairs, file)


def _output_suffix(name: str) -> str:
    suffix = next((ending for ending in WRITERS if name.lower().endswith(ending)), None)
    if suffix is None:
        raise UserError(f"{name} has no suffix of an output format: end it in {', '.join(WRITERS)}")
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
