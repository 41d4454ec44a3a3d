"""A teacher of whom only translations are known: its scores beside those of the run's models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from a2d.files import write_text
from a2d.runs.plan import Model
from a2d.runs.sequences import SHARDS
from a2d.runs.translations import HYPOTHESES, SCORES, one_line, write_lines
from a2d.runs.verdict import quality_of, write_yardstick
from a2d.stage import Stage
from a2d.text.evaluation import score
from a2d.text.pairs import Pair

Translator = Callable[[Sequence[Pair], Path], list[str]]
"""Gives the teacher's translations of sources, empty where there is none. What takes long is kept
in shards in a folder, for the next attempt."""


def measure_yardstick(stage: Stage, pairs: Sequence[Pair], translator: Translator) -> None:
    """Carry out the stage of the yardstick with the teacher's own translations."""
    with stage.work(keep=SHARDS) as folder:
        begun = time.perf_counter()
        hypotheses = translator(pairs, folder)
        seconds = time.perf_counter() - begun
        quality = quality_of(hypotheses, [pair.target for pair in pairs])
        write_yardstick(folder, quality, pairs, seconds)


def translate_and_score(
    teacher: Model, split: str, pairs: Sequence[Pair], translator: Translator, complete: bool
) -> None:
    """Carry out the teacher's stage of translations, as those of other models.

    Args:
        teacher: the teacher.
        split: name of the evaluated set.
        pairs: the evaluated set.
        translator: gives its translations.
        complete: every source has a translation; without that, there are no scores.
    """
    with teacher.translations.work(keep=f"{split}/{SHARDS}") as folder:
        shards = folder / split
        shards.mkdir(exist_ok=True)
        hypotheses = translator(pairs, shards)
        references = [one_line(pair.target) for pair in pairs]
        figures = score(list(map(one_line, hypotheses)), references)._asdict()
        if not complete:
            figures |= {"bleu": None, "chrf": None}
        write_lines(folder / HYPOTHESES, hypotheses)
        text = json.dumps({**figures, "parameters": None}, indent=1)
        write_text(folder / SCORES, text + "\n")
