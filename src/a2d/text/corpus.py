"""Parallel text, in the forms people keep it in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2d import corpora
from a2d.errors import UserError, first_line
from a2d.suggestions import nearest
from a2d.text import localisation, records
from a2d.text.pairs import STANDARD_INPUT, Entries, Languages, Malformed, Pair, kind, missing
from a2d.text.records import Keys

logger = logging.getLogger(__name__)

_BUILTIN = "builtin:"
_SACREBLEU = "sacrebleu:"
_UNDERSTOOD = (
    "a table of two columns (.tsv, .txt), JSON lines (.jsonl, .json), Parquet, a translation "
    "memory (.tmx), XLIFF (.xlf, .xliff, .sdlxliff…) or gettext (.po, .mo), each also as .gz, "
    ".bz2, .xz or .zst; a list of two plain-text, gettext or Fluent (.ftl) files; a folder written "
    f"by datasets.save_to_disk; '{_BUILTIN}NAME', '{_SACREBLEU}TEST SET', '{STANDARD_INPUT}' for a "
    "table on standard input; or a mapping with 'path' or 'dataset'"
)
_OF_PAIRS = (
    ".tsv",
    *records.JSON_LINES,
    *records.PARQUET,
    *localisation.TMX,
    *localisation.XLIFF,
    *localisation.GETTEXT,
    *localisation.FLUENT,
)
"""Files that are no plain text."""

_PATH_OPTIONS = ("path", "split", "source", "target")
_DATASET_OPTIONS = ("dataset", "config", "split", "source", "target")
_SHOWN = 3


def read_corpus(
    spec: str | Path | Sequence[str | Path] | Mapping[str, Any],
    name: str = "corpus",
    languages: tuple[str, str] | None = None,
) -> list[Pair]:
    """Read a parallel corpus into memory.

    Texts are brought to Unicode NFC and stripped of outer whitespace, otherwise left as they
    are, but for translation memories and localisation files: they lose their inline markup, and
    their line breaks become spaces. A byte-order mark and Windows line ends are accepted; lines end
    at line feeds alone, and empty lines of tables and JSON lines are skipped.

    Malformed entries are skipped, and a warning is logged that counts them and shows the first.

    Args:
        spec: One of

            - `"builtin:de-dsb/train"`: a corpus that comes with the package;
            - the path of a table (`.tsv`, `.txt`): two columns with a tab between them; `-` reads
              it from standard input;
            - two paths: plain text files, source and target, aligned line by line;
            - the path of JSON lines (`.jsonl`, `.json`) or of a Parquet file: objects with
              `source` and `target`, or with texts by language, which a `translation` object may
              hold (of two that are not those of `languages`, the first is the source);
            - the path of a translation memory (`.tmx`), of XLIFF 1.2 or 2 (`.xlf`, `.xliff`, and
              Trados's, memoQ's and Phrase's: `.sdlxliff`, `.mqxliff`, `.mxliff`), or of a gettext
              catalogue (`.po`, `.mo`; fuzzy and obsolete messages are left out);
            - two paths of gettext or Fluent (`.ftl`) files: the translations of the same messages
              in both languages;
            - the path of a folder written by `datasets.save_to_disk`;
            - `"sacrebleu:wmt22"`: a test set that sacreBLEU has, or can fetch;
            - `{"path": ..., "split": ..., "source": ..., "target": ...}`: a path as above, the
              keys of its two texts (`translation.de` reaches into nested objects; of a translation
              memory, the two languages) and, in a folder of several splits, the split;
            - `{"dataset": ..., "config": ..., "split": ..., "source": ..., "target": ...}`: a
              Hugging Face dataset by name, or a folder; `dataset` alone is required.

            Every file may be compressed (`.gz`, `.bz2`, `.xz`, `.zst`). A split not given is the
            one called `name`.
        name: What the corpus is for (`train`, `valid`); error messages begin with it.
        languages: Codes of source and target, for the forms that name languages.

    Raises:
        UserError: The corpus is missing, empty, damaged, of an unknown kind, or half of its
            entries or more are malformed.

    Example:
        >>> read_corpus("builtin:de-dsb/train")[0]
        Pair(source='(Leer)', target='(Prozny)')
    """
    return list(iterate_corpus(spec, name, languages))


def iterate_corpus(
    spec: str | Path | Sequence[str | Path] | Mapping[str, Any],
    name: str = "corpus",
    languages: tuple[str, str] | None = None,
) -> Iterator[Pair]:
    """`read_corpus`, pair by pair: what is wrong with the whole is told at the end."""
    good = bad = 0
    shown: list[Malformed] = []
    try:
        for entry in _read(spec, name, Languages(*languages) if languages else None):
            if isinstance(entry, Pair):
                good += 1
                yield entry
            else:
                bad += 1
                shown += [entry] * (bad <= _SHOWN)
        if bad >= max(1, good):
            many = f"{bad:,} of {bad + good:,} entries are malformed, as in: " if bad > 1 else ""
            raise UserError(f"{many}{shown[0]}")
        if not good:
            raise UserError(
                f"{' and '.join(places(spec))} is empty: give a corpus with at least one pair"
            )
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if bad:
        logger.warning(
            "%s: %s of %s entries are malformed and were skipped: %s%s",
            name,
            f"{bad:,}",
            f"{bad + good:,}",
            "; ".join(map(str, shown)),
            "; …" if bad > _SHOWN else ".",
        )


def _read(spec: object, name: str, languages: Languages | None) -> Entries:
    if isinstance(spec, Mapping):
        return _read_mapping(spec, name, languages)
    if isinstance(spec, str | Path):
        return _read_path(spec, None, name, languages)
    if isinstance(spec, Sequence) and all(isinstance(path, str | Path) for path in spec):
        return _read_two([Path(path).expanduser() for path in spec])
    raise UserError(f"{spec!r} names no corpus: give {_UNDERSTOOD}")


def places(spec: object) -> list[str]:
    """The files, or the dataset, that a corpus as in `read_corpus` is in."""
    if isinstance(spec, Mapping):
        return places(spec.get("path", spec.get("dataset")))
    if isinstance(spec, str | Path):
        return [str(spec)]
    return list(map(str, spec)) if isinstance(spec, Sequence) else [repr(spec)]


def _read_mapping(spec: Mapping[str, Any], name: str, languages: Languages | None) -> Entries:
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
    keys = Keys(spec["source"], spec["target"]) if "source" in spec else None
    split = spec.get("split", name)
    if "path" not in spec:
        return records.dataset(spec["dataset"], spec.get("config"), split, keys or languages)
    if "split" in spec and not Path(spec["path"]).expanduser().is_dir():
        raise UserError(f"{spec['path']} is no folder of splits: leave out 'split'")
    return _read_path(spec["path"], keys, split, languages)


def _read_path(
    spec: str | Path, keys: Keys | None, split: str, languages: Languages | None
) -> Entries:
    if isinstance(spec, str) and spec.startswith(_BUILTIN):
        return _read_builtin(spec.removeprefix(_BUILTIN), keys)
    if isinstance(spec, str) and spec.startswith(_SACREBLEU):
        return _read_test_set(spec.removeprefix(_SACREBLEU), languages)
    path = Path(spec).expanduser()
    if path.is_dir():
        return records.folder(path, split, keys or languages)
    form = ".tsv" if str(spec) == STANDARD_INPUT else kind(path)
    if form in records.JSON_LINES:
        return records.json_lines(path, keys or languages)
    if form in records.PARQUET:
        return records.parquet(path, keys or languages)
    if form in localisation.TMX:
        return localisation.translation_memory(path, Languages(*keys) if keys else languages)
    if keys:
        raise UserError(f"{path} has no keys: leave out 'source' and 'target'")
    if form in records.TABLES:
        return records.table(path)
    if form in localisation.XLIFF:
        return localisation.xliff(path, languages)
    if form in localisation.GETTEXT:
        return localisation.catalogue(path)
    if not path.exists():
        raise missing(path)
    if form in localisation.FLUENT:
        raise UserError(f"{path} holds one language: list two files, source and target")
    raise UserError(f"{path} is of no known type: give {_UNDERSTOOD}")


def _read_two(paths: Sequence[Path]) -> Entries:
    if len(paths) != 2:
        raise UserError(f"{len(paths)} files are listed: list two, source and target")
    for forms in (localisation.GETTEXT, localisation.FLUENT):
        if all(kind(path) in forms for path in paths):
            return localisation.by_message(*paths)
    for path in paths:
        if kind(path) in _OF_PAIRS:
            raise UserError(
                f"{path} is no plain text: list two files of one sentence a line, or one file that "
                "holds both sides"
            )
    return records.aligned(paths)


def _read_builtin(builtin: str, keys: Keys | None) -> Entries:
    names = corpora.names()
    if builtin not in names:
        raise UserError(f"no packaged corpus {builtin!r}{nearest(builtin, names)}")
    if keys:
        raise UserError(f"{builtin} has no keys: leave out 'source' and 'target'")
    with corpora.locate(builtin) as path:
        yield from records.table(path)


def _read_test_set(name: str, languages: Languages | None) -> Entries:
    from sacrebleu.utils import get_reference_files, get_source_file

    if languages is None:
        raise UserError(f"of {_SACREBLEU}{name}, languages are needed: name source and target")
    pair = "-".join(languages)
    try:
        paths = [get_source_file(name, pair), get_reference_files(name, pair)[0]]
    except Exception as error:  # whatever the network and the archives raise
        raise UserError(
            f"sacreBLEU has no {pair} test set {name!r} at hand and cannot fetch it "
            f"({first_line(error)}): see `sacrebleu --list`, or give files"
        ) from error
    return records.aligned([Path(path) for path in paths])
