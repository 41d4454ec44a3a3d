"""Measurement of teacher's and student's speed, in alternation.

All models generate as many tokens as the references have. Otherwise the length of the translations
would count: a student that has learned little ends them too early or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from a2d.models.exported import require_ctranslate2
from a2d.models.loading import load_to_run
from a2d.models.search_settings import search_settings
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.text.batching import TokenBatchSampler
from a2d.text.pairs import Pair
from a2d.text.sources import encode_sources

_FIRST_SAMPLE = 16
"""Number of sentences of the first sample."""
_MIN_PASS_SECONDS = 0.7
"""The sample is doubled until a pass over it takes this long, or it is the whole set."""
_MAX_SECONDS = 4.0
"""No further round begins after this time. A round is one pass over the sample by each model."""
_MIN_ROUNDS, _MAX_ROUNDS = 3, 7
"""Bounds of the number of rounds; the lower one holds however long the rounds take."""


class Batch(NamedTuple):
    """Padded sources of similar length.

    Attributes:
        inputs: the tokenizer's `BatchEncoding` of PyTorch tensors.
        tokens: number of tokens to generate for each source.
    """

    inputs: Any
    tokens: int


class Timed(Protocol):
    """A model whose speed can be measured."""

    def seconds(self, batches: Sequence[Batch]) -> float:
        """Measure the seconds that the model takes to translate batches."""


class TimedModel:
    """A model that generates translations of fixed length, with its own generation settings.

    Args:
        path: folder or hub name.
        beams: width of the beam.
    """

    def __init__(self, path: str, beams: int) -> None:
        self._model = load_to_run(path).eval()
        self._model.generation_config = search_settings(self._model.generation_config)
        self._beams = beams

    @torch.inference_mode()
    def seconds(self, batches: Sequence[Batch]) -> float:
        """Measure the seconds that the model takes to translate batches."""
        start = time.perf_counter()
        for batch in batches:
            self._model.generate(
                **batch.inputs.to(self._model.device),
                num_beams=self._beams,
                min_new_tokens=batch.tokens,
                max_new_tokens=batch.tokens,
            ).cpu()
        return time.perf_counter() - start


class TimedExport:
    """An exported model that generates translations of fixed length.

    Args:
        folder: the model, exported by `a2d.models.export.export`.
        beams: width of the beam.
    """

    def __init__(self, folder: Path, beams: int) -> None:
        self._translator = require_ctranslate2().Translator(
            str(folder), device="auto", intra_threads=torch.get_num_threads()
        )
        self._tokenizer, self._beams = load_tokenizer(folder), beams

    def seconds(self, batches: Sequence[Batch]) -> float:
        """Measure the seconds that the model takes to translate batches."""
        start = time.perf_counter()
        for batch in batches:
            self._translator.translate_batch(
                [self._tokenizer.convert_ids_to_tokens(ids) for ids in _without_padding(batch)],
                beam_size=self._beams,
                min_decoding_length=batch.tokens,
                max_decoding_length=batch.tokens,
            )
        return time.perf_counter() - start


def _without_padding(batch: Batch) -> Iterator[list[int]]:
    rows = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    return (ids[mask.bool()].tolist() for ids, mask in rows)


def make_batches(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    max_tokens: int,
    positions: int | None,
) -> list[Batch]:
    """Make batches as in translation; each generates as many tokens as its longest reference.

    Args:
        tokenizer: tokenizer of all models.
        pairs: pairs of source and reference.
        max_tokens: largest number of padded tokens per batch.
        positions: largest number of tokens that all models can generate; None: no limit.
    """
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


def sample_for(
    model: Timed,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    max_tokens: int,
    positions: int | None,
) -> list[Batch]:
    """Choose evenly spaced pairs, as many as a model translates in `_MIN_PASS_SECONDS`.

    Args:
        model: the model that is timed.
        tokenizer, pairs, max_tokens, positions: as in `make_batches`.

    Returns:
        The batches of the chosen pairs.
    """
    count = _FIRST_SAMPLE
    while True:
        places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
        chosen = [pairs[place] for place in places]
        batches = make_batches(tokenizer, chosen, max_tokens, positions)
        if model.seconds(batches) >= _MIN_PASS_SECONDS or count >= len(pairs):
            return batches
        count *= 2


def measure_speeds(
    teacher: Timed | None,
    student: Timed,
    sample: Sequence[Batch],
    name: str,
    report: Report,
) -> dict[str, float | None]:
    """Measure teacher and student in turn, so that a passing load of the machine slows both.

    Args:
        teacher: the teacher; None if a2d cannot load it: then the student is measured alone.
        student: the student.
        sample: the batches to translate.
        name: name of the measurement in progress events.
        report: receives progress events.

    Returns:
        `speed_up` and `teacher_sentences_per_second`, medians over the rounds, or without a teacher
        the student's `sentences_per_second`; and the numbers of `sentences`, `rounds` and
        `threads`.
    """
    report(Event(name, 0, _MAX_ROUNDS))
    student.seconds(sample[-1:])  # not timed, because first calls are slower
    end = time.monotonic() + _MAX_SECONDS
    models: list[Timed] = [student] if teacher is None else [teacher, student]
    rounds: list[list[float]] = []
    while len(rounds) < _MIN_ROUNDS or (len(rounds) < _MAX_ROUNDS and time.monotonic() < end):
        rounds.append([model.seconds(sample) for model in models])
        report(Event(name, len(rounds), _MAX_ROUNDS))
    report(Event(name, len(rounds), len(rounds)))
    sentences = sum(len(batch.inputs["input_ids"]) for batch in sample)
    speed = sentences / median(seconds[0] for seconds in rounds)
    if teacher is None:
        speeds = {"sentences_per_second": speed}
    else:
        ratio = median(teacher_seconds / seconds for teacher_seconds, seconds in rounds)
        speeds = {"speed_up": ratio, "teacher_sentences_per_second": speed}
    return {
        **speeds,
        "sentences": sentences,
        "rounds": len(rounds),
        "threads": torch.get_num_threads(),
    }
