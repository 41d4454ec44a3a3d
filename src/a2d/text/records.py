"""Readers of corpora with one pair per record: JSON lines and arrays, Parquet, datasets."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from a2d.errors import UserError, first_line
from a2d.quoting import WIDTH, listed, quoted, shorten
from a2d.text.bounds import MAX_COLUMNS, MAX_LINE, MAX_SKIPPED, format_size
from a2d.text.encodings import UNREADABLE, decode, encoding_of, peek_start
from a2d.text.files import LineRange, blocks, expand_path, lines, open_binary
from a2d.text.languages import is_language, same_language
from a2d.text.pairs import Entries, Keys, Languages, Malformed, Omitted, Selection, normal_pair
from a2d.text.tables import columns_by_name

Records = Iterator[tuple[str, object]]
"""Records, each with its place (file and line or row)."""


def json_records(path: Path, selection: Selection) -> Entries:
    """Read one object per line, or an array of objects."""
    parse = _line_records if has_objects_by_line(path) else _array_records
    return _pairs(str(path), parse(path), selection)


def json_part(ranges: Sequence[LineRange], selection: Selection) -> Entries:
    """Read the objects of some lines, whose keys may be known from the lines before."""
    (part,) = ranges
    before = LineRange(part.path, 0, part.start, 1)
    keys = selection.keys or _first_keys(before, selection)
    return _pairs(str(part.path), _line_records(part), replace(selection, keys=keys))


def has_objects_by_line(path: Path) -> bool:
    """Return whether a JSON file has one object per line, and is no array of objects."""
    with open_binary(path) as file:
        return _ARRAY.match(decode(peek_start(file))) is None


def _first_keys(lines_before: LineRange, selection: Selection) -> Keys | None:
    """Find the keys of the first record that has some, in the lines before a part."""
    for _, record in _line_records(lines_before):
        if isinstance(record, Mapping):
            with suppress(_NoPairError):
                return _guess_keys(str(lines_before.path), record, selection.languages)
    return None


def _line_records(source: Path | LineRange) -> Records:
    path, first = (source, 1) if isinstance(source, Path) else (source.path, source.first)
    for number, line in enumerate(lines(source), start=first):
        if isinstance(line, Malformed):
            yield line.where, line
            continue
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError):
            problem = "is not valid JSON: write one object per line, or an array"
            yield where, Malformed(where, problem)


def _array_records(path: Path) -> Records:
    """Yield the objects of an array; after an invalid object, go on at the next brace."""
    with open_binary(path) as file:
        window = _TextWindow(blocks(file, encoding_of(peek_start(file), "utf-8-sig")))
        window.move(window.text.index("[") + 1)
        number = 1
        while True:
            window.skip_gap()
            position, where = window.position, f"{path}, line {window.line}"
            if window.text.startswith("]", position):
                window.move(position + 1)
                window.skip_gap()
                if window.position < len(window.text):
                    problem = "ends the array, but more text follows: delete the text"
                    yield where, Malformed(where, problem)
                return
            where += f", object {number}"
            try:
                record, stop = _DECODER.raw_decode(window.text, position)
            except RecursionError as error:
                raise UserError(f"{where} is nested too deep: write an array of objects") from error
            except ValueError as error:
                pending = len(window.text) - position
                if pending < MAX_LINE and window.more():
                    continue
                limit = f" within {format_size(MAX_LINE)}" if pending >= MAX_LINE else ""
                problem = f"is not valid JSON{limit}: write an array of objects"
                yield where, Malformed(where, problem)
                if not window.skip_to_object(getattr(error, "pos", position), where):
                    return
                number += 1
            else:
                if UNREADABLE in window.text[position:stop]:
                    record = Malformed(where, "is in another encoding: convert the file to UTF-8")
                yield where, record
                window.move(stop)
                number += 1


_DECODER = json.JSONDecoder()
_ARRAY = re.compile(r"\s*\[\s*(\{|\]|$)")
_SEPARATORS = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(r"[\n,]\s*+\{")


class _TextWindow:
    """Position in a text that is read in blocks; text before the position is dropped.

    Attributes:
        text: the text that was read and not dropped.
        position: index in `text`.
        line: number of the line at the position, from 1.
    """

    def __init__(self, text_blocks: Iterator[str]) -> None:
        self._blocks = text_blocks
        self.text = ""
        self.position, self.line = 0, 1
        self.more()

    def more(self) -> bool:
        """Read another block; return whether there was one."""
        block = next(self._blocks, None)
        self.text, self.position = self.text[self.position :] + (block or ""), 0
        return block is not None

    def move(self, position: int) -> None:
        """Move forward to an index of the text."""
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def skip_gap(self) -> None:
        """Move forward behind white space and commas."""
        while True:
            self.move(_SEPARATORS.match(self.text, self.position).end())  # type: ignore[union-attr]
            if self.position < len(self.text) or not self.more():
                return

    def skip_to_object(self, fault: int, where: str) -> bool:
        """Move forward to the next object behind a fault; return whether there is one.

        Raises:
            UserError: no object begins within `MAX_SKIPPED` characters.
        """
        before = self.text[self.position : fault].rstrip("\n ,")
        skipped, start = 0, self.position + max(1, len(before))
        while (following := _NEXT_OBJECT.search(self.text, start)) is None:
            skipped += len(self.text) - self.position
            if skipped > MAX_SKIPPED:
                raise UserError(
                    f"{where} and the next {format_size(MAX_SKIPPED)} are not valid JSON"
                )
            self.move(max(start, len(self.text) - _OVERLAP_CHARACTERS))
            if not self.more():
                return False
            start = 0
        self.move(following.end() - 1)
        return True


_OVERLAP_CHARACTERS = 64
"""Characters kept of the previous block, for white space between objects that two blocks share."""


def parquet(path: Path, selection: Selection) -> Entries:
    """Read one record per row.

    Raises:
        UserError: the file is not a Parquet file, or is damaged.
    """
    from pyarrow.parquet import ParquetFile

    def rows() -> Records:
        with open_binary(path) as file:
            try:
                table = ParquetFile(file)
                _check_columns(str(path), table.schema_arrow.names)
                batches = table.iter_batches(_BATCH_ROWS)
            except _damage_errors() as error:
                raise _damaged_data(str(path), "Parquet file", error) from error
            yield from _batch_records(str(path), "Parquet file", batches)

    return _pairs(str(path), rows(), selection)


_BATCH_ROWS = 1000
"""Rows read at a time."""


def _damage_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that pyarrow raises for damaged data."""
    from pyarrow import ArrowException

    return (ArrowException, OSError, ValueError, TypeError)


