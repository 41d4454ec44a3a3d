"""Speed of each student shape beside the teacher's, measured while nothing else of the run works.

All models write as many tokens as the references have. Otherwise the length of translations would
count: a student that has learned little ends them early or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from a2d.families import positions_of
from a2d.files import write_text
from a2d.models.decoding import search_settings
from a2d.models.loading import load_config, load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.runs.command import sentences_per_second
from a2d.runs.plan import Model, Plan
from a2d.runs.settings import Evaluation
from a2d.stage import Stage
from a2d.text.batching import TokenBatchSampler, encode_sources
from a2d.text.pairs import Pair

FIGURES = "speed.json"

_FIRST = 16
"""Sentences of the first sample."""
_PASS = 0.7
"""Seconds: the sample is doubled until the teacher (a student, beside one that a2d cannot load)
needs as long, or the set is used up."""
_SECONDS = 4.0
"""No round begins later than this after the first; a round is the teacher's pass over the sample
and the student's, or the student's alone beside a teacher that a2d cannot load."""
_FEWEST, _MOST = 3, 7
"""Rounds, however long they take."""


class Batch(NamedTuple):
    """Padded sources of like length, and how many tokens to write for each."""

    inputs: Any
    tokens: int


def measure_speeds(
    plan: Plan,
    pairs: Sequence[Pair],
    search: Evaluation,
    report: Report,
    command: str | None = None,
) -> None:
    """Carry out the stages of speed that are not done, each with the first student of its shape.

    Args:
        plan: a run whose models are trained.
        pairs: the evaluated set; a sample of it is translated.
        search: beams, and padded source tokens per batch.
        report: gets an event after each round.
        command: the teacher's, if it is one: it is timed for itself, with outputs of its own.
    """
    waiting: dict[Path, tuple[Stage, Model]] = {}
    for model in plan.students:
        if model.speed is not None and not model.speed.done:
            waiting.setdefault(model.speed.folder, (model.speed, model))
    if not waiting:
        return
    foreign = plan.teacher.foreign
    own = [] if foreign else [plan.teacher.path]
    paths = own + [model.path for _, model in waiting.values()]
    configs = [load_config(path) for path in paths]
    positions = min((p for c in configs if (p := positions_of(c)) is not None), default=None)
    tokenizer = load_tokenizer(plan.vocabulary.folder)
    teacher = None if foreign else TimedModel(plan.teacher.path, search.beams)
    longest = search.max_tokens, positions
    sample = None if teacher is None else _sample(teacher, tokenizer, pairs, *longest)
    others = {}
    if command is not None:
        sources = [pair.source for pair in pairs]
        others["teacher_sentences_per_second"] = sentences_per_second(command, sources)
    for stage, model in waiting.values():
        student, name = TimedModel(model.path, search.beams), f"speed: {stage.folder.name}"
        batches = sample or _sample(student, tokenizer, pairs, *longest)
        with stage.work() as folder:
            figures = _compare(teacher, student, batches, name, report) | others
            write_text(folder / FIGURES, json.dumps(figures, indent=1) + "\n")


def read_speeds(plan: Plan) -> dict[str, float]:
    """Sentences per second of each model by its name, without those that were not measured.

    A student's is its shape's speed-up times the teacher's, which is the median of those that
    were measured with each shape. Beside a teacher that a2d cannot load it is its own.
    """
    found = {}
    for student in plan.students:
        if student.speed is not None and student.speed.done:
            text = (student.speed.folder / FIGURES).read_text("utf-8")
            found[student.name] = json.loads(text)
    if not found:
        return {}
    measured = [figures.get("teacher_sentences_per_second") for figures in found.values()]
    teacher = median(speed for speed in measured if speed is not None) if any(measured) else None
    if plan.teacher.foreign:
        speeds = {name: figures["sentences_per_second"] for name, figures in found.items()}
        return speeds if teacher is None else {plan.teacher.name: teacher, **speeds}
    assert teacher is not None
    speeds = {name: figures["speed_up"] * teacher for name, figures in found.items()}
    return {plan.teacher.name: teacher, **speeds}


class TimedModel:
    """A model that writes translations of given lengths, by the settings of its own search."""

    def __init__(self, path: str, beams: int) -> None:
        self._model = load_to_run(path).eval()
        self._model.generation_config = search_settings(self._model.generation_config)
        self._beams = beams

    @torch.inference_mode()
    def seconds(self, batches: Sequence[Batch]) -> float:
        """Seconds that it needs for some batches."""
        start = time.perf_counter()
        for batch in batches:
            self._model.generate(
                **batch.inputs.to(self._model.device),
                num_beams=self._beams,
                min_new_tokens=batch.tokens,
                max_new_tokens=batch.tokens,
            ).cpu()
        return time.perf_counter() - start


def make_batches(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    max_tokens: int,
    positions: int | None,
) -> list[Batch]:
    """Batches as translations are made in, with the tokens of each one's longest reference."""
    sources = encode_sources(tokenizer, [pair.source for pair in pairs], positions)
    references = tokenizer(text_target=[pair.target for pair in pairs])["input_ids"]
    sizes = np.array([[len(ids)] * 2 for ids in sources])
    batches = []
    for places in TokenBatchSampler(sizes, max(max_tokens, int(sizes.max())), shuffle=False):
        chosen = {"input_ids": [sources[place] for place in places]}
        tokens = max(len(references[place]) for place in places)
        inputs = tokenizer.pad(chosen, return_tensors="pt")
        batches.append(Batch(inputs, tokens if positions is None else min(tokens, positions)))
    return batches


def _sample(
    model: TimedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    max_tokens: int,
    positions: int | None,
) -> list[Batch]:
    """Pairs evenly spread over a set, as many as the teacher, or a model, needs a while for."""
    count = _FIRST
    while True:
        places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
        chosen = [pairs[place] for place in places]
        batches = make_batches(tokenizer, chosen, max_tokens, positions)
        if model.seconds(batches) >= _PASS or count >= len(pairs):
            return batches
        count *= 2


def _compare(
    teacher: TimedModel | None,
    student: TimedModel,
    sample: Sequence[Batch],
    name: str,
    report: Report,
) -> dict[str, float | None]:
    """Both models' passes in turn, so that what slows the machine for a while slows both.

    Without a teacher it is the student alone.
    """
    report(Event(name, 0, _MOST))
    student.seconds(sample[-1:])  # not timed: first calls are slower
    end = time.monotonic() + _SECONDS
    rounds: list[tuple[float, float]] = []
    slower = student if teacher is None else teacher
    while len(rounds) < _FEWEST or (len(rounds) < _MOST and time.monotonic() < end):
        first = slower.seconds(sample)
        rounds.append((first, first if teacher is None else student.seconds(sample)))
        report(Event(name, len(rounds), _MOST))
    report(Event(name, len(rounds), len(rounds)))
    sentences = sum(len(batch.inputs["input_ids"]) for batch in sample)
    speed = sentences / median(slow for slow, _ in rounds)
    figures = {
        "speed_up": median(slow / fast for slow, fast in rounds),
        "teacher_sentences_per_second": speed,
    }
    return {
        **({"sentences_per_second": speed} if teacher is None else figures),
        "sentences": sentences,
        "rounds": len(rounds),
        "threads": torch.get_num_threads(),
    }
