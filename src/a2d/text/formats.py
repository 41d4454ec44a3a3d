"""Table of corpus formats.

`FORMATS` holds one row per format; `register_format` adds one from outside the package. Everything
else asks the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from a2d.errors import UserError
from a2d.plugin_errors import check_call
from a2d.plugins import Registry, check_entry
from a2d.quoting import listed, quoted
from a2d.text import localisation, records, tables
from a2d.text.files import COMPRESSED, LineRange, suffix_of
from a2d.text.languages import same_language
from a2d.text.pairs import Entries, Languages, Selection


@dataclass(frozen=True)
class Format:
    """File format of corpora.

    Attributes:
        name: name of the format.
        suffixes: file suffixes in lower case, without those of compression.
        read: reader of one file that holds pairs, called as `read(path, selection)`; None if a file
            holds one language. Readers yield `Pair` (`a2d.text.pairs.normal_pair` makes one),
            `Malformed` for a damaged entry and `Omitted` for one that is left out.
        read_two: reader of two files, called as `read_two(source, target, selection)`; None if a
            file holds pairs.
        keys: meaning of `source` and `target` in a corpus given as a mapping: `columns` (numbers or
            names), `keys`, `languages`, or None if the format has no such choice. The reader then
            finds them in `selection.keys`.
        scores: whether pairs may have scores: the reader then applies `selection.threshold`.
        extra: this package's extra with the libraries of the reader.
        read_part: reader of some lines of one file, or of the same lines of two, called as
            `read_part(ranges, selection)` with `LineRange` (`a2d.text.files`). Several processes
            then read a large file. Only this package's formats are read so: the processes do not
            load plugins.
        has_lines: whether the entries of a file are its lines, called as `has_lines(path)`; None:
            those of all files are. `read_part` reads no other files.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, Selection], Entries] | None
    read_two: Callable[[Path, Path, Selection], Entries] | None = None
    keys: str | None = None
    scores: bool = False
    extra: str | None = None
    read_part: Callable[[Sequence[LineRange], Selection], Entries] | None = None
    has_lines: Callable[[Path], bool] | None = None


def _aligned(source: Path, target: Path, selection: Selection) -> Entries:
    return tables.aligned_files((source, target), selection)


PLAIN = Format("plain text", (), None, _aligned, read_part=tables.read_part)
"""Format of files with any other suffix: two files, one sentence per line."""

TABLE = Format(
    "table",
    (".tsv", ".tab"),
    tables.table,
    keys="columns",
    scores=True,
    read_part=tables.read_part,
)

FORMATS: Registry[Format] = Registry()
"""All formats by name."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
_SHEETS = (".xlsx", ".xls", ".ods")


KEYS = ("columns", "keys", "languages", None)
"""Meanings of `source` and `target` in a corpus given as a mapping."""


def register_format(file_format: Format) -> Format:
    """Add a format to `FORMATS`, so that corpora in it are read wherever a2d reads corpora.

    Raises:
        UserError: another format has this name or one of its suffixes, a suffix is malformed or
            means compression, an archive or a spreadsheet, or a reader is missing or does not take
            the arguments that it is called with.
    """
    check_entry(file_format, Format, r"\w[\w.+ -]*")
    name, reserved = file_format.name, (*COMPRESSED, *_ARCHIVES, *_SHEETS)
    if name in (PLAIN.name, *FORMATS):
        raise UserError(f"a format {name!r} exists already: choose another name.")
    if not file_format.suffixes:
        raise UserError(f"format {name!r} has no suffix: give a tuple, such as ('.moses',).")
    for suffix in file_format.suffixes:
        other = next((row.name for row in FORMATS.values() if suffix in row.suffixes), None)
        if other is not None:
            raise UserError(f"format {name!r}: {suffix} is a suffix of {other!r}: choose another.")
        if (
            not suffix
            or suffix in reserved
            or suffix != suffix.lower()
            or suffix != suffix_of(Path(f"x{suffix}"))
        ):
            raise UserError(
                f"format {name!r}: {suffix!r} cannot be its suffix: give one in lower case with "
                "one dot, at its start, that means no compression, archive or spreadsheet."
            )
    if file_format.keys not in KEYS:
        raise UserError(
            f"format {name!r}: keys is {quoted(file_format.keys)}: give one of {listed(KEYS)}."
        )
    if file_format.read is None and file_format.read_two is None:
        raise UserError(f"format {name!r} has no reader: give read or read_two.")
    if file_format.read is not None:
        check_call(file_format.read, ("path", "selection"))
    if file_format.read_two is not None:
        check_call(file_format.read_two, ("source", "target", "selection"))
    FORMATS[name] = file_format
    return file_format


for _format in (
    TABLE,
    # Two files without tabs are plain text; any other file is a table.
    Format(
        "table or plain text",
        (".txt",),
        tables.table,
        _aligned,
        keys="columns",
        scores=True,
        read_part=tables.read_part,
    ),
    Format(
        "comma-separated values", (".csv",), tables.comma_separated, keys="columns", scores=True
    ),
    Format(
        "JSON",
        (".jsonl", ".ndjson", ".json"),
        records.json_records,
        keys="keys",
        scores=True,
        read_part=records.json_part,
        has_lines=records.has_objects_by_line,
    ),
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
):
    register_format(_format)


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
    return next((row for row in FORMATS.values() if suffix in row.suffixes), PLAIN)


def describe_formats() -> str:
    """List the formats and their suffixes, for messages."""
    one, two = (
        ", ".join(
            f"{row.name} ({', '.join(row.suffixes)})" if row.suffixes else row.name
            for row in (*FORMATS.values(), PLAIN)
            if getattr(row, reader) is not None
        )
        for reader in ("read", "read_two")
    )
    return (
        f"a file ({one}) or a list of two files, source and target ({two}), each optionally as "
        f"{', '.join(COMPRESSED)}"
    )


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
