"""Readers of corpora as lines: plain text, tables with tabs, and comma-separated values."""

from __future__ import annotations

import csv
import logging
import re
import statistics
from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import NamedTuple

from a2d.errors import UserError
from a2d.quoting import escaped, listed, quoted, shorten
from a2d.text.bounds import MAX_COLUMNS, MAX_LINE
from a2d.text.files import LineRange, lines
from a2d.text.languages import base_code, is_language, names_language, same_language
from a2d.text.pairs import (
    Entries,
    Languages,
    Malformed,
    Omitted,
    Pair,
    Selection,
    Threshold,
    normal_pair,
)

logger = logging.getLogger(__name__)

csv.field_size_limit(2**31 - 1)  # the library's default is too small for texts

_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)
"""First line in which spreadsheets name the delimiter."""

_SAMPLE_ROWS = 50
"""First rows of a table, from which its delimiter and header are detected."""

_QUOTED = re.compile(r'"[^"]*+(?:""[^"]*+)*+"')
_MIN_QUOTED_CELLS = 10
"""A table is refused if its first rows have at least this many cells and all are in quotes."""

_MAX_QUOTED_LINES = 100
"""Lines of a quoted text; without this limit, an open quote would swallow the rest of the file."""

_SOURCE = ("source", "src")
_TARGET = ("target", "tgt", "trg")
_AFTER_ROLE = re.compile(r"(?<![\s_-])[\s_-]++(text|segment|sentence)$")

_NAME = re.compile(r"[^\W\d]\w*([.-]\w+)*")
_MAX_NAME = 40
_NAME_WORDS = {
    *_SOURCE,
    *_TARGET,
    "text",
    "segment",
    "sentence",
    "string",
    "original",
    "translation",
}
"""Words that occur in names of columns, besides languages."""

_TYPICAL_LENGTH = 10
"""Median characters of texts; language codes above texts of this length are names of columns."""

Rows = Iterator[tuple[str, list[str] | Malformed]]
"""Rows of a table, each with its place."""


def aligned_files(paths: Sequence[Path], selection: Selection) -> Entries:
    """Read two plain-text files, aligned line by line.

    Raises:
        UserError: one file has more lines, so the alignment is unknown, or the names of the files
            show that they are listed in the wrong order.
    """
    _check_order(paths, selection.languages)
    counts = [0, 0]
    for source, target in zip_longest(*map(lines, paths)):
        counts[0] += source is not None
        counts[1] += target is not None
        if source is not None and target is not None:
            yield _aligned(source, target)
        elif isinstance(line := source or target, Malformed):
            yield line
    if counts[0] != counts[1]:
        raise UserError(
            f"{paths[0]} has {counts[0]} lines, but {paths[1]} has {counts[1]}: "
            "align them line by line"
        )


def _aligned(source: str | Malformed, target: str | Malformed) -> Pair | Malformed:
    if isinstance(source, Malformed):
        return source
    return target if isinstance(target, Malformed) else normal_pair(source, target)


def _check_order(paths: Sequence[Path], languages: Languages | None) -> None:
    """Refuse two files whose names have the languages in the wrong order (`x.en`, `x.de`)."""
    if languages is None or base_code(languages.source) == base_code(languages.target):
        return
    codes = [
        next((part for part in reversed(path.name.split(".")) if is_language(part)), "")
        for path in paths
    ]
    if all(map(same_language, reversed(codes), languages)):
        raise UserError(
            f"{paths[0]} is named {quoted(codes[0])} and {paths[1]} {quoted(codes[1])}, but the "
            f"source is {languages.source!r}: list them in the other order"
        )


def table(path: Path, selection: Selection) -> Entries:
    """Read columns separated by tabs; empty lines are skipped, quotes belong to the text."""

    remaining = _rows(path)
    first_rows = list(islice(remaining, _SAMPLE_ROWS))
    cells = [cell for _, row in first_rows if not isinstance(row, Malformed) for cell in row]
    if len(cells) >= _MIN_QUOTED_CELLS and all(map(_QUOTED.fullmatch, cells)):
        raise UserError(
            f"{path} has every text in quotes: if a spreadsheet wrote them, name the file .csv "
            "(tabs may separate its columns)"
        )
    return _pairs(path, chain(first_rows, remaining), selection, _TABLE_ADVICE)


