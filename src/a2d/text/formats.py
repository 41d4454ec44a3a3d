"""The table of corpus formats: a new one is a row of it and its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from a2d.errors import UserError
from a2d.text import localisation, records, tables
from a2d.text.files import kind
from a2d.text.languages import same_language
from a2d.text.pairs import Entries, Languages, Wanted


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        name: what it is called.
        suffixes: of its files, in lower case, without those of compression.
        read: reader of one file that holds pairs; None: a file holds one language.
        read_two: reader of two files, source and target; None: a file holds pairs.
        keys: what `source` and `target` of a corpus's mapping form name: `columns` (numbers or
            names), `keys`, `languages`, or nothing.
        scores: whether pairs may carry scores.
        extra: the optional dependencies that reading takes (`pip install align-to-distill[…]`).
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, Wanted], Entries] | None
    read_two: Callable[[Path, Path, Wanted], Entries] | None = None
    keys: str | None = None
    scores: bool = False
    extra: str | None = None


def _aligned(source: Path, target: Path, wanted: Wanted) -> Entries:
    return tables.aligned((source, target), wanted)


PLAIN = Format("plain text", (), None, _aligned)
"""Every other suffix: two files of one sentence a line."""

TABLE = Format("table", (".tsv", ".tab"), tables.table, keys="columns", scores=True)

FORMATS = (
    TABLE,
    # Plain text, if it has no tab; a table where it is alone.
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
        (".xlf", ".xliff", ".sdlxliff", ".mqxliff", ".mxliff"),  # the last of Trados, memoQ, Phrase
        localisation.xliff,
        extra="corpora",
    ),
    Format(
        "gettext",
        localisation.GETTEXT,
        localisation.catalogue,
        localisation.by_message,
        extra="corpora",
    ),
    Format("Fluent", localisation.FLUENT, None, localisation.by_message, extra="corpora"),
)

_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
_SHEETS = (".xlsx", ".xls", ".ods")


def format_of(path: Path) -> Format:
    """The format of a file, by its name.

    Raises:
        UserError: it is an archive or a spreadsheet.

    Example:
        >>> format_of(Path("memory.TMX.gz")).name
        'translation memory'
    """
    suffix = kind(path)
    if suffix in _ARCHIVES:
        raise UserError(f"{path} is an archive: unpack it, and give the files that it holds")
    if suffix in _SHEETS:
        raise UserError(f"{path} is a spreadsheet: save it as comma-separated values (.csv)")
    return next((form for form in FORMATS if suffix in form.suffixes), PLAIN)


def are_two_sides(first: Path, second: Path, languages: Languages | None) -> bool:
    """Whether two files listed in a row are the two languages of one corpus."""
    forms = format_of(first), format_of(second)
    if forms[0].read_two is None or forms[0].read_two is not forms[1].read_two:
        return False
    if localisation.GETTEXT == forms[0].suffixes == forms[1].suffixes:
        # A catalogue of a source, and one of the target; without headers they are taken for that.
        own = [localisation.language_of(path) for path in (first, second)]
        if languages is None or None in own:
            return own[0] is None or own[0] != own[1]
        return all(map(same_language, map(str, own), languages))
    return holds_one_language(first) and holds_one_language(second)


def holds_one_language(path: Path) -> bool:
    """Whether a file needs another one: its translation."""
    form = format_of(path)
    if form.read is tables.table and form.read_two is not None:
        return not tables.is_table(path)
    return form.read is None
