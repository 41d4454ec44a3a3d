"""Corpora as lines: plain text, tables with tabs, and comma-separated values."""

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
from a2d.quoting import escaped, listed, quoted, shown
from a2d.text.bounds import COLUMNS, LINE
from a2d.text.files import lines
from a2d.text.languages import base_code, is_language, names_language, same_language
from a2d.text.pairs import (
    Entries,
    Languages,
    Malformed,
    Omitted,
    Pair,
    Threshold,
    Wanted,
    normal,
)

logger = logging.getLogger(__name__)

csv.field_size_limit(2**31 - 1)  # the library's limit is no limit of texts

_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)
"""A first line by which spreadsheets name the delimiter."""

_LOOKED_AT = 50
"""Rows by which a table's delimiter and header are told."""

_QUOTED = re.compile(r'"[^"]*+(?:""[^"]*+)*+"')
_CELLS = 10
"""Cells of a table's start from which on it is refused if all of them are in quotes."""

_LONGEST = 100
"""Lines that a quoted text may have: an open quote would swallow the rest of a file."""

_SOURCE = ("source", "src")
_TARGET = ("target", "tgt", "trg")
_AFTER_ROLE = re.compile(r"(?<![\s_-])[\s_-]++(text|segment|sentence)$")

_NAME = re.compile(r"[^\W\d]\w*([.-]\w+)*")
_LONGEST_NAME = 40
_OF_NAMES = {*_SOURCE, *_TARGET, "text", "segment", "sentence", "string", "original", "translation"}
"""Words of columns' names, besides languages."""

_TEXT = 10
"""Characters of a typical text: two codes of languages above such texts are their names."""

Rows = Iterator[tuple[str, list[str] | Malformed]]
"""Rows of a table, each with its place."""


def aligned(paths: Sequence[Path], wanted: Wanted) -> Entries:
    """Two plain-text files, aligned line by line.

    Raises:
        UserError: one has more lines, so that nobody knows what belongs together, or their names
            say that they are listed in the wrong order.
    """
    _check_order(paths, wanted.languages)
    counts = [0, 0]
    for source, target in zip_longest(*map(lines, paths)):
        counts[0] += source is not None
        counts[1] += target is not None
        if isinstance(source, Malformed):
            yield source
        elif isinstance(target, Malformed):
            yield target
        elif source is not None and target is not None:
            yield normal(source, target)
    if counts[0] != counts[1]:
        raise UserError(
            f"{paths[0]} has {counts[0]} lines and {paths[1]} has {counts[1]}: "
            "align them line by line"
        )


def _check_order(paths: Sequence[Path], languages: Languages | None) -> None:
    """Refuse two files whose names have the languages the other way around (`x.en`, `x.de`)."""
    if languages is None or base_code(languages.source) == base_code(languages.target):
        return
    named = [
        next((part for part in reversed(path.name.split(".")) if is_language(part)), "")
        for path in paths
    ]
    if all(map(same_language, reversed(named), languages)):
        raise UserError(
            f"{paths[0]} is called {quoted(named[0])} and {paths[1]} {quoted(named[1])}, and "
            f"{languages.source!r} is the source: list them the other way around"
        )


def table(path: Path, wanted: Wanted) -> Entries:
    """Columns with a tab between them; empty lines are skipped, quotes are text."""

    def rows() -> Rows:
        for number, line in enumerate(lines(path), start=1):
            if isinstance(line, Malformed):
                yield line.where, line
            elif line:
                yield f"{path}, line {number}", line.split("\t", COLUMNS)

    read = rows()
    start = list(islice(read, _LOOKED_AT))
    cells = [cell for _, row in start if not isinstance(row, Malformed) for cell in row]
    if len(cells) >= _CELLS and all(_QUOTED.fullmatch(cell) for cell in cells):
        raise UserError(
            f"{path} has every text in quotes: if they are a spreadsheet's, name the file .csv "
            "(tabs may separate its columns)"
        )
    return _pairs(
        path,
        chain(start, read),
        wanted,
        "write source, one tab, target (or list two plain-text files)",
    )


def is_table(path: Path) -> bool:
    """Whether the first line of a text file that is not empty has a tab."""
    first = next((line for line in lines(path) if line), "")
    return isinstance(first, str) and "\t" in first


def comma_separated(path: Path, wanted: Wanted) -> Entries:
    """Columns with a comma, semicolon, tab or bar between them, in quotes where need be."""
    rest = enumerate(lines(path), start=1)
    start = _start(rest)
    texts = [line for _, line in start if isinstance(line, str) and line.strip()]
    separator = _SEPARATOR.fullmatch(texts[0]) if texts else None
    if separator:
        start = [(number, line) for number, line in start if line != separator[0]]
    delimiter = separator[1] if separator else _delimiter(texts, wanted)
    rows = _unquoted(path, chain(start, rest), delimiter)
    return _pairs(path, rows, wanted, "quote texts that hold a comma, a quote or a line break")


