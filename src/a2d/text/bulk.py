"""Reading of large files by several processes, each of which reads other lines."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from a2d.errors import UserError
from a2d.files import temporary_folder
from a2d.text.files import LineRange, line_ranges
from a2d.text.formats import FORMATS, format_of
from a2d.text.pairs import Selection
from a2d.text.parts import in_processes
from a2d.text.reading import Reader, ReadingReport
from a2d.text.storage import StoredPairs, write_stored

LINES = 250_000
"""Lines that a process reads at once."""

_ALL_FAULTS = 1000
"""Problems of a part that are counted: which of them a warning shows, the parts before decide."""


class Part(NamedTuple):
    """Part of a corpus.

    Attributes:
        places: names of the whole files.
        ranges: lines of one file, or of two aligned files.
        selection: the pairs that are wanted.
        output: file for the pairs.
    """

    places: list[str]
    ranges: tuple[LineRange, ...]
    selection: Selection
    output: Path


def read_stored(reader: Reader, reading: ReadingReport, processes: int) -> StoredPairs:
    """Read the pairs of a file, of two aligned files or of a dataset into a temporary file.

    Args:
        reader: reader of the file.
        reading: counts, to which everything is added.
        processes: number of processes, for tables, JSON lines and plain text of several hundred
            thousand lines that are not compressed.

    Raises:
        UserError: as in `Reader.read`, or a process was killed.
    """
    ranges = _ranges(reader) if processes > 1 else []
    if len(ranges) < 2:
        return StoredPairs(reader.read(reading))
    next(reader.read(ReadingReport(reader.places)), None)  # this process checks the file and warns
    folder = TemporaryDirectory(dir=temporary_folder(), ignore_cleanup_errors=True)
    paths = [Path(folder.name) / f"{number}.arrow" for number in range(len(ranges))]
    parts = [
        Part(reader.places, each, reader.selection, path)
        for each, path in zip(ranges, paths, strict=True)
    ]
    for report in in_processes(read_part, parts, min(processes, len(parts))):
        reading.add(report)
    return StoredPairs.of_files(folder, paths)


def read_part(part: Part) -> ReadingReport:
    """Read a part of a corpus into its file, and return its counts."""
    read = format_of(part.ranges[0].path).read_part
    assert read is not None
    reading = ReadingReport(part.places, most_faults=_ALL_FAULTS)
    reader = Reader(part.places, lambda: read(part.ranges, part.selection))
    write_stored(part.output, reader.read(reading))
    return reading


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


def _is_divisible(path: Path) -> bool:
    file_format = format_of(path)
    if file_format.read_part is None or FORMATS.plugin(file_format.name):
        return False
    return file_format.has_lines is None or file_format.has_lines(path)
