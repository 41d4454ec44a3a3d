"""Record of a run's corpus: hashes and counts, so that a finished run does not read it again."""

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
from a2d.text.corpus import BUILTIN, places
from a2d.text.formats import FORMATS, format_of
from a2d.text.held_out import overlap
from a2d.text.identification import is_installed
from a2d.text.parts import usable_cores
from a2d.text.records import is_saved
from a2d.text.remote import input_path

CORPUS_RECORD = "corpus.json"
CHECKSUM = "checksum"


@dataclass(frozen=True)
class CorpusRecord:
    """Hashes and counts of a corpus that has been read and cleaned.

    Attributes:
        inputs: hash of the corpus files and of the settings of reading; None if the corpus was
            not read from files alone.
        text: hash of the cleaned training pairs and the held-out pairs.
        monolingual: hash of the cleaned monolingual text; None without any.
        translations: hash of the teacher's translations, if the recipe names any; otherwise None.
        translated: the held-out sets whose sources all have such translations.
        sizes: number of pairs in `train`, `valid` and `test`, and of sentences in `monolingual`.
        cleaning, monolingual_cleaning: numbers of read and of dropped pairs, by rule.
        shared: number of held-out sentences that also occur in the training data, by set.
        warnings: warnings of the reading.
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
        write_text(folder / CORPUS_RECORD, text + "\n")


def record_of(splits: Splits, inputs: str | None) -> CorpusRecord:
    """Make the record of a corpus that has been read."""
    held_out = {"valid": splits.valid, "test": splits.test}
    report = splits.monolingual_cleaning
    return CorpusRecord(
        inputs,
        splits.fingerprint,
        text_hash(splits.monolingual) if splits.monolingual else None,
        None if splits.translations is None else splits.translations.fingerprint,
        [] if splits.translations is None else list(filter(splits.has_translations, held_out)),
        {
            "train": len(splits.train),
            **{name: len(pairs) for name, pairs in held_out.items()},
            "monolingual": len(splits.monolingual),
        },
        splits.cleaning.as_dict(),
        None if report is None else report.as_dict(),
        {name: overlap(splits.train, pairs, usable_cores()) for name, pairs in held_out.items()},
        list(splits.warnings),
    )


def load_record(folder: Path, inputs: str | None) -> CorpusRecord | None:
    """Read the record in a run's folder.

    Returns:
        The record; None if there is none for these inputs, or it is damaged.
    """
    if inputs is None:
        return None
    if not (folder / CORPUS_RECORD).is_file():  # reading a pipe may never end
        return None
    try:
        fields = json.loads((folder / CORPUS_RECORD).read_text("utf-8"))
        intact = fields.pop(CHECKSUM) == _checksum(fields)
        record = CorpusRecord(**fields)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return record if intact and record.inputs == inputs else None


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def hash_of_inputs(recipe: Recipe) -> str | None:
    """Hash everything that the cleaned corpus depends on: files, settings, this version of a2d.

    With translations of the teacher, the methods and the evaluated set count, too, because the
    checks and warnings of the reading depend on them.

    Returns:
        The hash; None if a part of the corpus is neither a readable file nor a saved dataset on
        this machine.
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
                plugin = FORMATS.plugin(format_of(path).name)
                total.update("".join(plugin.values()).encode())
    except (OSError, UserError):  # the reading will report it
        return None
    return total.hexdigest()[:16]


def _files(place: str) -> list[Path] | None:
    """List the files of a part of the corpus; None if it may come from elsewhere."""
    if place.startswith(BUILTIN):
        return []  # part of this version of a2d
    path = input_path(place)
    if is_saved(path):
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else None
