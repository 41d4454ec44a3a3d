"""Parallel text: reading it in the forms people keep it in, cleaning it, checking for leaks."""

from __future__ import annotations

import gzip
import json
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from a2d import corpora
from a2d.errors import UserError
from a2d.suggestions import nearest

__all__ = ["CleaningReport", "Pair", "clean", "overlap", "read_corpus"]

_BUILTIN = "builtin:"
_TABLES = (".tsv", ".txt")
_JSON_LINES = (".jsonl", ".json")
_UNDERSTOOD = (
    "a table of two columns (.tsv, .txt), JSON lines (.jsonl, .json), each also as .gz, "
    "a list of two plain-text files, a folder written by datasets.save_to_disk, "
    f"'{_BUILTIN}NAME', or a mapping with 'path' or 'dataset'"
)
_PATH_OPTIONS = ("path", "split", "source", "target")
_DATASET_OPTIONS = ("dataset", "config", "split", "source", "target")
_RATIO_GRACE = 20


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class _Keys(NamedTuple):
    """Where a record holds its two texts; dots reach into nested objects."""

    source: str
    target: str


def read_corpus(
    spec: str | Path | Sequence[str | Path] | Mapping[str, Any], name: str = "corpus"
) -> list[Pair]:
    """Read a parallel corpus into memory.

    Texts are brought to Unicode NFC and stripped of outer whitespace, otherwise left as they
    are. A byte-order mark and Windows line ends are accepted; lines end at line feeds alone,
    and empty lines of tables and JSON lines are skipped.

    Args:
        spec: One of

            - `"builtin:de-dsb/train"`: a corpus that comes with the package;
            - the path of a table (`.tsv`, `.txt`): two columns with a tab between them;
            - two paths: plain text files, source and target, aligned line by line;
            - the path of JSON lines (`.jsonl`, `.json`): objects with `source` and `target`,
              or with a `translation` object of two languages, the first being the source;
            - the path of a folder written by `datasets.save_to_disk`;
            - `{"path": ..., "split": ..., "source": ..., "target": ...}`: a path as above, the
              keys of its two texts (`translation.de` reaches into nested objects) and, in a
              folder of several splits, the split;
            - `{"dataset": ..., "config": ..., "split": ..., "source": ..., "target": ...}`: a
              Hugging Face dataset by name, or a folder; `dataset` alone is required.

            Every file may be compressed (`.gz`). A split not given is the one called `name`.
        name: What the corpus is for (`train`, `valid`); error messages begin with it.

    Raises:
        UserError: The corpus is missing, empty, damaged, malformed or of an unknown kind.

    Example:
        >>> read_corpus("builtin:de-dsb/train")[0]
        Pair(source='(Leer)', target='(Prozny)')
    """
    try:
        pairs = list(_read(spec, name))
        if not pairs:
            raise UserError(f"{_describe(spec)} is empty: give a corpus with at least one pair")
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return pairs


def _read(spec: object, name: str) -> Iterator[Pair]:
    if isinstance(spec, Mapping):
        return _read_mapping(spec, name)
    if isinstance(spec, str | Path):
        return _read_path(spec, None, name)
    if isinstance(spec, Sequence) and all(isinstance(path, str | Path) for path in spec):
        return _read_aligned([Path(path).expanduser() for path in spec])
    raise UserError(f"{spec!r} names no corpus: give {_UNDERSTOOD}")


def _describe(spec: object) -> str:
    if isinstance(spec, Mapping):
        return _describe(spec.get("path", spec.get("dataset")))
    if isinstance(spec, str | Path):
        return str(spec)
    return " and ".join(map(str, spec)) if isinstance(spec, Sequence) else repr(spec)


def _read_mapping(spec: Mapping[str, Any], name: str) -> Iterator[Pair]:
    if ("path" in spec) == ("dataset" in spec):
        raise UserError(f"{dict(spec)} names no corpus: give either 'path' or 'dataset'")
    options = _PATH_OPTIONS if "path" in spec else _DATASET_OPTIONS
    for key, value in spec.items():
        if key not in options:
            raise UserError(f"unknown key {key!r}{nearest(str(key), options)}")
        if not isinstance(value, str) and not (key == "path" and isinstance(value, Path)):
            raise UserError(f"{key!r} is {value!r}: write text, in quotes if need be")
    if ("source" in spec) != ("target" in spec):
        raise UserError(f"{dict(spec)} names one key of two: give both 'source' and 'target'")
    keys = _Keys(spec["source"], spec["target"]) if "source" in spec else None
    split = spec.get("split", name)
    if "path" not in spec:
        return _read_dataset(spec["dataset"], spec.get("config"), split, keys)
    if "split" in spec and not Path(spec["path"]).expanduser().is_dir():
        raise UserError(f"{spec['path']} is no folder of splits: leave out 'split'")
    return _read_path(spec["path"], keys, split)


