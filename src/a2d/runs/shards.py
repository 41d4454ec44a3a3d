"""Translation of many sentences by the teacher, in shards.

Sequence-level distillation (Kim & Rush 2016, section 3.2) trains students on the teacher's
translations of the training source. Translations are stored in shards; every line names its
sentence, so that translations cannot be mixed up. Several processes can translate different shards
at the same time, also on several machines that share the folder: the process that holds a shard's
lock translates it. The system releases the locks of a killed process.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock, Timeout

from a2d.files import damage, seal, write_text
from a2d.models.decoding import n_best
from a2d.models.export import ExportedModel, export
from a2d.models.loading import load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.runs.command import translate_by_command
from a2d.runs.lines import one_line
from a2d.runs.settings import EvaluationSettings, SequenceSettings
from a2d.runs.workers import Workers
from a2d.text.evaluation import closest
from a2d.text.pairs import Pair

if TYPE_CHECKING:
    from a2d.runs.run import Run

SHARD = 1000
"""Sentences per shard: an interruption costs at most this many translations."""

SHARDS = "shard-*.jsonl"

Translator = Callable[[Sequence[Pair], Path], list[str]]
"""Translates the sources of pairs; "" is a missing translation. It stores finished shards in the
folder, so that an interrupted translation is resumed."""

EXPORTED = "teacher"
"""Folder of the teacher's export to CTranslate2, beside the shards."""


class Task(NamedTuple):
    """Settings of the translation.

    Attributes:
        teacher: folder or hub name of a model with its tokenizer.
        search: settings of the beam search.
        sequences: engine, and number of hypotheses per source.
        command: command that translates instead of a model (`a2d.runs.command`).
    """

    teacher: str
    search: EvaluationSettings
    sequences: SequenceSettings
    command: str | None = None


def task_of(run: Run) -> Task:
    """Collect the settings of the translation by a run's teacher."""
    recipe = run.recipe
    path = "" if recipe.teacher.foreign else run.teacher_path
    return Task(path, recipe.evaluation, recipe.sequences, recipe.teacher.command)


def translator_of(run: Run) -> Translator:
    """Choose the translator of a run: a table of existing translations, a command or a model."""
    table = run.splits.translations
    if table is not None:
        return lambda pairs, _: [table.find(pair.source) for pair in pairs]
    return lambda pairs, folder: translate_in_shards(pairs, folder, task_of(run), run.workers)


def translate_in_shards(
    pairs: Sequence[Pair], folder: Path, task: Task, workers: Workers
) -> list[str]:
    """Translate the sources of pairs shard by shard.

    Args:
        pairs: sources with references. Of several hypotheses the one closest to the reference is
            used, or the likeliest one if the reference is empty.
        folder: folder of the finished shards (`shard-00000.jsonl`, …). Existing shards are used,
            unless they are damaged or belong to other sentences.
        task: settings of the translation.
        workers: processes that share the work.

    Returns:
        A translation for each pair.

    Raises:
        UserError: the task asks for CTranslate2, which cannot convert the teacher's family; or the
            command fails.
    """
    for wait in (False, True):
        translate_shards(pairs, folder, task, workers, wait=wait)
    for leftover in (_locks(folder), folder / EXPORTED, *folder.glob(f".{EXPORTED}.*")):
        shutil.rmtree(leftover, ignore_errors=True)
    return [text for number in _shards(pairs) for text in _texts(pairs, folder, number)]


def translate_shards(
    pairs: Sequence[Pair], folder: Path, task: Task, workers: Workers, *, wait: bool
) -> None:
    """Translate the missing shards.

    Args:
        pairs, folder, task, workers: as in `translate_in_shards`.
        wait: whether to wait for shards that another process is translating, and to translate them
            if it fails; otherwise they are skipped.

    Raises:
        UserError: as in `translate_in_shards`.
    """
    missing = [n for n in _shards(pairs) if _read(pairs, folder, n) is None]
    # Without the folder: another process has completed the shards, and renamed it.
    if not (missing and folder.is_dir()):
        return
    exported = _export(task, folder)
    futures = []
    for worker in range(min(workers.count, len(missing))):
        # Every worker starts at another shard, and skips shards that others are translating.
        first = worker * len(missing) // workers.count
        order = missing[first:] + missing[:first]
        futures.append(
            workers.submit(_translate_missing, pairs, folder, order, task, exported, wait)
        )
    for future in futures:
        future.result()


