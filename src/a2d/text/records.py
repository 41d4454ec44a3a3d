"""Corpora of one pair a record: JSON lines and arrays, Parquet, datasets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, permutations
from pathlib import Path
from typing import Any

from a2d.errors import UserError, first_line
from a2d.text.languages import is_language, same_language
from a2d.text.pairs import Entries, Keys, Languages, Malformed, Omitted, Wanted, normal, opened
from a2d.text.tables import columns_by_name, lines

Records = Iterator[tuple[str, object]]
"""Records, each with its place."""


def json_records(path: Path, wanted: Wanted) -> Entries:
    """One object a line, or an array of objects."""
    read = lines(path)
    start: list[str | Malformed] = []
    for line in read:
        start.append(line)
        if isinstance(line, Malformed) or line.strip() not in ("", "["):
            break
    opening = "".join(line for line in start if isinstance(line, str))
    array = _ARRAY.match(opening) is not None
    parse = _of_array if array else _of_lines
    return _records(str(path), parse(path, chain(start, read)), wanted)


_ARRAY = re.compile(r"\s*\[\s*(\{|\]|$)")


def _of_lines(path: Path, read: Iterable[str | Malformed]) -> Records:
    for number, line in enumerate(read, start=1):
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


def _of_array(path: Path, read: Iterable[str | Malformed]) -> Records:
    """Objects of an array, which is held in memory; a broken one ends where the next may begin."""
    kept: list[str] = []
    for line in read:
        if isinstance(line, Malformed):
            yield line.where, line
        kept.append(line if isinstance(line, str) else "")
    text = "\n".join(kept)
    parse = json.JSONDecoder().raw_decode
    place, line_number, counted = text.index("[") + 1, 1, 0
    while True:
        place = _GAP.match(text, place).end()  # type: ignore[union-attr]
        line_number += text.count("\n", counted, place)
        counted, where = place, f"{path}, line {line_number}"
        if text.startswith("]", place):
            if text[place + 1 :].strip():
                yield where, Malformed(where, "ends the array, and more follows: mend the file")
            return
        try:
            record, place = parse(text, place)
        except (ValueError, RecursionError):
            yield where, Malformed(where, "is no valid JSON: write an array of objects")
            following = _NEXT.search(text, place + 1)
            if following is None:
                return
            place = following.end() - 1
        else:
            yield where, record


_GAP = re.compile(r"[\s,]*")
_NEXT = re.compile(r"[\n,]\s*\{")


def parquet(path: Path, wanted: Wanted) -> Entries:
    """One record a row.

    Raises:
        UserError: the file is none.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    def rows() -> Records:
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

    return _records(str(path), rows(), wanted)


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
    return _records(str(path), _rows(str(path), data), wanted)


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
    where = f"dataset {name}"
    return _records(where, _rows(where, data), wanted)


def _rows(where: str, data: Any) -> Records:
    # In batches and without the format saved with the data: row by row is many times slower.
    batches = data.with_format(None).iter(batch_size=1000)
    rows = (values for batch in batches for values in zip(*batch.values(), strict=True))
    for number, values in enumerate(rows):
        yield f"{where}, row {number}", dict(zip(data.column_names, values, strict=True))


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
    names = list(map(str, texts))
    if (named := columns_by_name(names, languages)) is not None:
        return Keys(*(f"{prefix}{names[number]}" for number in named))

    def of(source: str, target: str) -> tuple[bool, bool]:
        if languages is None:
            return False, False
        return same_language(source, languages.source), same_language(target, languages.target)

    for keys in permutations(texts, 2):
        if all(of(*keys)):
            return Keys(*(f"{prefix}{key}" for key in keys))
    if nested or len(texts) == 2:
        _check_languages(place, texts, languages)
    if nested and len(texts) == 2:
        first, second = texts
        if any(of(second, first)):
            first, second = second, first
        return Keys(f"{prefix}{first}", f"{prefix}{second}")
    raise _Unfit(
        f"has {_list(texts)} in place of 'source' and 'target': name its keys, "
        "as in {path: x.jsonl, source: de, target: dsb}"
    )


def _check_languages(place: str, texts: Iterable[str], languages: Languages | None) -> None:
    """Refuse records whose keys are languages, and not those asked for."""
    if languages is not None and all(map(is_language, texts)):
        raise UserError(
            f"{place} has texts in {_list(texts)}, and {languages.source!r} and "
            f"{languages.target!r} are wanted: mend the languages, or name its keys by 'source' "
            "and 'target'"
        )


def _text(record: Mapping[str, object], key: str) -> str:
    value = _field(record, key)
    if not isinstance(value, str):
        raise _Unfit(f"has {value!r} under {key!r}: put text there")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can escape what no Unicode text may contain
        raise _Unfit(f"has half a character under {key!r}: mend its escapes") from error
    return value


def _field(record: Mapping[str, object], key: str) -> object:
    value: object = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            found = _list(value) if isinstance(value, Mapping) else repr(value)
            raise _Unfit(
                f"has no {key!r} ({found} in place of {part!r}): "
                "name the keys of its texts by 'source' and 'target', of its score by 'score'"
            )
        value = value[part]
    return value


def _list(record: Iterable[str]) -> str:
    return ", ".join(map(repr, record)) or "nothing"