_TABLE_ADVICE = "write source, one tab, target (or list two plain-text files)"


def read_part(ranges: Sequence[LineRange], selection: Selection) -> Entries:
    """Read some lines of a table, or the same lines of two plain-text files."""
    if len(ranges) == 2:
        return map(_aligned, *map(lines, ranges))
    (part,) = ranges
    first_rows = list(islice(_rows(part.path), _SAMPLE_ROWS))
    return _pairs(part.path, _rows(part), selection, _TABLE_ADVICE, first_rows)


def _rows(source: Path | LineRange) -> Rows:
    """Yield the rows of a table with tabs."""
    path, first = (source, 1) if isinstance(source, Path) else (source.path, source.first)
    name = str(path)
    for number, line in enumerate(lines(source), start=first):
        if isinstance(line, Malformed):
            yield line.where, line
        elif line:
            yield f"{name}, line {number}", line.split("\t", MAX_COLUMNS)


def is_table(path: Path) -> bool:
    """Return whether the first line of a text file that is not empty contains a tab."""
    first = next((line for line in lines(path) if line), "")
    return isinstance(first, str) and "\t" in first


def comma_separated(path: Path, selection: Selection) -> Entries:
    """Read columns separated by commas, semicolons, tabs or bars, with quotes where needed."""
    remaining = enumerate(lines(path), start=1)
    first_lines = _first_lines(remaining)
    texts = [line for _, line in first_lines if isinstance(line, str) and line.strip()]
    separator = _SEPARATOR.fullmatch(texts[0]) if texts else None
    if separator:
        first_lines = [(number, line) for number, line in first_lines if line != separator[0]]
    delimiter = separator[1] if separator else _delimiter(texts, selection)
    rows = _csv_rows(path, chain(first_lines, remaining), delimiter)
    return _pairs(path, rows, selection, "quote texts that hold a comma, a quote or a line break")


def _first_lines(
    numbered: Iterator[tuple[int, str | Malformed]],
) -> list[tuple[int, str | Malformed]]:
    """Return the first lines of a file, fewer if they are long."""
    first_lines: list[tuple[int, str | Malformed]] = []
    characters = 0
    for number, line in islice(numbered, 2 * _SAMPLE_ROWS):
        first_lines.append((number, line))
        characters += len(line) if isinstance(line, str) else 0
        if characters > MAX_LINE:
            break
    return first_lines


def _delimiter(first_lines: list[str], selection: Selection) -> str:
    """Detect the delimiter of a table from its first lines.

    It is the character by which the first row names columns, else the one by which most rows have
    equally many columns, two at least; of several, the first in `_DELIMITERS`.
    """

    def fitness(delimiter: str) -> tuple[bool, int]:
        first = [cell.strip() for cell in _parse_record(iter(first_lines[:1]), delimiter) or ()]
        names = [key for key in selection.keys or () if isinstance(key, str)]
        has_header = columns_by_name(first, selection.languages) is not None
        texts = (line.replace("\r", " ") for line in first_lines)  # csv refuses it alone
        counts = [len(row) for row in csv.reader(texts, delimiter=delimiter) if row]
        typical_count = statistics.mode(counts) if counts else 0
        names_columns = has_header or (bool(names) and all(name in first for name in names))
        return names_columns, counts.count(typical_count) if typical_count > 1 else 0

    return max(_DELIMITERS, key=fitness)


def _csv_rows(path: Path, numbered: Iterator[tuple[int, str | Malformed]], delimiter: str) -> Rows:
    """Yield records, each parsed on its own: an open quote must not swallow the next record."""
    buffered: list[tuple[int, str | Malformed]] = []
    while True:
        number, line = buffered.pop(0) if buffered else next(numbered, (0, None))
        if line is None:
            return
        where = f"{path}, line {number}"
        if isinstance(line, Malformed):
            yield where, line
            continue
        if not line.strip():
            continue
        lines_used = 0

        def record(first: str) -> Iterator[str]:
            nonlocal lines_used
            yield first
            characters = len(first)
            while lines_used + 1 < _MAX_QUOTED_LINES and characters < MAX_LINE:
                if lines_used == len(buffered):
                    buffered.extend(islice(numbered, 1))
                following = buffered[lines_used][1] if lines_used < len(buffered) else None
                if not isinstance(following, str):
                    return
                lines_used += 1
                characters += len(following)
                yield following

        row = _parse_record(record(line), delimiter)
        if row:
            del buffered[:lines_used]
            yield where, [" ".join(c.split()) if "\n" in c else c for c in row]
        else:
            problem = "opens a quote that is not closed" if row is None else "has a stray quote"
            yield where, Malformed(where, f"{problem}: double the quotes within a quoted text")


