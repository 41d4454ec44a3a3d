"""Storage of corpora that may exceed memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar, overload

import numpy as np
import pyarrow
import pyarrow.compute as compute
from datasets import Dataset, concatenate_datasets

from a2d.files import temporary_folder
from a2d.text.bounds import MAX_BUFFERED
from a2d.text.pairs import Pair

PairSequence = TypeVar("PairSequence", bound=Sequence[Pair])

PART = 10_000
"""Most pairs in a part of a stored corpus; a part is written and read as a whole."""

_SCHEMA = pyarrow.schema([("source", pyarrow.string()), ("target", pyarrow.string())])


class StoredPairs(Sequence[Pair]):
    """Sentence pairs in a temporary file, which is deleted with the object.

    Args:
        pairs: pairs to store; iterated once.

    Attributes:
        dataset: the pairs as a memory-mapped dataset with the columns `source` and `target`.
        gists: hashes of the gists of all texts (N, 2), once they have been computed
            (`a2d.text.gists.gist_hashes`).

    Example:
        >>> StoredPairs([Pair("ja", "jo"), Pair("nein", "ně")])[1]
        Pair(source='nein', target='ně')
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._folder: object  # owner of the files, which it deletes at its end
        self._folder, self.dataset = store(_batches(pairs), _SCHEMA)
        self.gists: np.ndarray | None = None

    @classmethod
    def _of(cls, owner: object, dataset: Dataset, gists: np.ndarray | None = None) -> Self:
        """Return pairs that are in files already."""
        stored = cls.__new__(cls)
        stored._folder, stored.dataset, stored.gists = owner, dataset, gists
        return stored

    @classmethod
    def of_files(cls, folder: TemporaryDirectory[str], paths: Sequence[Path]) -> Self:
        """Return the pairs of files that `write_stored` wrote, one after the other.

        Args:
            folder: folder of the files, which is deleted with the pairs.
            paths: the files.
        """
        parts = [Dataset.from_file(str(path)) for path in paths]
        return cls._of(folder, concatenate_datasets(parts))

    @classmethod
    def joined(cls, pieces: Sequence[Self]) -> Self:
        """Return the pairs of several corpora, one after the other."""
        if len(pieces) == 1:
            return pieces[0]
        return cls._of(pieces, concatenate_datasets([piece.dataset for piece in pieces]))

    def __getstate__(self) -> dict[str, Any]:
        """Return the dataset without the folder: only this process deletes the file."""
        return {"dataset": self.dataset, "gists": None}

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
        for batch in self.batches():
            yield from pairs_of(batch)

    def batches(self) -> list[pyarrow.RecordBatch]:
        """List the parts of the corpus, whose texts stay in the file until they are read."""
        batches: list[pyarrow.RecordBatch] = self.dataset.data.to_batches()
        return batches

    def select(self, flags: np.ndarray) -> Self:
        """Store the pairs whose flag is set.

        Args:
            flags: truth values (N,).
        """
        batches = self.batches()
        ends = np.cumsum([0, *map(len, batches)])
        folder, dataset = store(
            (b.filter(flags[s:e]) for b, s, e in zip(batches, ends, ends[1:], strict=False)),
            _SCHEMA,
        )
        return self._of(folder, dataset, None if self.gists is None else self.gists[flags])


def select(pairs: PairSequence, flags: np.ndarray) -> PairSequence:
    """Return the pairs whose flag is set, as a list or stored, like `pairs`."""
    if isinstance(pairs, StoredPairs):
        return pairs.select(flags)
    return [pair for pair, flag in zip(pairs, flags, strict=True) if flag]  # type: ignore[return-value]


def tables_of(pairs: Sequence[Pair]) -> Iterator[bytes | memoryview]:
    """Yield the pairs as tab-separated text with one pair a line, in UTF-8, part by part."""
    if not isinstance(pairs, StoredPairs):
        yield "".join(f"{pair.source}\t{pair.target}\n" for pair in pairs).encode()
        return
    for batch in pairs.batches():
        rows = compute.binary_join_element_wise(*batch.columns, "\t")
        yield _joined_text(compute.binary_join_element_wise(rows, "", "\n"))


def _joined_text(texts: pyarrow.StringArray) -> memoryview:
    """Return the texts of a column without their ends, which lie one after the other in memory."""
    _, ends, text = texts.buffers()
    places = np.frombuffer(ends, np.int32)
    return memoryview(text)[places[texts.offset] : places[texts.offset + len(texts)]]


def sample_evenly(pairs: PairSequence, count: int) -> PairSequence:
    """Return evenly spaced pairs, as many as `count`; all pairs if there are not more."""
    if len(pairs) <= count:
        return pairs
    flags = np.zeros(len(pairs), bool)
    flags[np.arange(count) * len(pairs) // count] = True
    return select(pairs, flags)


def store(
    batches: Iterable[pyarrow.RecordBatch], schema: pyarrow.Schema
) -> tuple[TemporaryDirectory[str], Dataset]:
    """Write batches into a temporary file.

    Returns:
        The folder of the file, which is deleted with this object, and the memory-mapped dataset.
    """
    folder = TemporaryDirectory(dir=temporary_folder(), ignore_cleanup_errors=True)
    path = Path(folder.name) / "data.arrow"
    write(path, batches, schema)
    return folder, Dataset.from_file(str(path))


def write(path: Path, batches: Iterable[pyarrow.RecordBatch], schema: pyarrow.Schema) -> None:
    """Write batches into a file, which `Dataset.from_file` reads."""
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_stored(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs into a file for `StoredPairs.of_files`."""
    write(path, _batches(pairs), _SCHEMA)


class Texts(Iterable[str]):
    """All texts of a corpus, in any order; can be iterated repeatedly."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[str]:
        """Yield the texts, sources and targets of a stored part in turn: columns are fast."""
        if isinstance(self._pairs, StoredPairs):
            columns = (column for batch in self._pairs.batches() for column in batch.columns)
            return chain.from_iterable(column.to_pylist() for column in columns)
        return chain.from_iterable(self._pairs)


def _batches(pairs: Iterable[Pair]) -> Iterator[pyarrow.RecordBatch]:
    """Yield the pairs in batches that fit into memory, however long the texts are."""
    batch: list[Pair] = []
    characters = 0
    for pair in pairs:
        batch.append(pair)
        characters += len(pair.source) + len(pair.target)
        if len(batch) == PART or characters >= MAX_BUFFERED:
            yield _record_batch(batch)
            batch, characters = [], 0
    if batch:
        yield _record_batch(batch)


def _record_batch(pairs: Sequence[Pair]) -> pyarrow.RecordBatch:
    columns = [pyarrow.array(column, pyarrow.string()) for column in zip(*pairs, strict=True)]
    return pyarrow.record_batch(columns, schema=_SCHEMA)


def pairs_of(batch: pyarrow.RecordBatch) -> list[Pair]:
    """Return the pairs of a part of a stored corpus."""
    return _pairs(batch.to_pydict())


def _pairs(columns: dict[str, list[str]]) -> list[Pair]:
    return list(map(Pair, columns["source"], columns["target"]))
