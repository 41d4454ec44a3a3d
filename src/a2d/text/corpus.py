"""Reader of parallel text in all supported formats."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from a2d import corpora, plain_yaml
from a2d.errors import UserError, first_line
from a2d.plugin_errors import NAME_THE_FILE
from a2d.quoting import quoted
from a2d.suggestions import nearest
from a2d.text import records, tables
from a2d.text.bulk import read_stored
from a2d.text.files import STANDARD_INPUT, missing_file
from a2d.text.formats import are_two_sides, describe_formats, format_of, holds_one_language
from a2d.text.languages import base_code, check_codes, names_language
from a2d.text.pairs import Entries, Keys, Languages, Pair, Selection, Threshold
from a2d.text.reading import Reader, ReadingReport, no_pairs_message
from a2d.text.remote import input_path, matching
from a2d.text.storage import StoredPairs

logger = logging.getLogger(__name__)

BUILTIN = "builtin:"
_SACREBLEU = "sacrebleu:"
_SCORE_OPTIONS = ("score", "min_score")
_PATH_OPTIONS = ("path", "split", "source", "target", *_SCORE_OPTIONS)
_DATASET_OPTIONS = ("dataset", "config", "split", "source", "target", *_SCORE_OPTIONS)

Spec = str | Path | Mapping[str, Any] | Sequence[Any]
"""Corpus in one of the forms that `read_corpus` lists."""


def read_corpus(
    spec: Spec,
    name: str = "corpus",
    languages: tuple[str, str] | None = None,
) -> list[Pair]:
    """Read a parallel corpus into memory.

    Texts are brought to Unicode NFC and stripped of outer white space. HTML entities are unescaped,
    also where they were escaped several times. Control characters are removed, and combining
    characters after the thirtieth in a row. Texts of translation memories and localisation files
    lose their inline markup, and their line breaks become spaces. Text files are in UTF-8, UTF-16
    or UTF-32; Windows line ends are accepted; lines end at line feeds only; empty lines of tables
    and JSON lines are skipped.

    Malformed entries are skipped; a warning gives their number and the first entry of each problem.
    Warnings also count entries that lack one of the languages or a translation, entries below a
    threshold, and pairs with entities or control characters.

    Args:
        spec: One of

            - `"builtin:de-dsb/train"`: a corpus that comes with the package;
            - the path of a file that holds pairs, in any format of `a2d.text.formats.FORMATS`; `-`
              reads a table with tabs from standard input;
            - two paths: files of one language each, source and target, such as plain text, aligned
              line by line;
            - the path of a folder written by `datasets.save_to_disk`;
            - `"sacrebleu:wmt22"`: a test set that sacreBLEU has, or can download;
            - `{"path": ..., "split": ..., "source": ..., "target": ...}`: a path as above, the
              keys of its two texts (`translation.de` reaches into nested objects; in a table,
              names or numbers of columns, from 1; in a translation memory, the two languages)
              and, in a folder of several splits, the split. `{..., "score": ..., "min_score":
              ...}` adds the column or key of a number (in a translation memory, the type of a
              `prop`), and its minimum;
            - `{"dataset": ..., "config": ..., "split": ..., "source": ..., "target": ...}`: a
              Hugging Face dataset by name, or a folder; only `dataset` is required;
            - a path with `*`: all files that match, in the order of their names;
            - a list of any number of these. Files that hold one language are paired in their
              order; a list of two files inside the list is such a pair.

            Every file may be compressed (`.gz`, `.bz2`, `.xz`, `.zst`). The default split is
            `name`.
        name: Role of the corpus (`train`, `valid`); error messages begin with it.
        languages: Codes of source and target, for the forms that name languages.

    Returns:
        The pairs, in order.

    Raises:
        UserError: The corpus is missing, empty, damaged, of an unknown type or in other languages,
            or half of a file's entries or more are malformed.

    Example:
        >>> read_corpus("builtin:de-dsb/train")[0]
        Pair(source='(Leer)', target='(Prozny)')
    """
    return list(iterate_corpus(spec, name, languages))


def store_corpus(
    spec: Spec,
    name: str = "corpus",
    languages: tuple[str, str] | None = None,
    processes: int = 1,
) -> tuple[StoredPairs, list[tuple[int, str]]]:
    """Read a corpus, which may exceed memory, into a temporary file.

    Args:
        spec, name, languages: as in `read_corpus`.
        processes: number of processes that read a large corpus (`a2d.text.bulk.read_stored`).

    Returns:
        The pairs; for each file, the number of its first pair and its name.
    """
    readings, pieces, starts = list[ReadingReport](), list[StoredPairs](), list[tuple[int, str]]()
    with _naming(name):
        for reading, piece in read_stored(readers(spec, name, languages), processes):
            _conclude(reading, name)
            if piece and (not starts or starts[-1][1] != reading.place):
                starts.append((sum(map(len, pieces)), reading.place))
            readings.append(reading)
            pieces.append(piece)
        _require_pairs(readings)
    return StoredPairs.joined(pieces), starts


def iterate_corpus(
    spec: Spec,
    name: str = "corpus",
    languages: tuple[str, str] | None = None,
) -> Iterator[Pair]:
    """Yield the pairs of `read_corpus`; errors and warnings about a whole file come at its end."""
    return (pair for _, pair in iterate_with_places(spec, name, languages))


def iterate_with_places(
    spec: Spec,
    name: str = "corpus",
    languages: tuple[str, str] | None = None,
) -> Iterator[tuple[str, Pair]]:
    """Yield the pairs of `iterate_corpus`, each with the names of the files that it comes from."""
    readings = []
    with _naming(name):
        for reader in readers(spec, name, languages):
            reading = ReadingReport(reader.places)
            readings.append(reading)
            yield from ((reading.place, pair) for pair in reader.read(reading))
            _conclude(reading, name)
        _require_pairs(readings)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Let messages of errors begin with the role of the corpus."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _conclude(reading: ReadingReport, name: str) -> None:
    """Refuse or warn after a file has been read."""
    if reading.refusal:
        raise UserError(reading.refusal)
    if warnings := reading.warnings():
        logger.warning("%s: %s", name, " ".join(warnings))


def _require_pairs(readings: Sequence[ReadingReport]) -> None:
    if not any(reading.pairs for reading in readings):
        raise UserError(no_pairs_message(readings))


def readers(spec: Spec, name: str, languages: tuple[str, str] | None) -> list[Reader]:
    """List the readers of a corpus, in order: one for each file, two aligned files or dataset.

    Args:
        spec: the corpus, in any form of `read_corpus`.
        name: default split.
        languages: codes of source and target.

    Raises:
        UserError: `spec` is not a corpus, a file of one language has no file to pair it with, or a
            language is given by name and not by code.
    """
    codes = Languages(*languages) if languages else None
    check_codes(languages or ())
    if isinstance(spec, Sequence) and not isinstance(spec, str) and spec:
        specs = [each for item in spec for each in _expanded(item)]
    else:
        specs = _expanded(spec)
        if len(specs) == 1:
            return [_reader(specs[0], name, codes)]
    result, remaining = [], list(specs)
    while remaining:
        first, second = remaining.pop(0), next(iter(remaining), None)
        if isinstance(first, list | tuple):
            result.append(_two_files(first, codes))
        elif _are_two_sides(first, second, codes):
            result.append(_two_files([first, remaining.pop(0)], codes))
        elif len(specs) > 1 and _is_file(first) and holds_one_language(input_path(first)):
            raise _lone_file(input_path(first))
        else:
            result.append(_reader(first, name, codes))
    return result


def _expanded(spec: Any) -> list[Any]:
    """List the corpora that one stands for: several if its path is a pattern."""
    path = spec.get("path") if isinstance(spec, Mapping) else spec
    if not isinstance(path, str | Path):
        return [spec]
    names = matching(path)
    if names == [str(path)]:
        return [spec]
    return [{**spec, "path": name} for name in names] if isinstance(spec, Mapping) else names


def from_arguments(arguments: Sequence[str]) -> Any:
    """Return the corpus that command-line arguments name (paths, mappings in YAML); None if none.

    Example:
        >>> from_arguments(["a.tsv", "{path: b.csv, source: 1, target: 3}"])
        ['a.tsv', {'path': 'b.csv', 'source': 1, 'target': 3}]
    """
    specs = [_from_argument(argument) for argument in arguments]
    return specs if len(specs) > 1 else next(iter(specs), None)


def _from_argument(argument: str) -> Any:
    if not argument.startswith("{"):
        return argument
    try:
        spec = plain_yaml.parse(argument)
    except UserError as error:
        raise _not_a_mapping(argument) from error
    if not isinstance(spec, dict) or any(
        value is None and ":" in str(key) for key, value in spec.items()
    ):
        raise _not_a_mapping(argument)
    return spec


def _not_a_mapping(argument: str) -> UserError:
    return UserError(
        f"{quoted(argument)} is not a YAML mapping: write it like '{{path: x.csv, source: de, "
        "target: en}', with a space after each colon"
    )


def places(spec: object) -> list[str]:
    """List the files or datasets of a corpus, given in any form of `read_corpus`."""
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [place for item in spec for place in places(item)]
    return list(map(_place, _expanded(spec)))


def _place(spec: object) -> str:
    if isinstance(spec, Mapping):
        spec = spec.get("path", spec.get("dataset"))
    return str(spec) if isinstance(spec, str | Path) else repr(spec)


def _accepted_forms() -> str:
    """Describe the forms of a corpus, for messages."""
    return (
        f"{describe_formats()}; a folder of datasets.save_to_disk; '{BUILTIN}NAME', "
        f"'{_SACREBLEU}TEST SET', '{STANDARD_INPUT}' for a table on standard input; a mapping with "
        "'path' or 'dataset'; or a list of such corpora. A format of your own needs its file: "
        f"{NAME_THE_FILE}"
    )


def _reader(spec: object, name: str, languages: Languages | None) -> Reader:
    if isinstance(spec, Mapping):
        return _reader_of_mapping(spec, name, languages)
    if isinstance(spec, str | Path):
        return _reader_at(spec, name, Selection(languages))
    raise UserError(f"{quoted(spec)} is not a corpus: give {_accepted_forms()}")


def _reader_of_mapping(spec: Mapping[str, Any], name: str, languages: Languages | None) -> Reader:
    if ("path" in spec) == ("dataset" in spec):
        raise UserError(f"{quoted(dict(spec))} is not a corpus: give either 'path' or 'dataset'")
    options = _PATH_OPTIONS if "path" in spec else _DATASET_OPTIONS
    for key, value in spec.items():
        if key not in options:
            raise UserError(f"unknown key {quoted(key)}{nearest(str(key), options)}")
        _check_value(key, value)
    for first, second in (("source", "target"), _SCORE_OPTIONS):
        if (first in spec) != (second in spec):
            raise UserError(
                f"{quoted(dict(spec))} is incomplete: give both {first!r} and {second!r}"
            )
    if "source" in spec:
        if spec["source"] == spec["target"]:
            raise UserError(
                f"{quoted(dict(spec))} has one key for both sides: give two different keys"
            )
        _check_sides(spec, languages)
    selection = Selection(
        languages,
        Keys(spec["source"], spec["target"]) if "source" in spec else None,
        Threshold(spec["score"], spec["min_score"]) if "score" in spec else None,
    )
    split = spec.get("split", name)
    if "path" not in spec:
        dataset, config = spec["dataset"], spec.get("config")
        return Reader([dataset], lambda: records.dataset(dataset, config, split, selection))
    if "split" in spec and not input_path(spec["path"]).is_dir():
        raise UserError(f"{spec['path']} is not a folder of splits: remove 'split'")
    return _reader_at(spec["path"], split, selection)


def _check_sides(spec: Mapping[str, Any], languages: Languages | None) -> None:
    """Refuse keys that name both languages in the wrong order."""
    if languages is None or base_code(languages.source) == base_code(languages.target):
        return
    names = [str(spec[side]).rpartition(".")[2] for side in ("source", "target")]
    if all(map(names_language, names, reversed(languages))):
        raise UserError(
            f"{quoted(dict(spec))} has {spec['source']!r} as its source, but the source language "
            f"is {languages.source!r}: swap 'source' and 'target'"
        )


def _check_value(key: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "min_score":
        if not number:
            raise UserError(f"{quoted(key)} is {quoted(value)}: write a number")
    elif number and key in ("source", "target", "score"):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{quoted(key)} is {quoted(value)}: columns are counted from 1")
    elif not isinstance(value, str) and not (key == "path" and isinstance(value, Path)):
        raise UserError(f"{quoted(key)} is {quoted(value)}: write text, in quotes if necessary")


def _reader_at(spec: str | Path, split: str, selection: Selection) -> Reader:
    """Return the reader of a file, of a folder, or of a `builtin:` or `sacrebleu:` name."""
    places = [str(spec)]
    if isinstance(spec, str) and spec.startswith(BUILTIN):
        builtin = _builtin_name(spec.removeprefix(BUILTIN))
        return Reader(places, lambda: _read_builtin(builtin, selection), repair_texts=False)
    if isinstance(spec, str) and spec.startswith(_SACREBLEU):
        test_set = spec.removeprefix(_SACREBLEU)
        return Reader(places, lambda: _read_test_set(test_set, selection), repair_texts=False)
    path = input_path(spec)
    if path.is_dir():
        return Reader(places, lambda: records.folder(path, split, selection))
    if str(spec) == STANDARD_INPUT:
        return Reader(places, lambda: tables.table(path, selection))
    return Reader(places, lambda: _read_file(path, selection), files=(path,), selection=selection)


def _read_file(path: Path, selection: Selection) -> Entries:
    file_format = format_of(path)
    if file_format.read is None:
        if file_format.suffixes or not path.exists():
            raise _lone_file(path)
        raise UserError(
            f"{path} has an unknown type, or is one of two plain-text files: give "
            f"{_accepted_forms()}"
        )
    if selection.keys and file_format.keys is None:
        raise UserError(f"{path} has no keys: remove 'source' and 'target'")
    if selection.threshold and not file_format.scores:
        raise UserError(f"{path} has no scores: remove 'score' and 'min_score'")
    if (
        file_format.keys == "languages"
        and selection.keys
        and not all(isinstance(k, str) for k in selection.keys)
    ):
        raise UserError(f"{path} has no columns: give language codes as its 'source' and 'target'")
    return file_format.read(path, selection)


def _two_files(files: Sequence[Any], languages: Languages | None) -> Reader:
    """Return the reader of what is in two files, source and target."""
    if not all(isinstance(file, str | Path) for file in files):
        raise UserError(f"{quoted(list(files))} is not a corpus: give {_accepted_forms()}")
    if len(files) != 2:
        raise UserError(f"an inner list has {len(files)} files: list two, source and target")
    source, target = map(input_path, files)
    formats = format_of(source), format_of(target)
    for path, file_format in zip((source, target), formats, strict=True):
        if file_format.read_two is None:
            raise UserError(
                f"{path} is not plain text: list two files of one sentence per line, or one file "
                "that holds both sides"
            )
    read = formats[0].read_two
    if read is None or read is not formats[1].read_two:
        raise UserError(f"{source} and {target} have different types: list two files of one type")
    selection = Selection(languages)
    return Reader(
        list(map(str, files)),
        lambda: read(source, target, selection),
        files=(source, target),
        selection=selection,
    )


def _is_file(spec: object) -> bool:
    """Check whether a specification of a corpus is the path of one file.

    Such a file may hold one language, and the next file of the list its translation. The file need
    not exist.
    """
    if not isinstance(spec, str | Path) or str(spec) == STANDARD_INPUT:
        return False
    if str(spec).startswith((BUILTIN, _SACREBLEU)):
        return False
    return not input_path(spec).is_dir()


def _are_two_sides(first: object, second: object, languages: Languages | None) -> bool:
    files = _is_file(first) and _is_file(second)
    return files and are_two_sides(input_path(first), input_path(second), languages)


def _lone_file(path: Path) -> UserError:
    if not path.exists():
        return missing_file(path)
    return UserError(
        f"{path} holds one language: list two files, source and target, next to each other"
    )


def _builtin_name(builtin: str) -> str:
    names = corpora.names()
    if builtin not in names:
        raise UserError(f"there is no packaged corpus {quoted(builtin)}{nearest(builtin, names)}")
    return builtin


def _read_builtin(builtin: str, selection: Selection) -> Entries:
    with corpora.locate(builtin) as path:
        yield from _read_file(path, selection)


def _read_test_set(name: str, selection: Selection) -> Entries:
    from sacrebleu.utils import get_reference_files, get_source_file

    if selection.languages is None:
        raise UserError(f"{_SACREBLEU}{name} needs languages: name source and target")
    pair = "-".join(selection.languages)
    try:
        paths = [get_source_file(name, pair), get_reference_files(name, pair)[0]]
    except Exception as error:  # whatever the network and the archives raise
        raise UserError(
            f"sacreBLEU has no {pair} test set {name!r} and cannot download it "
            f"({first_line(error)}): see `sacrebleu --list`, or give files"
        ) from error
    return tables.aligned_files([Path(path) for path in paths], Selection())
