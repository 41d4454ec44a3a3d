"""Corpora of one pair a record: JSON lines and arrays, Parquet, datasets."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2d.errors import UserError, first_line
from a2d.quoting import WIDTH, listed, quoted, shown
from a2d.text.bounds import COLUMNS, LINE, SKIPPED, size
from a2d.text.encodings import UNREADABLE, decoded, encoding_of, start_of
from a2d.text.files import blocks, lines, located, opened
from a2d.text.languages import is_language, same_language
from a2d.text.pairs import Entries, Keys, Languages, Malformed, Omitted, Wanted, normal
from a2d.text.tables import columns_by_name

Records = Iterator[tuple[str, object]]
"""Records, each with its place."""


def json_records(path: Path, wanted: Wanted) -> Entries:
    """One object a line, or an array of objects."""
    with opened(path) as file:
        opening = decoded(start_of(file))
    parse = _of_array if _ARRAY.match(opening) else _of_lines
    return _records(str(path), parse(path), wanted)


def _of_lines(path: Path) -> Records:
    for number, line in enumerate(lines(path), start=1):
        if isinstance(line, Malformed):
            yield line.where, line
            continue
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError):
            yield where, Malformed(where, "is no valid JSON: write one object a line, or an array")


def _of_array(path: Path) -> Records:
    """Objects of an array; after a broken one, the next begins at a brace behind its fault."""
    with opened(path) as file:
        unread = _Unread(blocks(file, encoding_of(start_of(file), "utf-8-sig")))
        unread.move(unread.text.index("[") + 1)
        while True:
            unread.skip_gap()
            place, where = unread.place, f"{path}, line {unread.line}"
            if unread.text.startswith("]", place):
                unread.move(place + 1)
                unread.skip_gap()
                if unread.place < len(unread.text):
                    yield where, Malformed(where, "ends the array, and more follows: mend the file")
                return
            try:
                record, end = _DECODER.raw_decode(unread.text, place)
            except RecursionError as error:
                raise UserError(f"{where} is nested too deep: write an array of objects") from error
            except ValueError as error:
                waiting = len(unread.text) - place
                if waiting < LINE and unread.more():
                    continue
                large = f" within {size(LINE)}" if waiting >= LINE else ""
                yield where, Malformed(where, f"is no valid JSON{large}: write an array of objects")
                if not unread.skip_to_object(getattr(error, "pos", place), where):
                    return
            else:
                if UNREADABLE in unread.text[place:end]:
                    record = Malformed(where, "is in another encoding: convert the file to UTF-8")
                yield where, record
                unread.move(end)


_DECODER = json.JSONDecoder()
_ARRAY = re.compile(r"\s*\[\s*(\{|\]|$)")
_GAP = re.compile(r"[\s,]*")
_NEXT = re.compile(r"[\n,]\s*+\{")


class _Unread:
    """A text that comes in blocks, and a place in it with its line; blocks before are forgotten."""

    def __init__(self, text_blocks: Iterator[str]) -> None:
        self._blocks = text_blocks
        self.text = ""
        self.place, self.line = 0, 1
        self.more()

    def more(self) -> bool:
        """Get another block, if there is one."""
        block = next(self._blocks, None)
        self.text, self.place = self.text[self.place :] + (block or ""), 0
        return block is not None

    def move(self, place: int) -> None:
        """Go on to a place in the text."""
        self.line += self.text.count("\n", self.place, place)
        self.place = place

    def skip_gap(self) -> None:
        """Go on behind white space and commas."""
        while True:
            self.move(_GAP.match(self.text, self.place).end())  # type: ignore[union-attr]
            if self.place < len(self.text) or not self.more():
                return

    def skip_to_object(self, fault: int, where: str) -> bool:
        """Go on to the next object behind a fault, or that it is about; false: there is none.

        Raises:
            UserError: it is too far away.
        """
        before = self.text[self.place : fault].rstrip("\n ,")
        skipped, start = 0, self.place + max(1, len(before))
        while (following := _NEXT.search(self.text, start)) is None:
            skipped += len(self.text) - self.place
            if skipped > SKIPPED:
                raise UserError(f"{where} is no valid JSON, nor are {size(SKIPPED)} behind it")
            self.move(max(start, len(self.text) - _OVERLAP))
            if not self.more():
                return False
            start = 0
        self.move(following.end() - 1)
        return True


_OVERLAP = 64
"""Characters of white space between objects that two blocks may share."""


def parquet(path: Path, wanted: Wanted) -> Entries:
    """One record a row.

    Raises:
        UserError: the file is none.
    """
    from pyarrow.parquet import ParquetFile

    def rows() -> Records:
        with opened(path) as file:
            try:
                table = ParquetFile(file)
                _check_columns(str(path), table.schema_arrow.names)
                batches = table.iter_batches(_AT_ONCE)
            except _broken() as error:
                raise _damaged(str(path), "Parquet file", error) from error
            yield from _rows(str(path), "Parquet file", batches)

    return _records(str(path), rows(), wanted)


_AT_ONCE = 1000


def _broken() -> tuple[type[Exception], ...]:
    """What pyarrow raises for damaged data."""
    from pyarrow import ArrowException

    return (ArrowException, OSError, ValueError, TypeError)


def _damaged(place: str, what: str, error: Exception) -> UserError:
    return UserError(
        f"{place} is no intact {what} ({shown(first_line(error), WIDTH)}): fetch it anew"
    )


def _check_columns(place: str, names: Sequence[str]) -> None:
    """Refuse data with columns that are too many, or two of one name."""
    if len(names) > COLUMNS:
        raise UserError(f"{place} has more than {COLUMNS} columns: leave out those of no text")
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise UserError(f"{place} has several columns of one name ({listed(twice)}): rename them")


def _rows(place: str, what: str, batches: Iterator[Any]) -> Records:
    """Records of Arrow batches or tables, each with its number from 0."""
    number = 0
    while True:
        try:
            batch = next(batches, None)
            found = [] if batch is None else list(_decoded(batch))
        except _broken() as error:
            raise _damaged(place, what, error) from error
        if batch is None:
            return
        for record in found:
            where = f"{place}, row {number}"
            unfit = Malformed(where, "is not UTF-8: convert its texts to it")
            yield where, unfit if record is None else record
            number += 1


def _decoded(batch: Any) -> Iterator[Mapping[str, object] | None]:
    """Records of an Arrow batch or table; None for one with text that is not in UTF-8."""
    from pyarrow import ArrowInvalid

    try:
        batch.validate(full=True)
    except ArrowInvalid:
        if len(batch) == 1:
            yield None
        else:
            for row in range(len(batch)):
                yield from _decoded(batch.slice(row, 1))
    else:
        yield from batch.to_pylist()


def is_saved(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote the folder, as far as names tell."""
    return any((path / mark).is_file() for mark in ("dataset_info.json", "dataset_dict.json"))