def _parse_record(record: Iterator[str], delimiter: str) -> list[str] | None:
    """Parse one record of a table.

    A text in double quotes may contain line breaks, so that a record may have several lines. Lines
    after the first are taken from `record` only as long as a quote is open.

    Args:
        record: lines from the record's first line on, without line ends.
        delimiter: character between columns.

    Returns:
        The columns. None if the lines end while a quote is open. An empty list if a quote is
        followed by something else than the delimiter or the end of the record.
    """
    first = next(record, "")
    if '"' not in first:
        return first.split(delimiter, MAX_COLUMNS)
    reader = csv.reader(
        (line + "\n" for line in chain([first], record)), delimiter=delimiter, strict=True
    )
    try:
        return next(reader)
    except csv.Error as error:
        return None if "unexpected end" in str(error) else []


class _Columns(NamedTuple):
    """Columns of a table.

    Attributes:
        source: index of the source, from 0.
        target: index of the target.
        score: index of the score, or None.
        width: number of columns.
        header: whether the first row names the columns.
    """

    source: int
    target: int
    score: int | None
    width: int
    header: bool


def _pairs(
    path: Path,
    rows: Rows,
    selection: Selection,
    advice: str,
    first_rows: Sequence[tuple[str, list[str] | Malformed]] | None = None,
) -> Entries:
    """Yield the pairs of a table's rows.

    Args:
        path: the table.
        rows: its rows, or some of them.
        selection: the pairs that are wanted.
        advice: what to do about rows of another width.
        first_rows: the table's first rows, if `rows` are some of its rows.
    """
    start = list(islice(rows, _SAMPLE_ROWS)) if first_rows is None else first_rows
    valid = [(w, r) for w, r in start if not isinstance(r, Malformed) and len(r) <= MAX_COLUMNS]
    shown = [row for _, row in valid]
    columns = _columns(path, shown, selection) if valid else _Columns(0, 1, None, 2, False)
    header = valid[0][0] if valid and columns.header else None
    for where, row in chain(start, rows) if first_rows is None else rows:
        if isinstance(row, Malformed):
            yield row
        elif where == header:
            continue
        elif len(row) != columns.width:
            hint = (
                ""
                if len(row) < 3 or columns.header or selection.keys
                else f"; or choose columns, as in {{path: {path}, source: 1, target: 2}}"
            )
            count = f"{len(row)}" if len(row) <= MAX_COLUMNS else f"more than {MAX_COLUMNS}"
            yield Malformed(
                where, f"has {count} column(s) instead of {columns.width}: {advice}{hint}"
            )
        else:
            yield _make_pair(row, columns, selection.threshold, where)


def _make_pair(
    row: list[str], columns: _Columns, threshold: Threshold | None, where: str
) -> Pair | Malformed | Omitted:
    pair = normal_pair(row[columns.source], row[columns.target])
    if threshold is None or columns.score is None:
        return pair
    return threshold.judge(row[columns.score], pair, where)


