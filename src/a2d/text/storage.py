"""Corpora that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, overload

import pyarrow
from datasets import Dataset

from a2d.files import remove_at_end
from a2d.text.bounds import STORED
from a2d.text.pairs import Pair

_SCHEMA = pyarrow.schema([("source", pyarrow.string()), ("target", pyarrow.string())])
_AT_ONCE = 1000


class StoredPairs(Sequence[Pair]):
    """Sentence pairs in a temporary file, which is deleted with the object.

    Args:
        pairs: what to store; read once.

    Example:
        >>> StoredPairs([Pair("ja", "jo"), Pair("nein", "ně")])[1]
        Pair(source='nein', target='ně')
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._folder = TemporaryDirectory(dir=temporary_folder(), ignore_cleanup_errors=True)
        path = Path(self._folder.name) / "pairs.arrow"
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, _SCHEMA) as out:
            for part in _portions(pairs):
                columns = [pyarrow.array(column) for column in zip(*part, strict=True)]
                out.write_batch(pyarrow.record_batch(columns, schema=_SCHEMA))
        self.dataset = Dataset.from_file(str(path))
        """The same with the columns `source` and `target`, mapped into memory."""

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the file's name; deleting it is left to this one."""
        return {"dataset": self.dataset}

    def __len__(self) -> int:
        """How many."""
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        """A pair, or a list of them."""
        if isinstance(index, slice):
            return _pairs(self.dataset[index])
        return Pair(**self.dataset[index])

    def __iter__(self) -> Iterator[Pair]:
        """Read from the first to the last."""
        for part in self.dataset.data.to_batches():
            yield from _pairs(part.to_pydict())


class Texts(Iterable[str]):
    """All texts of a corpus, source and target; can be read again and again."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[str]:
        """Read pair by pair."""
        return (text for pair in self._pairs for text in pair)


@cache
def temporary_folder() -> str:
    """A folder that goes with this process, however that ends."""
    folder = mkdtemp(prefix="a2d-")
    remove_at_end(Path(folder))
    return folder


def _portions(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Pairs in portions that fit into memory, however long they are."""
    part: list[Pair] = []
    characters = 0
    for pair in pairs:
        part.append(pair)
        characters += len(pair.source) + len(pair.target)
        if len(part) == _AT_ONCE or characters >= STORED:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _pairs(columns: dict[str, list[str]]) -> list[Pair]:
    return list(map(Pair, columns["source"], columns["target"]))
