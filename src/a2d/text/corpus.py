"""Parallel text, in the forms people keep it in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2d import corpora, plain_yaml
from a2d.errors import UserError, first_line
from a2d.quoting import quoted
from a2d.suggestions import nearest
from a2d.text import records, tables
from a2d.text.files import STANDARD_INPUT, located, missing
from a2d.text.formats import are_two_sides, format_of, holds_one_language
from a2d.text.languages import base_code, check_codes, names_language
from a2d.text.pairs import Entries, Keys, Languages, Pair, Threshold, Wanted
from a2d.text.reading import Part, Reading, nothing_in

logger = logging.getLogger(__name__)

BUILTIN = "builtin:"
_SACREBLEU = "sacrebleu:"
_UNDERSTOOD = (
    "a table (.tsv, .txt, .csv), JSON lines or an array (.jsonl, .json), Parquet, a translation "
    "memory (.tmx), XLIFF (.xlf, .xliff, .sdlxliff…) or gettext (.po, .mo), each also as .gz, "
    ".bz2, .xz or .zst; a list of two plain-text, gettext or Fluent (.ftl) files; a folder written "
    f"by datasets.save_to_disk; '{BUILTIN}NAME', '{_SACREBLEU}TEST SET', '{STANDARD_INPUT}' for a "
    "table on standard input; a mapping with 'path' or 'dataset'; or a list of such corpora"
)
_SCORE = ("score", "min_score")
_PATH_OPTIONS = ("path", "split", "source", "target", *_SCORE)
_DATASET_OPTIONS = ("dataset", "config", "split", "source", "target", *_SCORE)

Spec = str | Path | Mapping[str, Any] | Sequence[Any]
"""A corpus, as `read_corpus` describes it."""


def read_corpus(
    spec: Spec,
    name: str = "corpus",
    languages: tuple[str, str] | None = None,
) -> list[Pair]:
    """Read a parallel corpus into memory.

    Texts are brought to Unicode NFC and stripped of outer whitespace, and HTML entities left in
    them are unescaped, also where they were escaped again. Control characters are removed, and
    combining ones after the thirtieth in a row. Translation memories and localisation files lose
    their inline markup as well, and their line breaks become spaces. Text files are in UTF-8, or in
    UTF-16 or UTF-32; Windows line ends are accepted; lines end at line feeds alone, and empty lines
    of tables and JSON lines are skipped.

    Malformed entries are skipped, and a warning is logged that counts them and shows the
    first of each problem. Warnings also count entries without one of the languages or a
    translation, those below a threshold, and pairs with entities or control characters.

    Args:
        spec: One of

            - `"builtin:de-dsb/train"`: a corpus that comes with the package;
            - the path of a table (`.tsv`, `.txt`, `.csv`): two columns, or several below a first
              row that names `source` and `target` or both languages; `-` reads one with tabs from
              standard input;
            - two paths: plain text files, source and target, aligned line by line;
            - the path of JSON lines, a JSON array (`.jsonl`, `.json`) or a Parquet file: objects
              with `source` and `target`, or with texts by language, which a `translation` object
              may hold (of two keys that are no languages, the first is the source);
            - the path of a translation memory (`.tmx`), of XLIFF 1.2 or 2 (`.xlf`, `.xliff`, and
              Trados's, memoQ's and Phrase's: `.sdlxliff`, `.mqxliff`, `.mxliff`), or of a gettext
              catalogue (`.po`, `.mo`; fuzzy and obsolete messages are left out);
            - two paths of gettext or Fluent (`.ftl`) files: the translations of the same messages
              in both languages;
            - the path of a folder written by `datasets.save_to_disk`;
            - `"sacrebleu:wmt22"`: a test set that sacreBLEU has, or can fetch;
            - `{"path": ..., "split": ..., "source": ..., "target": ...}`: a path as above, the
              keys of its two texts (`translation.de` reaches into nested objects; of a table, names
              or numbers of columns, from 1; of a translation memory, the two languages) and, in a
              folder of several splits, the split; `{..., "score": ..., "min_score": ...}`: the
              column or key of a number (in a translation memory, the type of a `prop`), and the
              least that it must be;
            - `{"dataset": ..., "config": ..., "split": ..., "source": ..., "target": ...}`: a
              Hugging Face dataset by name, or a folder; `dataset` alone is required;
            - a list of any number of these: files that hold one language belong together by twos,
              in their order; a list of two in it is such a pair.

            Every file may be compressed (`.gz`, `.bz2`, `.xz`, `.zst`). A split not given is the
            one called `name`.
        name: What the corpus is for (`train`, `valid`); error messages begin with it.
        languages: Codes of source and target, for the forms that name languages.

    Raises:
        UserError: The corpus is missing, empty, damaged, of an unknown kind or in other languages,
            or half of a file's entries or more are malformed.

    Example:
        >>> read_corpus("builtin:de-dsb/train")[0]
        Pair(source='(Leer)', target='(Prozny)')
    """
    return list(iterate_corpus(spec, name, languages))


def iterate_corpus(
    spec: Spec,
    name: str = "corpus",
    languages: tuple[str, str] | None = None,
) -> Iterator[Pair]:
    """`read_corpus`, pair by pair: what is wrong with the whole is told at the end."""
    readings = []
    try:
        for part in parts(spec, name, languages):
            reading = Reading(part.places)
            readings.append(reading)
            yield from part.read(reading)
            if reading.fault:
                raise UserError(reading.fault)
            if warnings := reading.warnings():
                logger.warning("%s: %s", name, " ".join(warnings))
        if not any(reading.pairs for reading in readings):
            raise UserError(nothing_in(readings))
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def parts(spec: Spec, name: str, languages: tuple[str, str] | None) -> list[Part]:
    """The corpora that a specification as in `read_corpus` lists, in order.

    Raises:
        UserError: it is none, a file of one language has no other beside it, or a language is
            named by a word that is no code.
    """
    asked = Languages(*languages) if languages else None
    check_codes(languages or ())
    if isinstance(spec, str | Path | Mapping) or not isinstance(spec, Sequence) or not spec:
        return [_part(spec, name, asked)]
    found, waiting = [], list(spec)
    while waiting:
        item, following = waiting.pop(0), next(iter(waiting), None)
        if isinstance(item, list | tuple):
            found.append(_two(item, asked))
        elif _are_two_sides(item, following, asked):
            found.append(_two([item, waiting.pop(0)], asked))
        elif len(spec) > 1 and _is_file(item) and holds_one_language(_path(item)):
            raise _alone(_path(item))
        else:
            found.append(_part(item, name, asked))
    return found


def from_arguments(arguments: Sequence[str]) -> Any:
    """The corpus that a command line names: paths, and mappings in YAML; None: no argument.

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
        raise _no_mapping(argument) from error
    if not isinstance(spec, dict) or any(
        value is None and ":" in str(key) for key, value in spec.items()
    ):
        raise _no_mapping(argument)
    return spec


def _no_mapping(argument: str) -> UserError:
    return UserError(
        f"{quoted(argument)} is no YAML mapping: write it as in '{{path: x.csv, source: de, "
        "target: en}', with a space after colons"
    )


def places(spec: object) -> list[str]:
    """The files, or the datasets, that a corpus as in `read_corpus` is in."""
    if isinstance(spec, Mapping):
        return places(spec.get("path", spec.get("dataset")))
    if isinstance(spec, str | Path):
        return [str(spec)]
    if isinstance(spec, Sequence):
        return [place for item in spec for place in places(item)]
    return [repr(spec)]


def _part(spec: object, name: str, languages: Languages | None) -> Part:
    if isinstance(spec, Mapping):
        return _mapped(spec, name, languages)
    if isinstance(spec, str | Path):
        return _placed(spec, name, Wanted(languages))
    raise UserError(f"{quoted(spec)} names no corpus: give {_UNDERSTOOD}")


def _mapped(spec: Mapping[str, Any], name: str, languages: Languages | None) -> Part:
    if ("path" in spec) == ("dataset" in spec):
        raise UserError(f"{quoted(dict(spec))} names no corpus: give either 'path' or 'dataset'")
    options = _PATH_OPTIONS if "path" in spec else _DATASET_OPTIONS
    for key, value in spec.items():
        if key not in options:
            raise UserError(f"unknown key {quoted(key)}{nearest(str(key), options)}")
        _check_value(key, value)
    for one, other in (("source", "target"), _SCORE):
        if (one in spec) != (other in spec):
            raise UserError(
                f"{quoted(dict(spec))} names one key of two: give both {one!r} and {other!r}"
            )
    if "source" in spec:
        if spec["source"] == spec["target"]:
            raise UserError(f"{quoted(dict(spec))} has one key for both sides: name two")
        _check_sides(spec, languages)
    wanted = Wanted(
        languages,
        Keys(spec["source"], spec["target"]) if "source" in spec else None,
        Threshold(spec["score"], spec["min_score"]) if "score" in spec else None,
    )
    split = spec.get("split", name)
    if "path" not in spec:
        dataset, config = spec["dataset"], spec.get("config")
        return Part([dataset], lambda: records.dataset(dataset, config, split, wanted))
    if "split" in spec and not located(spec["path"]).is_dir():
        raise UserError(f"{spec['path']} is no folder of splits: leave out 'split'")
    return _placed(spec["path"], split, wanted)


def _check_sides(spec: Mapping[str, Any], languages: Languages | None) -> None:
    """Refuse keys that name both languages, the other way around."""
    if languages is None or base_code(languages.source) == base_code(languages.target):
        return
    names = [str(spec[side]).rpartition(".")[2] for side in ("source", "target")]
    if all(map(names_language, names, reversed(languages))):
        raise UserError(
            f"{quoted(dict(spec))} has {spec['source']!r} as its source, and "
            f"{languages.source!r} is the source: swap 'source' and 'target' in it"
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
        raise UserError(f"{quoted(key)} is {quoted(value)}: write text, in quotes if need be")


def _placed(spec: str | Path, split: str, wanted: Wanted) -> Part:
    """The corpus in one file, in a folder, or by a name."""
    places = [str(spec)]
    if isinstance(spec, str) and spec.startswith(BUILTIN):
        builtin = _existing(spec.removeprefix(BUILTIN))
        return Part(places, lambda: _read_builtin(builtin, wanted), mend=False)
    if isinstance(spec, str) and spec.startswith(_SACREBLEU):
        test_set = spec.removeprefix(_SACREBLEU)
        return Part(places, lambda: _read_test_set(test_set, wanted), mend=False)
    path = _path(spec)
    if path.is_dir():
        return Part(places, lambda: records.folder(path, split, wanted))
    if str(spec) == STANDARD_INPUT:
        return Part(places, lambda: tables.table(path, wanted))
    return Part(places, lambda: _read_file(path, wanted))


def _read_file(path: Path, wanted: Wanted) -> Entries:
    form = format_of(path)
    if form.read is None:
        if form.suffixes or not path.exists():
            raise _alone(path)
        raise UserError(
            f"{path} is of no known type, or one of two plain-text files: give {_UNDERSTOOD}"
        )
    if wanted.keys and form.keys is None:
        raise UserError(f"{path} has no keys: leave out 'source' and 'target'")
    if wanted.threshold and not form.scores:
        raise UserError(f"{path} has no scores: leave out 'score' and 'min_score'")
    if (
        form.keys == "languages"
        and wanted.keys
        and not all(isinstance(k, str) for k in wanted.keys)
    ):
        raise UserError(f"{path} has no columns: give languages as its 'source' and 'target'")
    return form.read(path, wanted)


def _two(files: Sequence[Any], languages: Languages | None) -> Part:
    """A corpus in two files, source and target."""
    if not all(isinstance(file, str | Path) for file in files):
        raise UserError(f"{quoted(list(files))} names no corpus: give {_UNDERSTOOD}")
    if len(files) != 2:
        raise UserError(f"{len(files)} files are listed in a list: list two, source and target")
    source, target = map(_path, files)
    forms = format_of(source), format_of(target)
    for path, form in zip((source, target), forms, strict=True):
        if form.read_two is None:
            raise UserError(
                f"{path} is no plain text: list two files of one sentence a line, or one file that "
                "holds both sides"
            )
    read = forms[0].read_two
    if read is None or read is not forms[1].read_two:
        raise UserError(f"{source} and {target} are of two kinds: list two of one")
    return Part(list(map(str, files)), lambda: read(source, target, Wanted(languages)))


def _is_file(spec: object) -> bool:
    """Whether a specification is the path of a file, of which another may be the translation."""
    if not isinstance(spec, str | Path) or str(spec) == STANDARD_INPUT:
        return False
    if str(spec).startswith((BUILTIN, _SACREBLEU)):
        return False
    return not _path(spec).is_dir()


def _are_two_sides(first: object, second: object, languages: Languages | None) -> bool:
    files = _is_file(first) and _is_file(second)
    return files and are_two_sides(_path(first), _path(second), languages)


def _path(spec: object) -> Path:
    return located(spec)


def _alone(path: Path) -> UserError:
    if not path.exists():
        return missing(path)
    return UserError(
        f"{path} holds one language: list two files, source and target, one right after the other"
    )


def _existing(builtin: str) -> str:
    names = corpora.names()
    if builtin not in names:
        raise UserError(f"no packaged corpus {quoted(builtin)}{nearest(builtin, names)}")
    return builtin


def _read_builtin(builtin: str, wanted: Wanted) -> Entries:
    with corpora.locate(builtin) as path:
        yield from _read_file(path, wanted)


def _read_test_set(name: str, wanted: Wanted) -> Entries:
    from sacrebleu.utils import get_reference_files, get_source_file

    if wanted.languages is None:
        raise UserError(f"of {_SACREBLEU}{name}, languages are needed: name source and target")
    pair = "-".join(wanted.languages)
    try:
        paths = [get_source_file(name, pair), get_reference_files(name, pair)[0]]
    except Exception as error:  # whatever the network and the archives raise
        raise UserError(
            f"sacreBLEU has no {pair} test set {name!r} at hand and cannot fetch it "
            f"({first_line(error)}): see `sacrebleu --list`, or give files"
        ) from error
    return tables.aligned([Path(path) for path in paths], Wanted())
