"""The teacher's translations of the training source, to learn from in the place of references.

That is sequence-level distillation (Kim & Rush 2016, section 3.2). Translations are kept in shards
whose every line says which sentence it belongs to, so that none can be taken for another's. Any
number of processes, on one machine or on several that see the folder, translate different shards:
the one that holds a shard's lock does, and the system frees the locks of a killed one.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from a2d.models.decoding import n_best
from a2d.models.export import export, n_best_exported
from a2d.models.loading import load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.runs.recipe import Evaluation, Sequences
from a2d.runs.translations import one_line
from a2d.runs.workers import Workers
from a2d.stage import write_text
from a2d.text.evaluation import closest
from a2d.text.pairs import Pair

SHARD = 1000
"""Sentences per file: at most so many are translated again after an interruption."""

EXPORTED = "teacher"


class Task(NamedTuple):
    """How to translate.

    teacher: folder or hub name of a model with its tokenizer.
    search: the beam search.
    how: what translates, and how many hypotheses there are to choose from.
    """

    teacher: str
    search: Evaluation
    how: Sequences


def translate_training_source(
    pairs: Sequence[Pair], folder: Path, task: Task, workers: Workers
) -> list[str]:
    """Translate the training source with the teacher, shard by shard.

    Args:
        pairs: the training data; of several hypotheses the one closest to the reference is taken.
        folder: where finished shards are kept (`shard-00000.jsonl`, …); those there are used,
            unless they are damaged or of other sentences.
        task: how.
        workers: share the work.

    Returns:
        As many translations.

    Raises:
        UserError: the teacher's family cannot be converted to CTranslate2, which was asked for.
    """
    for wait in (False, True):
        translate_shards(pairs, folder, task, workers, wait=wait)
    for leftover in (_locks(folder), folder / EXPORTED):
        shutil.rmtree(leftover, ignore_errors=True)
    return [text for start, path in _shards(pairs, folder) for text in _texts(path, pairs, start)]


def translate_shards(
    pairs: Sequence[Pair], folder: Path, task: Task, workers: Workers, *, wait: bool
) -> None:
    """Translate the shards that are missing; see `translate_training_source`.

    Args:
        wait: for those that another process is translating, and take over what it leaves;
            otherwise they are left to it.

    Raises:
        UserError: the teacher's family cannot be converted to CTranslate2, which was asked for.
    """
    if task.how.engine == "ctranslate2":
        with _lock(folder / EXPORTED):
            if not (folder / EXPORTED).exists():
                export(task.teacher, folder / EXPORTED)
    futures = [
        workers.submit(_take_shard, pairs[i : i + SHARD], i, path, task, wait)
        for i, path in _shards(pairs, folder)
        if _read(path, pairs[i : i + SHARD], i) is None
    ]
    for future in futures:
        future.result()


def _shards(pairs: Sequence[Pair], folder: Path) -> Iterator[tuple[int, Path]]:
    """The first sentence of each, and its file."""
    for number, start in enumerate(range(0, len(pairs), SHARD)):
        yield start, folder / f"shard-{number:05}.jsonl"


def _locks(folder: Path) -> Path:
    return folder.with_name(folder.name + ".locks")


def _lock(path: Path, timeout: float = -1) -> FileLock:
    return FileLock(_locks(path.parent) / path.name, timeout)


def _take_shard(
    pairs: Sequence[Pair], first: int, path: Path, task: Task, wait: bool, report: Report
) -> None:
    try:
        with _lock(path, timeout=-1 if wait else 0):
            # The folder is renamed once every shard is there, whoever made the last one.
            if _read(path, pairs, first) is None and path.parent.is_dir():
                _translate_shard(pairs, first, path, task, report)
    except Timeout:
        pass


def _translate_shard(
    pairs: Sequence[Pair], first: int, path: Path, task: Task, report: Report
) -> None:
    search, how = task.search, task.how
    name = f"teacher's translations: {path.stem}"
    sources = [pair.source for pair in pairs]
    report(Event(name, 0, len(pairs)))
    if how.engine == "ctranslate2":
        found = n_best_exported(path.parent / EXPORTED, sources, how.n_best, beams=search.beams)
    else:
        found = n_best(
            load_to_run(task.teacher),
            load_tokenizer(task.teacher),
            sources,
            how.n_best,
            beams=search.beams,
            max_tokens=search.max_tokens,
            progress=lambda done: report(Event(name, done, len(pairs))),
        )
    lines = [
        {
            "id": first + number,
            "source": _checksum(pair.source),
            "translation": one_line(closest(hypotheses, pair.target)),
        }
        for number, (pair, hypotheses) in enumerate(zip(pairs, found, strict=True))
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    report(Event(name, len(pairs), len(pairs)))


def _texts(path: Path, pairs: Sequence[Pair], first: int) -> list[str]:
    texts = _read(path, pairs[first : first + SHARD], first)
    assert texts is not None
    return texts


def _read(path: Path, pairs: Sequence[Pair], first: int) -> list[str] | None:
    """The translations in a shard; None where it is missing, damaged, or of other sentences."""
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
        labels = [(line["id"], line["source"]) for line in lines]
        texts: list[str] = [line["translation"] for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    expected = [(first + n, _checksum(pair.source)) for n, pair in enumerate(pairs)]
    return texts if labels == expected else None


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
