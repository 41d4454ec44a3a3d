"""Corpora of one pair a line or record: tables, aligned files, JSON lines, Parquet, datasets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from a2d.errors import UserError, first_line
from a2d.text.pairs import Entries, Languages, Malformed, normal, opened, same_language

TABLES = (".tsv", ".txt")
JSON_LINES = (".jsonl", ".json")
PARQUET = (".parquet",)


class Keys(NamedTuple):
    """Where a record holds its two texts; dots reach into nested objects."""

    source: str
    target: str


Wanted = Keys | Languages | None
"""What a record's two texts are told apart by."""


def lines(path: Path) -> Iterator[str | Malformed]:
    """Yield the lines of a text file without holding more than one; those not in UTF-8 are told.

    Read as bytes: `str.splitlines` and universal newlines also break at characters which belong
    to the text (U+2028, U+0085, a lone carriage return), and so would lose the alignment.

    Raises:
        UserError: the file is missing or damaged.
    """
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                yield Malformed(f"{path}, line {number}", "is not UTF-8: convert the file to it")
            else:
                yield text.removesuffix("\n").removesuffix("\r")


def table(path: Path) -> Entries:
    """Two columns with a tab between them; empty lines are skipped."""
    for number, line in enumerate(lines(path), start=1):
        if isinstance(line, Malformed):
            yield line
        if not line or isinstance(line, Malformed):
            continue
        columns = line.split("\t")
        if len(columns) == 2:
            yield normal(*columns)
            continue
        yield Malformed(
            f"{path}, line {number}",
            f"has {len(columns)} column(s) instead of 2: write source, one tab, target (or list "
            "two plain-text files)",
        )


def aligned(paths: Sequence[Path]) -> Entries:
    """Two plain-text files, aligned line by line.

    Raises:
        UserError: one has more lines, so that nobody knows what belongs together.
    """
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


def json_lines(path: Path, wanted: Wanted) -> Entries:
    """One object a line."""
    return _records(_parsed(path), wanted)


def _parsed(path: Path) -> Iterator[tuple[str, object]]:
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
            yield where, Malformed(where, "is no valid JSON: write one object a line")


def parquet(path: Path, wanted: Wanted) -> Entries:
    """One record a row.

    Raises:
        UserError: the file is none.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    def rows() -> Iterator[tuple[str, object]]:
        number = 0
        with opened(path) as file:
            try:
                for batch in ParquetFile(file).iter_batches(1000):
                    for record in _decoded(batch):
                        where = f"{path}, row {number}"
                        unfit = Malformed(where, "is not UTF-8: convert its texts to it")
                        yield where, unfit if record is None else record
                        number += 1
            except ArrowInvalid as error:
                raise UserError(
                    f"{path} is no intact Parquet file ({first_line(error)}): fetch it anew"
                ) from error

    return _records(rows(), wanted)


def _decoded(batch: Any) -> Iterator[Mapping[str, object] | None]:
    """Records of an Arrow batch; None for one with text that is not in UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(len(batch)):
            try:
                yield from batch.slice(row, 1).to_pylist()
            except UnicodeDecodeError:
                yield None


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
            f"{path} is no folder written by datasets.save_to_disk ({first_line(error)}): "
            "give such a folder, or a file"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UserError(f"{path} has no split {split!r}: set 'split' to one of {_list(data)}")
        data = data[split]
    return _records(_rows(str(path), data), wanted)


def dataset(name: str, config: str | None, split: str, wanted: Wanted) -> Entries:
    """A Hugging Face dataset by name, or what `folder` reads.

    Raises:
        UserError: it cannot be loaded.
    """
    place = Path(name).expanduser()
    if any((place / mark).is_file() for mark in ("dataset_info.json", "dataset_dict.json")):
        if config is not None:
            raise UserError(f"{place} is a folder without configurations: leave out 'config'")
        return folder(place, split, wanted)
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # whatever the network, the Hub and the file formats raise
        raise UserError(
            f"dataset {name!r}, split {split!r} cannot be loaded ({first_line(error)}): check "
            "'dataset', 'config', 'split' and the network, or give a folder of save_to_disk"
        ) from error
    return _records(_rows(f"dataset {name}", data), wanted)


def _rows(where: str, data: Any) -> Iterator[tuple[str, object]]:
    # In batches and without the format saved with the data: row by row is many times slower.
    batches = data.with_format(None).iter(batch_size=1000)
    rows = (values for batch in batches for values in zip(*batch.values(), strict=True))
    for number, values in enumerate(rows):
        yield f"{where}, row {number}", dict(zip(data.column_names, values, strict=True))


def _records(found: Iterable[tuple[str, object]], wanted: Wanted) -> Entries:
    keys, languages = (wanted, None) if isinstance(wanted, Keys) else (None, wanted)
    for where, record in found:
        if isinstance(record, Malformed):
            yield record
            continue
        try:
            if not isinstance(record, Mapping):
                raise _Unfit("is no JSON object: write one object a line")
            keys = keys or _guess_keys(record, languages)
            yield normal(_field(record, keys.source), _field(record, keys.target))
        except _Unfit as error:
            yield Malformed(where, str(error))


class _Unfit(Exception):
    """A record that holds no pair."""


def _guess_keys(record: Mapping[str, object], languages: Languages | None) -> Keys:
    """By name, or by language; of two languages that nobody can place, the first is the source."""
    if "source" in record and "target" in record:
        return Keys("source", "target")
    translation = record.get("translation")
    nested = isinstance(translation, Mapping)
    texts = translation if isinstance(translation, Mapping) else record
    prefix = "translation." if nested else ""

    def of(source: str, target: str) -> tuple[bool, bool]:
        if languages is None:
            return False, False
        return same_language(source, languages.source), same_language(target, languages.target)

    for keys in permutations(texts, 2):
        if all(of(*keys)):
            return Keys(*(f"{prefix}{key}" for key in keys))
    if nested and len(texts) == 2:
        first, second = texts
        if any(of(second, first)):
            first, second = second, first
        return Keys(f"{prefix}{first}", f"{prefix}{second}")
    raise _Unfit(
        f"has {_list(texts)} in place of 'source' and 'target': name its keys, "
        "as in {path: x.jsonl, source: de, target: dsb}"
    )


def _field(record: Mapping[str, object], key: str) -> str:
    value: object = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            found = _list(value) if isinstance(value, Mapping) else repr(value)
            raise _Unfit(
                f"has no {key!r} ({found} in place of {part!r}): "
                "name the keys of its two texts by 'source' and 'target'"
            )
        value = value[part]
    if not isinstance(value, str):
        raise _Unfit(f"has {value!r} under {key!r}: put text there")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can escape what no Unicode text may contain
        raise _Unfit(f"has half a character under {key!r}: mend its escapes") from error
    return value


def _list(record: Iterable[str]) -> str:
    return ", ".join(map(repr, record)) or "nothing"
