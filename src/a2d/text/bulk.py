"""Reading of large corpora by several processes: other files each, or other lines of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from a2d.errors import UserError
from a2d.files import temporary_folder
from a2d.text.files import LineRange, line_ranges
from a2d.text.formats import FORMATS, format_of
from a2d.text.pairs import Entries, Selection
from a2d.text.parts import in_processes
from a2d.text.reading import Reader, ReadingReport
from a2d.text.storage import StoredPairs, write_stored

LINES = 250_000
"""Lines that a process reads at once."""
BYTES = 20_000_000
"""Least size of several files, together, that processes read as a whole."""

_ALL_FAULTS = 1000
"""Problems of a part that are counted: which of them a warning shows, the parts before decide."""


class Part(NamedTuple):
    """Part of a corpus.

    Attributes:
        places: names of the files.
        files: one file, or two aligned files.
        ranges: lines of each file; empty: the whole files.
        selection: the pairs that are wanted.
        output: file for the pairs.
    """

    places: list[str]
    files: tuple[Path, ...]
    ranges: tuple[LineRange, ...]
    selection: Selection
    output: Path

    @property
    def is_first(self) -> bool:
        """Return whether the part is the beginning of its files."""
        return all(lines.start == 0 for lines in self.ranges)

    def entries(self) -> Entries:
        """Read the entries."""
        file_format = format_of(self.files[0])
        if self.ranges:
            assert file_format.read_part is not None
            return file_format.read_part(self.ranges, self.selection)
        if len(self.files) == 2:
            assert file_format.read_two is not None
            return file_format.read_two(*self.files, self.selection)
        assert file_format.read is not None
        return file_format.read(self.files[0], self.selection)


def read_stored(
    readers: Sequence[Reader], processes: int
) -> Iterator[tuple[ReadingReport, StoredPairs]]:
    """Read a corpus into temporary files.

    Args:
        readers: readers of its files, aligned files and datasets.
        processes: number of processes. They read files of at least 20 MB together; tables, JSON
            lines and plain text of several hundred thousand lines that are not compressed are
            divided among them.

    Yields:
        The counts and the pairs of each reader, in order.

    Raises:
        UserError: as in `Reader.read`, or a process was killed.
    """
    folder = TemporaryDirectory(dir=temporary_folder(), ignore_cleanup_errors=True)
    plans = _plan(readers, Path(folder.name)) if processes > 1 else [[] for _ in readers]
    for reader, parts in zip(readers, plans, strict=True):
        if parts:  # this process checks the files and warns
            next(reader.read(ReadingReport(reader.places)), None)
    count = sum(map(len, plans))
    reports = iter(in_processes(read_part, chain.from_iterable(plans), min(processes, count)))
    for reader, parts in zip(readers, plans, strict=True):
        reading = ReadingReport(reader.places)
        if not parts:
            yield reading, StoredPairs(reader.read(reading))
            continue
        for _ in parts:
            reading.add(next(reports))
        yield reading, StoredPairs.of_files(folder, [part.output for part in parts])


def read_part(part: Part) -> ReadingReport:
    """Read a part of a corpus into its file, and return its counts."""
    reading = ReadingReport(part.places, from_beginning=part.is_first, most_faults=_ALL_FAULTS)
    write_stored(part.output, Reader(part.places, part.entries).read(reading))
    return reading


def _plan(readers: Sequence[Reader], folder: Path) -> list[list[Part]]:
    """List the parts that processes read, for each reader; none if this process shall read."""
    ranges = [_ranges(reader) for reader in readers]
    whole = [reader.files if _is_readable(reader) else () for reader in readers]
    size = sum(path.stat().st_size for path in chain.from_iterable(whole))
    several = size >= BYTES and sum(map(bool, whole)) > 1
    plans: list[list[Part]] = []
    for number, (reader, some) in enumerate(zip(readers, ranges, strict=True)):
        if len(some) < 2:
            some = [()] if several and whole[number] else []
        outputs = (folder / f"{number}-{place}.arrow" for place in range(len(some)))
        plans.append(
            [
                Part(reader.places, reader.files, each, reader.selection, output)
                for each, output in zip(some, outputs, strict=True)
            ]
        )
    return plans


def _ranges(reader: Reader) -> list[tuple[LineRange, ...]]:
    """Divide the lines of a reader's files; returns nothing if they must be read as a whole."""
    try:
        if not reader.files or not all(map(_is_divisible, reader.files)):
            return []
        each = [line_ranges(path, LINES) for path in reader.files]
    except UserError:  # the reader will report it
        return []
    counts = {(len(ranges), count) for ranges, count in each}
    return list(zip(*(ranges for ranges, _ in each), strict=True)) if len(counts) == 1 else []


def _is_readable(reader: Reader) -> bool:
    """Return whether another process can read the files of a reader."""
    return all(path.is_file() and not FORMATS.plugin(format_of(path).name) for path in reader.files)


def _is_divisible(path: Path) -> bool:
    file_format = format_of(path)
    if file_format.read_part is None or FORMATS.plugin(file_format.name):
        return False
    return file_format.has_lines is None or file_format.has_lines(path)