def _start(numbered: Iterator[tuple[int, str | Malformed]]) -> list[tuple[int, str | Malformed]]:
    """First lines of a file, fewer if they are long."""
    start: list[tuple[int, str | Malformed]] = []
    characters = 0
    for number, line in islice(numbered, 2 * _LOOKED_AT):
        start.append((number, line))
        characters += len(line) if isinstance(line, str) else 0
        if characters > LINE:
            break
    return start


def _delimiter(start: list[str], wanted: Wanted) -> str:
    """The character by which the first row names columns, or most rows have as many, two at least.

    Of several, the first in `_DELIMITERS`.
    """

    def fitness(delimiter: str) -> tuple[bool, int]:
        first = [cell.strip() for cell in _parsed(iter(start[:1]), delimiter) or ()]
        chosen = [key for key in wanted.keys or () if isinstance(key, str)]
        named = columns_by_name(first, wanted.languages) is not None
        plain = (line.replace("\r", " ") for line in start)  # alone, it is an error to the reader
        counts = [len(row) for row in csv.reader(plain, delimiter=delimiter) if row]
        usual = statistics.mode(counts) if counts else 0
        known = named or (bool(chosen) and all(key in first for key in chosen))
        return known, counts.count(usual) if usual > 1 else 0

    return max(_DELIMITERS, key=fitness)


def _unquoted(path: Path, numbered: Iterator[tuple[int, str | Malformed]], delimiter: str) -> Rows:
    """Records, each parsed on its own: one whose quote stays open must not swallow the next."""
    waiting: list[tuple[int, str | Malformed]] = []
    while True:
        number, line = waiting.pop(0) if waiting else next(numbered, (0, None))
        if line is None:
            return
        where = f"{path}, line {number}"
        if isinstance(line, Malformed):
            yield where, line
            continue
        if not line.strip():
            continue
        taken = 0

        def record(first: str) -> Iterator[str]:
            nonlocal taken
            yield first
            characters = len(first)
            while taken + 1 < _LONGEST and characters < LINE:
                if taken == len(waiting):
                    waiting.extend(islice(numbered, 1))
                following = waiting[taken][1] if taken < len(waiting) else None
                if not isinstance(following, str):
                    return
                taken += 1
                characters += len(following)
                yield following

        row = _parsed(record(line), delimiter)
        if row:
            del waiting[:taken]
            yield where, [" ".join(c.split()) if "\n" in c else c for c in row]
        else:
            problem = "opens a quote that is not closed" if row is None else "has a stray quote"
            yield where, Malformed(where, f"{problem}: double the quotes within a quoted text")


def _parsed(record: Iterator[str], delimiter: str) -> list[str] | None:
    """The columns of a record, of whose lines as many are taken as it has.

    None: a quote is open at their end; no columns: one is stray.
    """
    first = next(record, "")
    if '"' not in first:
        return first.split(delimiter, COLUMNS)
    reader = csv.reader(
        (line + "\n" for line in chain([first], record)), delimiter=delimiter, strict=True
    )
    try:
        return next(reader)
    except csv.Error as error:
        return None if "unexpected end" in str(error) else []


class _Columns(NamedTuple):
    """Where a table has what, counted from 0, and how many columns it has."""

    source: int
    target: int
    score: int | None
    width: int
    header: bool


def _pairs(path: Path, rows: Rows, wanted: Wanted, mend: str) -> Entries:
    start = list(islice(rows, _LOOKED_AT))
    good = [row for _, row in start if not isinstance(row, Malformed)]
    columns = _columns(path, good, wanted) if good else _Columns(0, 1, None, 2, False)
    header = good[0] if good and columns.header else None
    for where, row in chain(start, rows):
        if isinstance(row, Malformed):
            yield row
        elif row is header:
            continue
        elif len(row) > COLUMNS:
            yield Malformed(where, f"has more than {COLUMNS} columns: {mend}")
        elif len(row) != columns.width:
            more = (
                ""
                if len(row) < 3 or columns.header or wanted.keys
                else (f"; choose columns, as in {{path: {path}, source: 1, target: 2}}")
            )
            yield Malformed(
                where, f"has {len(row)} column(s) instead of {columns.width}: {mend}{more}"
            )
        else:
            yield _judged(row, columns, wanted.threshold, where)


def _judged(
    row: list[str], columns: _Columns, threshold: Threshold | None, where: str
) -> Pair | Malformed | Omitted:
    pair = normal(row[columns.source], row[columns.target])
    if threshold is None or columns.score is None:
        return pair
    return threshold.judge(row[columns.score], pair, where)