def _export(task: Task, folder: Path) -> Path | None:
    """Export the teacher to CTranslate2; returns None if another engine or a command translates."""
    if task.command is not None or task.sequences.engine != "ctranslate2":
        return None
    path = folder / EXPORTED
    with _lock(path):
        if path.exists() and damage(path) is not None:  # left by an interrupted export
            shutil.rmtree(path)
        if not path.exists():
            export(task.teacher, path)
            seal(path)
    return path


def _shards(pairs: Sequence[Pair]) -> range:
    return range(-(-len(pairs) // SHARD))


def _path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05}.jsonl"


def _locks(folder: Path) -> Path:
    return folder.with_name(folder.name + ".locks")


def _lock(path: Path, timeout: float = -1) -> FileLock:
    return FileLock(_locks(path.parent) / path.name, timeout)


def _translate_missing(
    pairs: Sequence[Pair],
    folder: Path,
    numbers: Sequence[int],
    task: Task,
    exported: Path | None,
    wait: bool,
    report: Report,
) -> None:
    """Translate shards that are missing, and that no other process has locked."""
    search = cache(partial(_load_search, task, exported))  # loads at most once
    for number in numbers:
        path = _path(folder, number)
        try:
            with _lock(path, timeout=-1 if wait else 0):
                if _read(pairs, folder, number) is None and folder.is_dir():
                    _translate(_shard(pairs, number), number, path, search(), report)
        except Timeout:
            pass


Search = Callable[[Sequence[str], Callable[[int], None]], list[list[str]]]
"""Translates sources into n-best lists; calls its second argument with the number of finished
sources after each batch."""


def _load_search(task: Task, exported: Path | None) -> Search:
    """Load the model that translates, unless a command does."""
    if (command := task.command) is not None:
        return lambda sources, progress: [
            [translation] for translation in translate_by_command(command, sources, progress)
        ]
    count, beams = task.sequences.n_best, task.search.beams
    if exported is not None:
        model = ExportedModel(exported)
        return lambda sources, progress: model.n_best(
            sources, count, beams=beams, cut=True, progress=progress
        )
    teacher, tokenizer = load_to_run(task.teacher), load_tokenizer(task.teacher)
    return lambda sources, progress: n_best(
        teacher,
        tokenizer,
        sources,
        count,
        beams=beams,
        max_tokens=task.search.max_tokens,
        cut=True,
        progress=progress,
    )


def _translate(
    pairs: Sequence[Pair], number: int, path: Path, search: Search, report: Report
) -> None:
    """Translate the pairs of one shard, and write it to `path`."""
    part = path.parent.name.removesuffix(".partial")
    name = f"teacher's translations: {part}, {path.stem}"
    report(Event(name, 0, len(pairs)))
    n_best_lists = search(
        [pair.source for pair in pairs], lambda done: report(Event(name, done, len(pairs)))
    )
    texts = [
        one_line(_choose(hypotheses, pair.target))
        for hypotheses, pair in zip(n_best_lists, pairs, strict=True)
    ]
    lines = _records(pairs, number, texts)
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    report(Event(name, len(pairs), len(pairs)))


def _choose(hypotheses: Sequence[str], reference: str) -> str:
    return closest(hypotheses, reference) if reference else hypotheses[0]


def _shard(pairs: Sequence[Pair], number: int) -> Sequence[Pair]:
    return pairs[number * SHARD : (number + 1) * SHARD]


def _records(
    pairs: Sequence[Pair], number: int, texts: Sequence[str]
) -> list[dict[str, int | str]]:
    """Make the lines of a shard; a checksum ties each translation to its source."""
    first = number * SHARD
    return [
        {"id": first + place, "sum": _checksum(pair.source, text), "translation": text}
        for place, (pair, text) in enumerate(zip(pairs, texts, strict=True))
    ]


def _checksum(source: str, translation: str) -> str:
    return f"{zlib.crc32(json.dumps([source, translation]).encode()):08x}"


def _texts(pairs: Sequence[Pair], folder: Path, number: int) -> list[str]:
    texts = _read(pairs, folder, number)
    assert texts is not None
    return texts


def _read(pairs: Sequence[Pair], folder: Path, number: int) -> list[str] | None:
    """Read a shard's translations; None if it is missing, damaged, or has other sentences."""
    try:
        content = _path(folder, number).read_text("utf-8")
        lines = [json.loads(line) for line in content.split("\n")[:-1]]
        texts: list[str] = [line["translation"] for line in lines]
        expected = _records(_shard(pairs, number), number, texts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return texts if lines == expected else None
