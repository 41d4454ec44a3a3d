"""The teacher's translations of the training source, to learn from in the place of references.

That is sequence-level distillation (Kim & Rush 2016, section 3.2). Translations are kept in shards
whose every line says which sentence it belongs to, so that none can be taken for another's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

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


def translate_training_source(
    pairs: Sequence[Pair],
    teacher: str,
    folder: Path,
    search: Evaluation,
    how: Sequences,
    workers: Workers,
) -> list[str]:
    """Translate the training source with the teacher, shard by shard.

    Args:
        pairs: the training data; of several hypotheses the one closest to the reference is taken.
        teacher: folder or hub name of a model with its tokenizer.
        folder: where finished shards are kept (`shard-00000.jsonl`, …); those there are used,
            unless they are damaged or of other sentences.
        search: the beam search.
        how: what translates, and how many hypotheses there are to choose from.
        workers: share the work.

    Returns:
        As many translations.

    Raises:
        UserError: the teacher's family cannot be converted to CTranslate2, which was asked for.
    """
    exported = folder / EXPORTED
    if how.engine == "ctranslate2" and not exported.exists():
        export(teacher, exported)
    starts = range(0, len(pairs), SHARD)
    paths = [folder / f"shard-{number:05}.jsonl" for number in range(len(starts))]
    futures = [
        workers.submit(_translate_shard, pairs[i : i + SHARD], i, teacher, path, search, how)
        for i, path in zip(starts, paths, strict=True)
        if _read(path, pairs[i : i + SHARD], i) is None
    ]
    for future in futures:
        future.result()
    found: list[str] = []
    for start, path in zip(starts, paths, strict=True):
        texts = _read(path, pairs[start : start + SHARD], start)
        assert texts is not None
        found += texts
    return found


def _translate_shard(
    pairs: Sequence[Pair],
    first: int,
    teacher: str,
    path: Path,
    search: Evaluation,
    how: Sequences,
    report: Report,
) -> None:
    name = f"teacher's translations: {path.stem}"
    sources = [pair.source for pair in pairs]
    report(Event(name, 0, len(pairs)))
    if how.engine == "ctranslate2":
        found = n_best_exported(path.parent / EXPORTED, sources, how.n_best, beams=search.beams)
    else:
        found = n_best(
            load_to_run(teacher),
            load_tokenizer(teacher),
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
