"""What a run knows of its corpus without reading it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import a2d
from a2d.files import digest, write_text
from a2d.runs.recipe import Recipe
from a2d.runs.splits import Splits, text_hash
from a2d.text.cleaning import overlap
from a2d.text.corpus import BUILTIN, places
from a2d.text.identification import installed

RECORD = "corpus.json"


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
        """Write the record into a run's folder."""
        write_text(folder / RECORD, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


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
    """Read the record in a run's folder; None if the corpus must be read to know."""
    if inputs is None:
        return None
    try:
        record = CorpusRecord(**json.loads((folder / RECORD).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if record.inputs == inputs else None


def hash_of_inputs(recipe: Recipe) -> str | None:
    """Hash everything that the cleaned corpus depends on: files, settings, this version of a2d.

    Returns:
        The hash; None if a part of the corpus is no file or folder on this machine.
    """
    corpus, teacher = recipe.corpus, recipe.teacher
    specs = [corpus.train, corpus.valid, corpus.test, corpus.monolingual, teacher.translations]
    total = hashlib.sha256()
    settings = [corpus.model_dump(mode="json"), teacher.translations, a2d.__version__, installed()]
    total.update(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode())
    for place in (place for spec in specs if spec is not None for place in places(spec)):
        files = _files(place)
        if files is None:
            return None
        for path in files:
            total.update(digest(path).encode())
    return total.hexdigest()[:16]


def _files(place: str) -> Iterable[Path] | None:
    """The files at a place of a corpus; None if it is none on this machine."""
    if place.startswith(BUILTIN):
        return []  # of this version
    path = Path(place).expanduser()
    if path.is_dir():
        return sorted(below for below in path.rglob("*") if below.is_file())
    return [path] if path.is_file() else None