def _read_path(spec: str | Path, keys: _Keys | None, split: str) -> Iterator[Pair]:
    if isinstance(spec, str) and spec.startswith(_BUILTIN):
        return _read_builtin(spec.removeprefix(_BUILTIN), keys)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _read_folder(path, split, keys)
    kind = _kind(path)
    if kind in _JSON_LINES:
        return _read_records(_json_lines(path), keys)
    if kind in _TABLES:
        return _read_table(path, keys)
    if not path.exists():
        raise _missing(path)
    raise UserError(f"{path} is of no known type: give {_UNDERSTOOD}")


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _missing(path: Path) -> UserError:
    return UserError(f"there is no {path}: check the path (relative ones start at {Path.cwd()})")


def _read_builtin(builtin: str, keys: _Keys | None) -> Iterator[Pair]:
    names = corpora.names()
    if builtin not in names:
        raise UserError(f"no packaged corpus {builtin!r}{nearest(builtin, names)}")
    with corpora.locate(builtin) as path:
        yield from _read_table(path, keys)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file without holding more than one.

    Read as bytes: `str.splitlines` and universal newlines also break at characters which belong
    to the text (U+2028, U+0085, a lone carriage return), and so would lose the alignment.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number} is not UTF-8: convert the file to it") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not an intact gzip file: fetch or compress it anew") from error
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _pair(source: str, target: str) -> Pair:
    normal = unicodedata.normalize
    return Pair(normal("NFC", source).strip(), normal("NFC", target).strip())


def _read_table(path: Path, keys: _Keys | None) -> Iterator[Pair]:
    if keys:
        raise UserError(f"{path} is a table, without keys: leave out 'source' and 'target'")
    for number, line in enumerate(_lines(path), start=1):
        if not line:
            continue
        columns = line.split("\t")
        if len(columns) != 2:
            raise UserError(
                f"{path}, line {number} has {len(columns)} column(s) instead of 2: "
                "write source, one tab, target (or list two plain-text files)"
            )
        yield _pair(*columns)


def _read_aligned(paths: Sequence[Path]) -> Iterator[Pair]:
    if len(paths) != 2:
        raise UserError(f"{len(paths)} files are listed: list two, source and target")
    for path in paths:
        if _kind(path) in (".tsv", *_JSON_LINES):
            raise UserError(f"{path} is no plain text: list two files of one sentence a line")
    counts = [0, 0]
    for source, target in zip_longest(*map(_lines, paths)):
        counts[0] += source is not None
        counts[1] += target is not None
        if source is not None and target is not None:
            yield _pair(source, target)
    if counts[0] != counts[1]:
        raise UserError(
            f"{paths[0]} has {counts[0]} lines and {paths[1]} has {counts[1]}: "
            "align them line by line"
        )


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is no valid JSON: write one object a line") from error


def _read_records(records: Iterable[tuple[str, object]], keys: _Keys | None) -> Iterator[Pair]:
    for where, record in records:
        if not isinstance(record, Mapping):
            raise UserError(f"{where} is no JSON object: write one object a line")
        keys = keys or _guess_keys(where, record)
        yield _pair(_field(where, record, keys.source), _field(where, record, keys.target))


def _guess_keys(where: str, record: Mapping[str, object]) -> _Keys:
    if "source" in record and "target" in record:
        return _Keys("source", "target")
    translation = record.get("translation")
    if isinstance(translation, Mapping) and len(translation) == 2:
        source, target = translation
        return _Keys(f"translation.{source}", f"translation.{target}")
    raise UserError(
        f"{where} has {_list(record)} in place of 'source' and 'target': name its keys, "
        "as in {path: x.jsonl, source: de, target: dsb}"
    )


def _field(where: str, record: Mapping[str, object], key: str) -> str:
    value: object = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            found = _list(value) if isinstance(value, Mapping) else repr(value)
            raise UserError(
                f"{where} has no {key!r} ({found} in place of {part!r}): "
                "name the keys of its two texts by 'source' and 'target'"
            )
        value = value[part]
    if not isinstance(value, str):
        raise UserError(f"{where} has {value!r} under {key!r}: put text there")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can escape what no Unicode text may contain
        raise UserError(f"{where} has half a character under {key!r}: mend its escapes") from error
    return value


def _list(record: Mapping[str, object]) -> str:
    return ", ".join(map(repr, record)) or "nothing"