def _damaged_data(place: str, kind: str, error: Exception) -> UserError:
    return UserError(
        f"{place} is not a valid {kind} ({shorten(first_line(error), WIDTH)}): download it again"
    )


def _check_columns(place: str, names: Sequence[str]) -> None:
    """Refuse data with too many columns, or with two columns of one name."""
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{place} has more than {MAX_COLUMNS} columns: remove columns without text")
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise UserError(f"{place} has columns with equal names ({listed(repeated)}): rename them")


def _batch_records(place: str, kind: str, batches: Iterator[Any]) -> Records:
    """Yield the records of Arrow batches or tables, numbered from 0."""
    number = 0
    while True:
        try:
            batch = next(batches, None)
            batch_records = [] if batch is None else list(_decoded_records(batch))
        except _damage_errors() as error:
            raise _damaged_data(place, kind, error) from error
        if batch is None:
            return
        for record in batch_records:
            where = f"{place}, row {number}"
            invalid = Malformed(where, "is not valid UTF-8: convert its texts to UTF-8")
            yield where, invalid if record is None else record
            number += 1


def _decoded_records(batch: Any) -> Iterator[Mapping[str, object] | None]:
    """Yield the records of an Arrow batch or table; None for records that are not valid UTF-8."""
    from pyarrow import ArrowInvalid

    try:
        batch.validate(full=True)
    except ArrowInvalid:
        if len(batch) == 1:
            yield None
        else:
            for row in range(len(batch)):
                yield from _decoded_records(batch.slice(row, 1))
    else:
        yield from batch.to_pylist()