def folder(path: Path, split: str, wanted: Wanted) -> Entries:
    """What `datasets.save_to_disk` wrote.

    Raises:
        UserError: the folder is none of that kind, or lacks the split.
    """
    # Imported late, here and below: it takes seconds, and most corpora do without.
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        raise UserError(
            f"{path} is no folder written by datasets.save_to_disk "
            f"({shown(first_line(error), WIDTH)}): "
            "give such a folder, or a file"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UserError(f"{path} has no split {split!r}: set 'split' to one of {listed(data)}")
        data = data[split]
    return _of_dataset(str(path), data, wanted)


def dataset(name: str, config: str | None, split: str, wanted: Wanted) -> Entries:
    """A Hugging Face dataset by name, or what `folder` reads.

    Raises:
        UserError: it cannot be loaded.
    """
    place = located(name)
    if is_saved(place):
        if config is not None:
            raise UserError(f"{place} is a folder without configurations: leave out 'config'")
        return folder(place, split, wanted)
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # whatever the network, the Hub and the file formats raise
        raise UserError(
            f"dataset {name!r}, split {split!r} cannot be loaded "
            f"({shown(first_line(error), WIDTH)}): check "
            "'dataset', 'config', 'split' and the network, or give a folder of save_to_disk"
        ) from error
    return _of_dataset(f"dataset {name}", data, wanted)


def _of_dataset(place: str, data: Any, wanted: Wanted) -> Entries:
    _check_columns(place, data.column_names)
    # In batches, in a format of our own: row by row is many times slower.
    batches = data.with_format("arrow").iter(batch_size=_AT_ONCE)
    return _records(place, _rows(place, "dataset", batches), wanted)


def _records(place: str, records: Records, wanted: Wanted) -> Entries:
    keys = wanted.keys
    if keys is not None and not all(isinstance(key, str) for key in keys):
        raise UserError(f"{place} has no numbered columns: name its 'source' and 'target'")
    for where, record in records:
        if isinstance(record, Malformed):
            yield record
            continue
        try:
            if not isinstance(record, Mapping):
                raise _Unfit("is no JSON object: write one object a line, or an array of them")
            keys = keys or _guess_keys(place, record, wanted.languages)
            if lacking := [repr(k) for k in keys if _field(record, str(k)) is None]:
                yield Omitted(f"without {' and '.join(lacking)}")
                continue
            pair = normal(*(_text(record, str(key)) for key in keys))
            if wanted.threshold is None:
                yield pair
            else:
                score = _field(record, str(wanted.threshold.key))
                yield wanted.threshold.judge(score, pair, where)
        except _Unfit as error:
            yield Malformed(where, str(error))


class _Unfit(Exception):
    """A record that holds no pair."""


def _guess_keys(place: str, record: Mapping[str, object], languages: Languages | None) -> Keys:
    """By name, or by language; of two names that are no languages, the first is the source."""
    if "source" in record and "target" in record:
        return Keys("source", "target")
    translation = record.get("translation")
    nested = isinstance(translation, Mapping)
    texts = translation if isinstance(translation, Mapping) else record
    prefix = "translation." if nested else ""
    if len(texts) > COLUMNS:
        raise _Unfit(f"has more than {COLUMNS} keys: leave out those of no text")
    names = list(map(str, texts))
    if (named := columns_by_name(names, languages)) is not None:
        return Keys(*(f"{prefix}{names[number]}" for number in named))

    def of(source: str, target: str) -> tuple[bool, bool]:
        if languages is None:
            return False, False
        return same_language(source, languages.source), same_language(target, languages.target)

    sources, targets = ([key for key in texts if of(key, key)[side]] for side in (0, 1))
    both = ((key, other) for key in sources for other in targets if key != other)
    if (keys := next(both, None)) is not None:
        return Keys(*(f"{prefix}{key}" for key in keys))
    if nested or len(texts) == 2:
        _check_languages(place, texts, languages)
    if nested and len(texts) == 2:
        first, second = texts
        if any(of(second, first)):
            first, second = second, first
        return Keys(f"{prefix}{first}", f"{prefix}{second}")
    raise _Unfit(
        f"has {listed(texts)} in place of 'source' and 'target': name its keys, "
        "as in {path: x.jsonl, source: de, target: dsb}"
    )


def _check_languages(place: str, texts: Iterable[str], languages: Languages | None) -> None:
    """Refuse records whose keys are languages, and not those asked for."""
    if languages is not None and all(map(is_language, texts)):
        raise UserError(
            f"{place} has texts in {listed(texts)}, and {languages.source!r} and "
            f"{languages.target!r} are wanted: mend the languages, or name its keys by 'source' "
            "and 'target'"
        )


def _text(record: Mapping[str, object], key: str) -> str:
    value = _field(record, key)
    if not isinstance(value, str):
        raise _Unfit(f"has {quoted(value)} under {quoted(key)}: put text there")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can escape what no Unicode text may contain
        raise _Unfit(f"has half a character under {quoted(key)}: mend its escapes") from error
    return value


def _field(record: Mapping[str, object], key: str) -> object:
    value: object = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            found = listed(value) if isinstance(value, Mapping) else quoted(value)
            raise _Unfit(
                f"has no {quoted(key)} ({found} in place of {quoted(part)}): "
                "name the keys of its texts by 'source' and 'target', of its score by 'score'"
            )
        value = value[part]
    return value
