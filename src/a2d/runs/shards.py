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
from a2d.runs.settings import Evaluation, Sequences
from a2d.runs.workers import Workers
from a2d.text.evaluation import closest
from a2d.text.pairs import Pair

if TYPE_CHECKING:
    from a2d.runs.run import Run

SHARD = 1000
"""Sentences per file: at most so many are translated again after an interruption."""

SHARDS = "shard-*.jsonl"

Translator = Callable[[Sequence[Pair], Path], list[str]]
"""Translates sources; a translation is empty where there is none. Finished shards are kept in the
folder, for the next attempt."""

EXPORTED = "teacher"


class Task(NamedTuple):
    """How to translate.

    teacher: folder or hub name of a model with its tokenizer.
    search: the beam search.
    how: what translates (CTranslate2 if its `engine` says so, otherwise transformers), and how many
        hypotheses there are to choose from.
    command: what translates in the place of a model (`a2d.runs.command`).
    """

    teacher: str
    search: Evaluation
    how: Sequences
    command: str | None = None


def task_of(run: Run) -> Task:
    """Describe how a run's teacher translates."""
    recipe = run.recipe
    path = "" if recipe.teacher.foreign else run.teacher_path
    return Task(path, recipe.evaluation, recipe.sequences, recipe.teacher.command)


def translator_of(run: Run) -> Translator:
    """Give what translates in a run: a table of known translations, a command or a model."""
    known = run.splits.known
    if known is not None:
        return lambda pairs, _: [known.find(pair.source) for pair in pairs]
    return lambda pairs, folder: translate_training_source(pairs, folder, task_of(run), run.workers)


def translate_training_source(
    pairs: Sequence[Pair], folder: Path, task: Task, workers: Workers
) -> list[str]:
    """Translate the training source with the teacher, shard by shard.

    Args:
        pairs: the training data; of several hypotheses the one closest to the reference is taken,
            or the likeliest where the reference is empty.
        folder: where finished shards are kept (`shard-00000.jsonl`, …); those there are used,
            unless they are damaged or of other sentences.
        task: how.
        workers: share the work.

    Returns:
        As many translations.

    Raises:
        UserError: the teacher's family cannot be converted to CTranslate2, which was asked for, or
            its command fails.
    """
    for wait in (False, True):
        translate_shards(pairs, folder, task, workers, wait=wait)
    for leftover in (_locks(folder), folder / EXPORTED, *folder.glob(f".{EXPORTED}.*")):
        shutil.rmtree(leftover, ignore_errors=True)
    return [text for number in _shards(pairs) for text in _texts(pairs, folder, number)]


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
    missing = [n for n in _shards(pairs) if _read(pairs, folder, n) is None]
    # The folder is renamed once every shard is there, whoever made the last one.
    if not (missing and folder.is_dir()):
        return
    exported = _export(task, folder)
    futures = []
    for worker in range(min(workers.count, len(missing))):
        # Every worker takes what no other has begun, each from another place on.
        first = worker * len(missing) // workers.count
        order = missing[first:] + missing[:first]
        futures.append(workers.submit(_take, pairs, folder, order, task, exported, wait))
    for future in futures:
        future.result()


def _export(task: Task, folder: Path) -> Path | None:
    """The teacher as CTranslate2's model; None where something else translates."""
    if task.command is not None or task.how.engine != "ctranslate2":
        return None
    path = folder / EXPORTED
    with _lock(path):
        if path.exists() and damage(path) is not None:  # an interruption, or an accident
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


def _take(
    pairs: Sequence[Pair],
    folder: Path,
    numbers: Sequence[int],
    task: Task,
    exported: Path | None,
    wait: bool,
    report: Report,
) -> None:
    """Translate those of some shards that are missing, and that no other process holds."""
    search = cache(partial(_search, task, exported))  # loaded once, and only if it is needed
    for number in numbers:
        path = _path(folder, number)
        try:
            with _lock(path, timeout=-1 if wait else 0):
                if _read(pairs, folder, number) is None and folder.is_dir():
                    _translate(_part(pairs, number), number, path, search(), report)
        except Timeout:
            pass


Search = Callable[[Sequence[str], Callable[[int], None]], list[list[str]]]
"""From sources, and what is told how many are done, to hypotheses of each."""


def _search(task: Task, exported: Path | None) -> Search:
    if (command := task.command) is not None:
        return lambda sources, told: [[t] for t in translate_by_command(command, sources, told)]
    count, beams = task.how.n_best, task.search.beams
    if exported is not None:
        model = ExportedModel(exported)
        return lambda sources, told: model.n_best(
            sources, count, beams=beams, cut=True, progress=told
        )
    teacher, tokenizer = load_to_run(task.teacher), load_tokenizer(task.teacher)
    size = task.search.max_tokens
    return lambda sources, told: n_best(
        teacher, tokenizer, sources, count, beams=beams, max_tokens=size, cut=True, progress=told
    )


def _translate(
    pairs: Sequence[Pair], number: int, path: Path, search: Search, report: Report
) -> None:
    what = path.parent.name.removesuffix(".partial")
    name = f"teacher's translations: {what}, {path.stem}"
    report(Event(name, 0, len(pairs)))
    found = search(
        [pair.source for pair in pairs], lambda done: report(Event(name, done, len(pairs)))
    )
    texts = [one_line(_best(h, pair.target)) for h, pair in zip(found, pairs, strict=True)]
    lines = _lines(pairs, number, texts)
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    report(Event(name, len(pairs), len(pairs)))


def _best(hypotheses: Sequence[str], reference: str) -> str:
    return closest(hypotheses, reference) if reference else hypotheses[0]


def _part(pairs: Sequence[Pair], number: int) -> Sequence[Pair]:
    return pairs[number * SHARD : (number + 1) * SHARD]


def _lines(pairs: Sequence[Pair], number: int, texts: Sequence[str]) -> list[dict[str, int | str]]:
    """The lines of a shard; a checksum ties each translation to its source."""
    first = number * SHARD
    return [
        {"id": first + place, "sum": _sum(pair.source, text), "translation": text}
        for place, (pair, text) in enumerate(zip(pairs, texts, strict=True))
    ]


def _sum(source: str, translation: str) -> str:
    return f"{zlib.crc32(json.dumps([source, translation]).encode()):08x}"


def _texts(pairs: Sequence[Pair], folder: Path, number: int) -> list[str]:
    texts = _read(pairs, folder, number)
    assert texts is not None
    return texts


def _read(pairs: Sequence[Pair], folder: Path, number: int) -> list[str] | None:
    """The translations in a shard; None where it is missing, damaged, or of other sentences."""
    try:
        written = _path(folder, number).read_text("utf-8")
        lines = [json.loads(line) for line in written.split("\n")[:-1]]
        texts: list[str] = [line["translation"] for line in lines]
        expected = _lines(_part(pairs, number), number, texts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return texts if lines == expected else None
