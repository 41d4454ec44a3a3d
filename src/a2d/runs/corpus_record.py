"""What a run knows of its corpus without reading it again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import a2d
from a2d.errors import UserError
from a2d.files import digest, write_text
from a2d.runs.recipe import Recipe
from a2d.runs.splits import Splits, text_hash
from a2d.text.cleaning import overlap
from a2d.text.corpus import BUILTIN, places
from a2d.text.files import expand_path
from a2d.text.identification import is_installed
from a2d.text.records import is_saved

RECORD = "corpus.json"
CHECKSUM = "checksum"


@dataclass(frozen=True)
class CorpusRecord:
    """Hashes and counts of a corpus that has been read and cleaned.

    Attributes:
        inputs: hash of the files it was read from and of the settings of reading; None if it was
            not read from files alone.
        text: hash of the cleaned training pairs and the held-out pairs.
        monolingual: hash of the cleaned monolingual text; None without any.
        translations: hash of the teacher's translations, if the recipe names such; otherwise None.
        translated: the held-out sets whose sources all have translations among these.
        sizes: pairs of `train`, `valid` and `test`, sentences of `monolingual`.
        cleaning, monolingual_cleaning: how many were read and dropped, by rule.
        shared: held-out sentences that also occur in the training data, by set.
        warnings: the warnings of the reading.
    """

    inputs: str | None
    text: str
    monolingual: str | None
    translations: str | None
    translated: list[str]
    sizes: dict[str, int]
    cleaning: dict[str, int]
    monolingual_cleaning: dict[str, int] | None
    shared: dict[str, int]
    warnings: list[str]

    def save(self, folder: Path) -> None:
        """Write the record into a run's folder, with a checksum."""
        fields = asdict(self)
        text = json.dumps({**fields, CHECKSUM: _checksum(fields)}, indent=1, ensure_ascii=False)
        write_text(folder / RECORD, text + "\n")


def record_of(splits: Splits, inputs: str | None) -> CorpusRecord:
    """Sum up a corpus that has been read."""
    held_out = {"valid": splits.valid, "test": splits.test}
    report = splits.monolingual_cleaning
    return CorpusRecord(
        inputs,
        splits.fingerprint,
        text_hash(splits.monolingual) if splits.monolingual else None,
        None if splits.known is None else splits.known.fingerprint,
        [name for name in held_out if splits.known is not None and splits.translated(name)],
        {
            "train": len(splits.train),
            **{name: len(pairs) for name, pairs in held_out.items()},
            "monolingual": len(splits.monolingual),
        },
        splits.cleaning.as_dict(),
        None if report is None else report.as_dict(),
        {name: overlap(splits.train, pairs) for name, pairs in held_out.items()},
        list(splits.warnings),
    )


def load_record(folder: Path, inputs: str | None) -> CorpusRecord | None:
    """Read the record in a run's folder.

    Returns:
        The record; None if there is none of these inputs, or it is damaged.
    """
    if inputs is None:
        return None
    if not (folder / RECORD).is_file():  # reading a pipe may have no end
        return None
    try:
        fields = json.loads((folder / RECORD).read_text("utf-8"))
        intact = fields.pop(CHECKSUM) == _checksum(fields)
        record = CorpusRecord(**fields)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return record if intact and record.inputs == inputs else None


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def hash_of_inputs(recipe: Recipe) -> str | None:
    """Hash everything that the cleaned corpus depends on: files, settings, this version of a2d.

    The checks and warnings of the reading depend on the methods and the evaluated set, too, if the
    teacher's translations are given.

    Returns:
        The hash; None if a part of the corpus is no readable file or saved dataset on this machine.
    """
    corpus, teacher = recipe.corpus, recipe.teacher
    specs = [corpus.train, corpus.valid, corpus.test, corpus.monolingual, teacher.translations]
    settings = [
        corpus.model_dump(mode="json"),
        teacher.translations,
        a2d.__version__,
        is_installed(),
    ]
    if teacher.translations is not None:
        settings += [recipe.evaluation.split, [method.method for method in recipe.methods]]
    total = hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode())
    try:
        for place in (place for spec in specs if spec is not None for place in places(spec)):
            files = _files(place)
            if files is None:
                return None
            for path in files:
                total.update(digest(path).encode())
    except (OSError, UserError):  # the reading tells what is wrong
        return None
    return total.hexdigest()[:16]


def _files(place: str) -> list[Path] | None:
    """List the files at a place of a corpus; None if something else than files may be read."""
    if place.startswith(BUILTIN):
        return []  # of this version
    path = expand_path(place)
    if is_saved(path):
        return sorted(below for below in path.rglob("*") if below.is_file())
    return [path] if path.is_file() else None
