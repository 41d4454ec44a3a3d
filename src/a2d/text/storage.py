"""Storage of corpora that may exceed memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

import pyarrow
from datasets import Dataset

from a2d.files import temporary_folder
from a2d.text.bounds import MAX_BUFFERED
from a2d.text.pairs import Pair

_SCHEMA = pyarrow.schema([("source", pyarrow.string()), ("target", pyarrow.string())])
_BATCH_PAIRS = 1000


class StoredPairs(Sequence[Pair]):
    """Sentence pairs in a temporary file, which is deleted with the object.

    Args:
        pairs: pairs to store; iterated once.

    Attributes:
        dataset: the pairs as a memory-mapped dataset with the columns `source` and `target`.

    Example:
        >>> StoredPairs([Pair("ja", "jo"), Pair("nein", "ně")])[1]
        Pair(source='nein', target='ně')
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._folder = TemporaryDirectory(dir=temporary_folder(), ignore_cleanup_errors=True)
        path = Path(self._folder.name) / "pairs.arrow"
        with (
            pyarrow.OSFile(str(path), "wb") as file,
            pyarrow.ipc.new_stream(file, _SCHEMA) as writer,
        ):
            for batch in _batches(pairs):
                columns = [pyarrow.array(column) for column in zip(*batch, strict=True)]
                writer.write_batch(pyarrow.record_batch(columns, schema=_SCHEMA))
        self.dataset = Dataset.from_file(str(path))

    def __getstate__(self) -> dict[str, Any]:
        """Return the dataset without the folder: only this process deletes the file."""
        return {"dataset": self.dataset}

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        """Return a pair, or a list of pairs for a slice."""
        if isinstance(index, slice):
            return _pairs(self.dataset[index])
        return Pair(**self.dataset[index])

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs in order."""
        for batch in self.dataset.data.to_batches():
            yield from _pairs(batch.to_pydict())


class Texts(Iterable[str]):
    """All texts of a corpus, source and target in turn; can be iterated repeatedly."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[str]:
        """Yield the source and target of each pair."""
        return (text for pair in self._pairs for text in pair)


def _batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Yield the pairs in batches that fit into memory, however long the texts are."""
    batch: list[Pair] = []
    characters = 0
    for pair in pairs:
        batch.append(pair)
        characters += len(pair.source) + len(pair.target)
        if len(batch) == _BATCH_PAIRS or characters >= MAX_BUFFERED:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pairs(columns: dict[str, list[str]]) -> list[Pair]:
    return list(map(Pair, columns["source"], columns["target"]))