def _read_folder(path: Path, split: str, keys: _Keys | None) -> Iterator[Pair]:
    # Imported late, here and below: it takes seconds, and most corpora do without.
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        raise UserError(
            f"{path} is no folder written by datasets.save_to_disk ({_first_line(error)}): "
            "give such a folder, or a file"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UserError(f"{path} has no split {split!r}: set 'split' to one of {_list(data)}")
        data = data[split]
    return _read_records(_rows(str(path), data), keys)


def _read_dataset(
    dataset: str, config: str | None, split: str, keys: _Keys | None
) -> Iterator[Pair]:
    folder = Path(dataset).expanduser()
    if any((folder / mark).is_file() for mark in ("dataset_info.json", "dataset_dict.json")):
        if config is not None:
            raise UserError(f"{folder} is a folder without configurations: leave out 'config'")
        return _read_folder(folder, split, keys)
    import datasets

    try:
        data = datasets.load_dataset(dataset, config, split=split)
    except Exception as error:  # whatever the network, the Hub and the file formats raise
        raise UserError(
            f"dataset {dataset!r}, split {split!r} cannot be loaded ({_first_line(error)}): check "
            "'dataset', 'config', 'split' and the network, or give a folder of save_to_disk"
        ) from error
    return _read_records(_rows(f"dataset {dataset}", data), keys)


def _rows(where: str, data: Any) -> Iterator[tuple[str, object]]:
    # In batches and without the format saved with the data: row by row is many times slower.
    batches = data.with_format(None).iter(batch_size=1000)
    rows = (values for batch in batches for values in zip(*batch.values(), strict=True))
    for number, values in enumerate(rows):
        yield f"{where}, row {number}", dict(zip(data.column_names, values, strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".:") or type(error).__name__


@dataclass(frozen=True)
class CleaningReport:
    """How many pairs `clean` read, dropped under each rule (in the rules' order) and kept."""

    read: int
    empty: int
    too_long: int
    ratio: int
    copies: int
    duplicates: int
    kept: int

    @property
    def dropped(self) -> int:
        """The number of pairs dropped under any rule."""
        return self.read - self.kept

    def as_dict(self) -> dict[str, int]:
        """Give the counts by name, in order.

        Example:
            >>> clean([Pair("ja", "jo"), Pair("ja", "jo")])[1].as_dict()["duplicates"]
            1
        """
        return asdict(self)


def clean(
    pairs: Iterable[Pair],
    *,
    max_words: int | None = 250,
    max_ratio: float | None = 3.0,
    drop_copies: bool = False,
    deduplicate: bool = True,
) -> tuple[list[Pair], CleaningReport]:
    """Drop the pairs that teach a translator nothing or wrong things.

    A pair is counted under the first rule that it breaks, in this order.

    Args:
        pairs: The pairs; their order is kept.
        max_words: The most words, split at whitespace, that either side may have. None: any.
        max_ratio: How many times longer, in characters, the longer side may be; pairs with both
            sides under 20 characters are spared, their ratio says little. None: any.
        drop_copies: Drop pairs whose target equals their source: as a rule untranslated.
        deduplicate: Keep only the first of equal pairs.

    Raises:
        UserError: `max_words` or `max_ratio` is below 1, so that no pair could stay.

    Example:
        >>> kept, report = clean([Pair("ja", "jo"), Pair("nein", ""), Pair("ja", "jo")])
        >>> kept, report.empty, report.duplicates
        ([Pair(source='ja', target='jo')], 1, 1)
    """
    for option, value in (("max_words", max_words), ("max_ratio", max_ratio)):
        if value is not None and not value >= 1:
            raise UserError(f"{option} is {value}: give 1 or more, or None to switch it off")
    counts = dict.fromkeys(("empty", "too_long", "ratio", "copies", "duplicates"), 0)
    kept: list[Pair] = []
    seen: set[Pair] = set()
    for pair in pairs:
        shorter, longer = sorted(map(len, pair))
        if not all(map(str.strip, pair)):
            counts["empty"] += 1
        elif max_words is not None and any(len(side.split()) > max_words for side in pair):
            counts["too_long"] += 1
        elif max_ratio is not None and longer >= _RATIO_GRACE and longer > max_ratio * shorter:
            counts["ratio"] += 1
        elif drop_copies and pair.source == pair.target:
            counts["copies"] += 1
        elif deduplicate and pair in seen:
            counts["duplicates"] += 1
        else:
            kept.append(pair)
            seen.add(pair)
    read = len(kept) + sum(counts.values())
    return kept, CleaningReport(read=read, **counts, kept=len(kept))


def overlap(train: Iterable[Pair], heldout: Iterable[Pair]) -> int:
    """Count the held-out pairs whose source also occurs, exactly so, in `train`.

    Above zero, scores on the held-out pairs also reward memory.

    Example:
        >>> overlap([Pair("ja", "jo")], [Pair("ja", "haj"), Pair("nein", "ně")])
        1
    """
    sources = {pair.source for pair in train}
    return sum(pair.source in sources for pair in heldout)
