"""Table of corpus formats. To add a format, write its reader and add a row to `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from a2d.errors import UserError
from a2d.text import localisation, records, tables
from a2d.text.files import suffix_of
from a2d.text.languages import same_language
from a2d.text.pairs import Entries, Languages, Selection


@dataclass(frozen=True)
class Format:
    """File format of corpora.

    Attributes:
        name: name of the format.
        suffixes: file suffixes in lower case, without those of compression.
        read: reader of one file that holds pairs; None if a file holds one language.
        read_two: reader of two files, source and target; None if a file holds pairs.
        keys: meaning of `source` and `target` in a corpus given as a mapping: `columns` (numbers or
            names), `keys`, `languages`, or None if the format has no such choice.
        scores: whether pairs may have scores.
        extra: optional dependencies of the reader (`pip install align-to-distill[…]`).
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, Selection], Entries] | None
    read_two: Callable[[Path, Path, Selection], Entries] | None = None
    keys: str | None = None
    scores: bool = False
    extra: str | None = None


def _aligned(source: Path, target: Path, selection: Selection) -> Entries:
    return tables.aligned_files((source, target), selection)


PLAIN = Format("plain text", (), None, _aligned)
"""Format of files with any other suffix: two files, one sentence per line."""

TABLE = Format("table", (".tsv", ".tab"), tables.table, keys="columns", scores=True)

FORMATS = (
    TABLE,
    # Two files without tabs are plain text; any other file is a table.
    Format("table or plain text", (".txt",), tables.table, _aligned, keys="columns", scores=True),
    Format(
        "comma-separated values", (".csv",), tables.comma_separated, keys="columns", scores=True
    ),
    Format("JSON", (".jsonl", ".ndjson", ".json"), records.json_records, keys="keys", scores=True),
    Format("Parquet", (".parquet",), records.parquet, keys="keys", scores=True),
    Format(
        "translation memory",
        (".tmx",),
        localisation.translation_memory,
        keys="languages",
        scores=True,
        extra="corpora",
    ),
    Format(
        "XLIFF",
        (".xlf", ".xliff", ".sdlxliff", ".mqxliff", ".mxliff"),  # last: Trados, memoQ, Phrase
        localisation.xliff,
        extra="corpora",
    ),
    Format(
        "gettext",
        localisation.GETTEXT,
        localisation.catalogue,
        localisation.message_pairs,
        extra="corpora",
    ),
    Format("Fluent", localisation.FLUENT, None, localisation.message_pairs, extra="corpora"),
)

_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
_SHEETS = (".xlsx", ".xls", ".ods")


def format_of(path: Path) -> Format:
    """Return the format of a file, according to its suffix.

    Raises:
        UserError: the file is an archive or a spreadsheet.

    Example:
        >>> format_of(Path("memory.TMX.gz")).name
        'translation memory'
    """
    suffix = suffix_of(path)
    if suffix in _ARCHIVES:
        raise UserError(f"{path} is an archive: unpack it and give the files in it")
    if suffix in _SHEETS:
        raise UserError(f"{path} is a spreadsheet: save it as comma-separated values (.csv)")
    return next((row for row in FORMATS if suffix in row.suffixes), PLAIN)


def are_two_sides(first: Path, second: Path, languages: Languages | None) -> bool:
    """Return whether two successive files of a list are the two languages of one corpus."""
    formats = format_of(first), format_of(second)
    if formats[0].read_two is None or formats[0].read_two is not formats[1].read_two:
        return False
    if localisation.GETTEXT == formats[0].suffixes == formats[1].suffixes:
        # Two catalogues without language headers are taken for source and target.
        codes = [localisation.language_of(path) for path in (first, second)]
        if languages is None or None in codes:
            return codes[0] is None or codes[0] != codes[1]
        return all(map(same_language, map(str, codes), languages))
    return holds_one_language(first) and holds_one_language(second)


def holds_one_language(path: Path) -> bool:
    """Return whether a file holds one language and needs a second file with its translation."""
    file_format = format_of(path)
    if file_format.read is tables.table and file_format.read_two is not None:
        return not tables.is_table(path)
    return file_format.read is None