def _columns(path: Path, rows: list[list[str]], wanted: Wanted) -> _Columns:
    """Tell a table's columns by its first rows.

    The first row is a header only if it names what is asked for: the columns chosen by name, roles
    (`source`, `target`) or both languages.

    Raises:
        UserError: what was chosen is not there, or the columns are of other languages.
    """
    first = [cell.strip() for cell in rows[0]]
    named = columns_by_name(first, wanted.languages)
    score, header = None, named is not None
    if wanted.threshold is not None:
        key = wanted.threshold.key
        header = header or isinstance(key, str) or _is_name(_cell(path, first, key))
        score = _index(path, first, key)
    if wanted.keys is not None:
        header = header or any(isinstance(key, str) for key in wanted.keys)
        source, target = (_index(path, first, key) for key in wanted.keys)
    elif named is not None:
        source, target = named
    else:
        _check_languages(path, first, rows[1:], wanted.languages)
        if header:
            raise UserError(
                f"{path} has the columns {listed(first)}: name its texts, as in "
                f"{{path: {path}, source: {shown(first[0])}, target: {shown(first[-1])}}}"
            )
        if score is not None:
            raise UserError(f"{path} has a score: choose its texts by 'source' and 'target' too")
        _warn_of_names(path, first, rows[1:])
        return _Columns(0, 1, None, 2, False)
    return _Columns(source, target, score, len(first), header)


def _is_name(score: str) -> bool:
    """Whether the first cell of a column of scores is its name: no number, nor a missing one."""
    return not re.search(r"\d", score) and score.casefold() not in _NO_NUMBERS


_NO_NUMBERS = ("", "-", "nan", "inf", "-inf", "none", "null", "na", "n/a")


def columns_by_name(first: list[str], languages: Languages | None) -> tuple[int, int] | None:
    """The two columns that a header names; None: the row is none."""
    roles = [_AFTER_ROLE.sub("", cell.casefold()) for cell in first]
    found = [[n for n, role in enumerate(roles) if role in names] for names in (_SOURCE, _TARGET)]
    if not all(found) and languages is not None:
        found = [
            [n for n, cell in enumerate(first) if cell and names_language(cell, language)]
            for language in languages
        ]
    if any(len(columns) != 1 for columns in found) or found[0] == found[1]:
        return None
    return found[0][0], found[1][0]


def _check_languages(
    path: Path, first: list[str], rows: list[list[str]], languages: Languages | None
) -> None:
    """Refuse a table whose columns are named by other languages."""
    if languages is None or len(first) != 2 or first[0] == first[1]:
        return
    if all(map(is_language, first)) and _are_texts(rows):
        raise UserError(
            f"{path} has columns in {quoted(first[0])} and {quoted(first[1])}, and "
            f"{languages.source!r} and {languages.target!r} are wanted: mend the languages, or "
            f"choose its columns, as in {{path: {path}, source: 1, target: 2}}"
        )


def _warn_of_names(path: Path, first: list[str], rows: list[list[str]]) -> None:
    """Warn of a first row that looks like the names of columns, and is read as a pair."""
    if len(first) == 2 and all(map(_is_of_columns, first)) and _are_texts(rows):
        logger.warning(
            "%s: the first line (%s) looks like the names of columns and is read as a pair. If it "
            "is none, name its texts, as in {path: %s, source: %s, target: %s}.",
            escaped(str(path)),
            listed(first),
            escaped(str(path)),
            *map(shown, first),
        )


def _is_of_columns(cell: str) -> bool:
    if len(cell) > _LONGEST_NAME or not _NAME.fullmatch(cell):
        return False
    words = re.split(r"[_.-]", cell.casefold())
    return any(word in _OF_NAMES or is_language(word) for word in words)


def _are_texts(rows: list[list[str]]) -> bool:
    """Whether cells are typically longer than names of languages and columns."""
    lengths = [len(cell) for row in rows for cell in row]
    return bool(lengths) and statistics.median(lengths) >= _TEXT


def _index(path: Path, first: list[str], key: str | int) -> int:
    _cell(path, first, key)
    if isinstance(key, int):
        return key - 1
    names = first if key in first else [cell.casefold() for cell in first]
    return names.index(key if key in first else key.casefold())


def _cell(path: Path, first: list[str], key: str | int) -> str:
    """A cell of the first row by its column's number or name."""
    if isinstance(key, int):
        if key > len(first):
            raise UserError(f"{path} has {len(first)} columns, and no column {key}")
        return first[key - 1]
    if key not in first and key.casefold() not in [cell.casefold() for cell in first]:
        raise UserError(
            f"{path} has no column {quoted(key)}: its first line has {listed(first)}; choose "
            "columns by these names, or by their numbers from 1"
        )
    return key
