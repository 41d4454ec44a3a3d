"""Translation of many sentences by the teacher, in shards.

Sequence-level distillation (Kim & Rush 2016, section 3.2) trains students on the teacher's
translations of the training source. Translations are stored in shards; every line names its
sentence, so that translations cannot be mixed up. Workers translate different shards at the same
time.
"""

from __future__ import annotations

import json
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import NamedTuple

from a2d.files import damage, write_text
from a2d.models.decoding import n_best
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.models.loading import load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.runs.command import translate_by_command
from a2d.runs.engines import Engine
from a2d.runs.lines import one_line
from a2d.runs.settings import EvaluationSettings, SequenceSettings
from a2d.text.evaluation import closest
from a2d.text.pairs import Pair

SHARD = 1000
"""Sentences per shard: an interruption costs each worker at most this many translations. The number
does not follow the speed, because sentences that are translated together share a batch, whose sizes
can change a translation by their rounding."""

GROUP_SECONDS = 60.0
"""Time that a worker should need for the shards that it gets at once."""
MAX_GROUP = 100
"""Most shards that a worker gets at once: their sentences are in memory."""

SHARDS = "shard-*.jsonl"

Translator = Callable[[Sequence[Pair], Path], Iterator[str]]
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


def translate_in_shards(
    pairs: Sequence[Pair], folder: Path, task: Task, workers: Engine
) -> Iterator[str]:
    """Translate the sources of pairs shard by shard.

    Args:
        pairs: sources with references. Of several hypotheses the one closest to the reference is
            used, or the likeliest one if the reference is empty.
        folder: folder of the finished shards (`shard-00000.jsonl`, …). Existing shards are used,
            unless they are damaged or belong to other sentences.
        task: settings of the translation.
        workers: workers that share the shards.

    Returns:
        A translation for each pair, read from one shard after the other.

    Raises:
        UserError: the task asks for CTranslate2, which cannot convert the teacher's family; or the
            command fails.
    """
    missing = [n for n in _shards(pairs) if _read(pairs, folder, n) is None]
    if missing:
        _translate_missing(pairs, folder, missing, task, workers)
    for leftover in (folder / EXPORTED, *folder.glob(f".{EXPORTED}.*")):
        shutil.rmtree(leftover, ignore_errors=True)
    return (text for number in _shards(pairs) for text in _texts(pairs, folder, number))


def _translate_missing(
    pairs: Sequence[Pair], folder: Path, missing: Sequence[int], task: Task, workers: Engine
) -> None:
    """Give shards to the workers, a few at a time, until all are translated.

    A worker loads the teacher for every group of shards. The first groups are single shards, whose
    time decides how many shards the next groups have.
    """
    name = f"teacher's translations: {folder.name.removesuffix('.partial')}"
    exported = _export(task, folder)
    waiting, sizes = deque(missing), dict[Future[float], int]()
    size = 1 if workers.count > 1 else len(missing)
    done = len(pairs) - sum(len(_shard(pairs, number)) for number in missing)
    workers.report(Event(name, done, len(pairs)))
    while waiting or sizes:
        while waiting and len(sizes) < workers.count:
            share = -(-len(waiting) // workers.count)  # so that the last groups end together
            numbers = [waiting.popleft() for _ in range(min(size, share, MAX_GROUP))]
            shards = [(number, _shard(pairs, number)) for number in numbers]
            started = done if workers.count == 1 else None
            bar = None if started is None else Event(name, started, len(pairs))
            future = workers.submit(_translate_group, shards, folder, task, exported, bar)
            sizes[future] = sum(len(shard) for _, shard in shards)
        for future in wait(sizes, return_when=FIRST_COMPLETED).done:
            size = max(1, int(GROUP_SECONDS / max(future.result(), 1e-3)))
            done += sizes.pop(future)
            workers.report(Event(name, done, len(pairs)))


def _export(task: Task, folder: Path) -> Path | None:
    """Export the teacher to CTranslate2; returns None if another engine or a command translates."""
    if task.command is not None or task.sequences.engine != "ctranslate2":
        return None
    path = folder / EXPORTED
    if path.exists() and damage(path) is not None:  # left by an interrupted export
        shutil.rmtree(path)
    if not path.exists():
        export(task.teacher, path)
    return path


def _shards(pairs: Sequence[Pair]) -> range:
    return range(-(-len(pairs) // SHARD))


def _path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05}.jsonl"


Shard = tuple[int, Sequence[Pair]]
"""Number of a shard, and its pairs."""


def _translate_group(
    shards: Sequence[Shard],
    folder: Path,
    task: Task,
    exported: Path | None,
    bar: Event | None,
    report: Report,
) -> float:
    """Translate some shards, in any process.

    Args:
        shards: the shards.
        folder: folder of the finished shards.
        task: settings of the translation.
        exported: folder of the teacher's export, if there is one.
        bar: progress before this group, if its own progress is to be reported.
        report: receiver of progress events.

    Returns:
        Seconds per shard.
    """
    start, search = time.perf_counter(), _load_search(task, exported)
    for number, pairs in shards:
        _translate(pairs, number, _path(folder, number), search, bar, report)
        bar = None if bar is None else bar._replace(completed=bar.completed + len(pairs))
    return (time.perf_counter() - start) / len(shards)


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
    pairs: Sequence[Pair],
    number: int,
    path: Path,
    search: Search,
    bar: Event | None,
    report: Report,
) -> None:
    """Translate the pairs of one shard, and write it to `path`."""

    def progress(done: int) -> None:
        if bar is not None:
            report(bar._replace(completed=bar.completed + done))

    n_best_lists = search([pair.source for pair in pairs], progress)
    texts = [
        one_line(_choose(hypotheses, pair.target))
        for hypotheses, pair in zip(n_best_lists, pairs, strict=True)
    ]
    lines = _records(pairs, number, texts)
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


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