def is_saved(path: Path) -> bool:
    """Return whether a folder has the files of `datasets.save_to_disk`, judged by their names."""
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def folder(path: Path, split: str, selection: Selection) -> Entries:
    """Read a folder written by `datasets.save_to_disk`.

    Raises:
        UserError: the folder was not written so, or lacks the split.
    """
    # Imported here and below, and not above: it takes seconds, and most corpora do not need it.
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        raise UserError(
            f"{path} is not a folder written by datasets.save_to_disk "
            f"({shorten(first_line(error), WIDTH)}): give such a folder, or a file"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UserError(f"{path} has no split {split!r}: set 'split' to one of {listed(data)}")
        data = data[split]
    return _dataset_pairs(str(path), data, selection)


def dataset(name: str, config: str | None, split: str, selection: Selection) -> Entries:
    """Read a Hugging Face dataset by name, or a folder as `folder` does.

    Raises:
        UserError: the dataset cannot be loaded.
    """
    place = expand_path(name)
    if is_saved(place):
        if config is not None:
            raise UserError(f"{place} is a folder without configurations: remove 'config'")
        return folder(place, split, selection)
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # whatever the network, the Hub and the file formats raise
        raise UserError(
            f"dataset {name!r}, split {split!r} cannot be loaded "
            f"({shorten(first_line(error), WIDTH)}): check 'dataset', 'config', 'split' and the "
            "network, or give a folder written by datasets.save_to_disk"
        ) from error
    return _dataset_pairs(f"dataset {name}", data, selection)


def _dataset_pairs(place: str, data: Any, selection: Selection) -> Entries:
    _check_columns(place, data.column_names)
    # Batches in the Arrow format: reading row by row is many times slower.
    batches = data.with_format("arrow").iter(batch_size=_BATCH_ROWS)
    return _pairs(place, _batch_records(place, "dataset", batches), selection)


def _pairs(place: str, records: Records, selection: Selection) -> Entries:
    """Yield the pairs of records that `selection` chooses."""
    keys = selection.keys
    if keys is not None and not all(isinstance(key, str) for key in keys):
        raise UserError(f"{place} has no numbered columns: give names as 'source' and 'target'")
    for where, record in records:
        if isinstance(record, Malformed):
            yield record
            continue
        try:
            if not isinstance(record, Mapping):
                raise _NoPairError(
                    "is not a JSON object: write one object per line, or an array of objects"
                )
            keys = keys or _guess_keys(place, record, selection.languages)
            if absent := [repr(k) for k in keys if _field(record, str(k)) is None]:
                yield Omitted(f"without {' and '.join(absent)}")
                continue
            pair = normal_pair(*(_text(record, str(key)) for key in keys))
            if selection.threshold is None:
                yield pair
            else:
                score = _field(record, str(selection.threshold.key))
                yield selection.threshold.judge(score, pair, where)
        except _NoPairError as error:
            yield Malformed(where, str(error))


class _NoPairError(Exception):
    """Record that should hold a pair but does not; the message is the problem."""


def _guess_keys(place: str, record: Mapping[str, object], languages: Languages | None) -> Keys:
    """Return the keys of the texts, by role or by language.

    Of two keys that are not languages, in a `translation` object, the first is the source.
    """
    if "source" in record and "target" in record:
        return Keys("source", "target")
    translation = record.get("translation")
    nested = isinstance(translation, Mapping)
    texts = translation if isinstance(translation, Mapping) else record
    prefix = "translation." if nested else ""
    if len(texts) > MAX_COLUMNS:
        raise _NoPairError(f"has more than {MAX_COLUMNS} keys: remove keys without text")
    names = list(map(str, texts))
    if (columns := columns_by_name(names, languages)) is not None:
        return Keys(*(f"{prefix}{names[number]}" for number in columns))

    def matches(source: str, target: str) -> tuple[bool, bool]:
        if languages is None:
            return False, False
        return same_language(source, languages.source), same_language(target, languages.target)

    sources, targets = ([key for key in texts if matches(key, key)[side]] for side in (0, 1))
    candidates = ((key, other) for key in sources for other in targets if key != other)
    if (keys := next(candidates, None)) is not None:
        return Keys(*(f"{prefix}{key}" for key in keys))
    if nested or len(texts) == 2:
        _check_languages(place, texts, languages)
    if nested and len(texts) == 2:
        first, second = texts
        if any(matches(second, first)):
            first, second = second, first
        return Keys(f"{prefix}{first}", f"{prefix}{second}")
    raise _NoPairError(
        f"has {listed(texts)} instead of 'source' and 'target': name its keys, "
        "as in {path: x.jsonl, source: de, target: dsb}"
    )


def _check_languages(place: str, texts: Iterable[str], languages: Languages | None) -> None:
    """Refuse records whose keys are languages, but not the languages of the corpus."""
    if languages is not None and all(map(is_language, texts)):
        raise UserError(
            f"{place} has texts in {listed(texts)}, but the languages are {languages.source!r} "
            f"and {languages.target!r}: correct the languages, or give its keys as 'source' and "
            "'target'"
        )


def _text(record: Mapping[str, object], key: str) -> str:
    value = _field(record, key)
    if not isinstance(value, str):
        raise _NoPairError(f"has {quoted(value)} under {quoted(key)}: write text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON escapes can encode lone surrogates
        problem = f"has half a character under {quoted(key)}: correct its escapes"
        raise _NoPairError(problem) from error
    return value


def _field(record: Mapping[str, object], key: str) -> object:
    value: object = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            present = listed(value) if isinstance(value, Mapping) else quoted(value)
            raise _NoPairError(
                f"has no {quoted(key)} ({present} instead of {quoted(part)}): "
                "give the keys of its texts as 'source' and 'target', of its score as 'score'"
            )
        value = value[part]
    return value