def _columns(path: Path, rows: list[list[str]], selection: Selection) -> _Columns:
    """Detect the columns of a table from its first rows.

    The first row is a header only if it names the columns that `selection` chooses by name, the
    roles (`source`, `target`) or both languages.

    Raises:
        UserError: a chosen column is missing, or the columns are in other languages.
    """
    first = [cell.strip() for cell in rows[0]]
    named_columns = columns_by_name(first, selection.languages)
    score, header = None, named_columns is not None
    if selection.threshold is not None:
        key = selection.threshold.key
        header = header or isinstance(key, str) or _is_score_name(_first_cell(path, first, key))
        score = _index(path, first, key)
    if selection.keys is not None:
        header = header or any(isinstance(key, str) for key in selection.keys)
        source, target = (_index(path, first, key) for key in selection.keys)
    elif named_columns is not None:
        source, target = named_columns
    else:
        _check_languages(path, first, rows[1:], selection.languages)
        if header:
            raise UserError(
                f"{path} has the columns {listed(first)}: choose those of its texts, as in "
                f"{{path: {path}, source: {shorten(first[0])}, target: {shorten(first[-1])}}}"
            )
        if score is not None:
            raise UserError(f"{path} has a score: choose its texts by 'source' and 'target' too")
        _warn_of_header(path, first, rows[1:])
        return _Columns(0, 1, None, 2, False)
    return _Columns(source, target, score, len(first), header)


def _is_score_name(cell: str) -> bool:
    """Return whether a score column's first cell is its name, not a number or missing value."""
    return not re.search(r"\d", cell) and cell.casefold() not in _MISSING_SCORES


_MISSING_SCORES = ("", "-", "nan", "inf", "-inf", "none", "null", "na", "n/a")


def columns_by_name(first: list[str], languages: Languages | None) -> tuple[int, int] | None:
    """Return the indices of the two text columns that a header names; None for another row."""
    roles = [_AFTER_ROLE.sub("", cell.casefold()) for cell in first]
    matches = [[n for n, role in enumerate(roles) if role in names] for names in (_SOURCE, _TARGET)]
    if not all(matches) and languages is not None:
        matches = [
            [n for n, cell in enumerate(first) if cell and names_language(cell, language)]
            for language in languages
        ]
    if any(len(columns) != 1 for columns in matches) or matches[0] == matches[1]:
        return None
    return matches[0][0], matches[1][0]


def _check_languages(
    path: Path, first: list[str], rows: list[list[str]], languages: Languages | None
) -> None:
    """Refuse a table whose columns are named by other languages."""
    if languages is None or len(first) != 2 or first[0] == first[1]:
        return
    if all(map(is_language, first)) and _are_long(rows):
        raise UserError(
            f"{path} has columns in {quoted(first[0])} and {quoted(first[1])}, but the languages "
            f"are {languages.source!r} and {languages.target!r}: correct the languages, or choose "
            f"its columns, as in {{path: {path}, source: 1, target: 2}}"
        )


def _warn_of_header(path: Path, first: list[str], rows: list[list[str]]) -> None:
    """Warn of a first row that looks like names of columns, but is read as a pair."""
    if len(first) == 2 and all(map(_is_column_name, first)) and _are_long(rows):
        logger.warning(
            "%s: the first line (%s) looks like names of columns, but is read as a pair. If it "
            "names columns, choose them, as in {path: %s, source: %s, target: %s}.",
            escaped(str(path)),
            listed(first),
            escaped(str(path)),
            *map(shorten, first),
        )


def _is_column_name(cell: str) -> bool:
    if len(cell) > _MAX_NAME or not _NAME.fullmatch(cell):
        return False
    words = re.split(r"[_.-]", cell.casefold())
    return any(word in _NAME_WORDS or is_language(word) for word in words)


def _are_long(rows: list[list[str]]) -> bool:
    """Return whether the typical cell is longer than names of languages and columns."""
    lengths = [len(cell) for row in rows for cell in row]
    return bool(lengths) and statistics.median(lengths) >= _TYPICAL_LENGTH


def _index(path: Path, first: list[str], key: str | int) -> int:
    _first_cell(path, first, key)
    if isinstance(key, int):
        return key - 1
    names = first if key in first else [cell.casefold() for cell in first]
    return names.index(key if key in first else key.casefold())


def _first_cell(path: Path, first: list[str], key: str | int) -> str:
    """Return a cell of the first row, by its column's number or name."""
    if isinstance(key, int):
        if key > len(first):
            raise UserError(f"{path} has {len(first)} columns, but no column {key}")
        return first[key - 1]
    if key not in first and key.casefold() not in [cell.casefold() for cell in first]:
        raise UserError(
            f"{path} has no column {quoted(key)}: choose columns by the names in its first line "
            f"({listed(first)}), or by their numbers from 1"
        )
    return key
