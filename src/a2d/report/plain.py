"""Comparisons from plain text files: one line per segment, from any system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from a2d.errors import UserError
from a2d.quoting import quoted
from a2d.report.comparison import Comparison, System
from a2d.text.files import expand_path, lines, missing_file
from a2d.text.pairs import Malformed

MAX_SEGMENTS = 100_000
"""Largest test set of a page."""
MAX_SEGMENT = 50_000
"""Most characters of a segment."""
MAX_CHARACTERS = 50_000_000
"""Most characters of a file of segments."""


def read_comparison(
    title: str,
    sources: Path,
    references: Path,
    systems: Sequence[str],
    pair: tuple[str, str] | None = None,
    domains: Path | None = None,
) -> Comparison:
    """Read a comparison from plain text files.

    Args:
        title: title of the page.
        sources, references: files of the test set.
        systems: `NAME=FILE` or `FILE` for each system; the others are compared with the first one.
            The name of a file without a name is its own, without the suffix.
        pair: language codes of source and target, if they are known.
        domains: file with the domain of each segment; None: unknown.

    Raises:
        UserError: a file is missing, is not UTF-8, is too long, or has another number of lines than
            the sources.
    """
    named = [_named(system) for system in systems]
    return Comparison(
        title,
        pair,
        read_segments(sources),
        read_segments(references),
        [System(name, name, read_segments(path)) for name, path in named],
        domains=None if domains is None else read_segments(domains),
    )


def read_segments(path: Path) -> list[str]:
    """Read a file with one segment per line, optionally compressed; lines may be empty.

    Raises:
        UserError: the file is missing, has an unreadable line, or more than `MAX_SEGMENTS` lines.
    """
    path = expand_path(path)
    if not path.exists():
        raise missing_file(path)
    segments, characters = [], 0
    for number, line in enumerate(lines(path), 1):
        if isinstance(line, Malformed):
            raise UserError(f"{line}.")
        if number > MAX_SEGMENTS:
            raise UserError(f"{path} has more than {MAX_SEGMENTS:,} lines: compare fewer segments.")
        if len(line) > MAX_SEGMENT:
            raise UserError(
                f"{path}, line {number:,} has more than {MAX_SEGMENT:,} characters: split it."
            )
        characters += len(line)
        if characters > MAX_CHARACTERS:
            raise UserError(
                f"{path} has more than {MAX_CHARACTERS:,} characters: compare fewer segments."
            )
        segments.append(line)
    return segments


def _named(system: str) -> tuple[str, Path]:
    name, equals, place = system.partition("=")
    if not equals:
        return Path(system).name.split(".")[0] or system, Path(system)
    if not name or not place:
        raise UserError(f"{quoted(system)}: give a system as NAME=FILE.")
    return name, Path(place)
