"""Short trainings that measure what the real ones will take."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from datasets import Dataset, load_from_disk
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from a2d.files import temporary_folder
from a2d.models.loading import count_parameters, load_to_run
from a2d.runs.model import Model
from a2d.runs.training import TrainingInputs, new_trainer
from a2d.text.batching import load_tokens, sample_rows
from a2d.training import teacher_cache

_UPDATES = 8
_WARM_UP = 2
"""Updates that are measured, and those before: the first ones are slower."""

_CACHED_PAIRS = 1000
"""Pairs that the teacher's outputs are stored of, if the training reads a cache."""


class Trial(NamedTuple):
    """Measurements of a short training.

    Attributes:
        seconds: mean time of an update.
        parameters: number of the model's parameters.
        cache_seconds: time to store the teacher's outputs for a pair; 0 without a cache.
    """

    seconds: float
    parameters: int
    cache_seconds: float = 0.0


def try_updates(model: Model, inputs: TrainingInputs) -> Trial:
    """Train a model for a few updates in a temporary folder, and measure their time."""
    clock, cache_seconds = _UpdateClock(), 0.0
    with TemporaryDirectory(dir=temporary_folder()) as name:
        folder = Path(name)
        if model.cache is not None:
            model, inputs, cache_seconds = _with_small_cache(model, inputs, folder)
        trainer = new_trainer(model, inputs, folder / "checkpoints", [clock], trial=True)
        trainer.args.max_steps = _WARM_UP + _UPDATES
        trainer.args.eval_strategy = trainer.args.save_strategy = IntervalStrategy.NO
        trainer.args.load_best_model_at_end = False
        trainer.train()
    seconds = mean(clock.seconds[_WARM_UP:])
    return Trial(seconds, count_parameters(trainer.student), cache_seconds)


def _with_small_cache(
    model: Model, inputs: TrainingInputs, folder: Path
) -> tuple[Model, TrainingInputs, float]:
    """Cache the teacher's outputs for a sample of the corpus, in place of all training data.

    Returns:
        The model with its cache, inputs with the sample, and the seconds that a pair took.
    """
    assert model.training is not None
    train = load_from_disk(str(inputs.tokens))["train"]
    sample, cache = folder / "sample", folder / "cache"
    sample_rows(train, _CACHED_PAIRS).save_to_disk(sample)
    data = dict.fromkeys(model.data_parts, sample)
    tokens, states = load_tokens([*data.values()]), model.method.definition.states
    seconds = time_cache(cache, inputs.teacher, tokens, model.training.max_tokens, states)
    return replace(model, cache=cache), inputs._replace(data=data), seconds


def time_cache(folder: Path, teacher: str, tokens: Dataset, max_tokens: int, states: bool) -> float:
    """Cache a teacher's outputs for some pairs, to measure what the cache of a corpus will take.

    Args:
        folder: folder to make.
        teacher: folder or hub name of the teacher.
        tokens: the pairs.
        max_tokens: size of the teacher's batches in tokens.
        states: whether to store hidden states.

    Returns:
        Seconds per pair, without those of loading the teacher.
    """
    folder.mkdir(parents=True)
    model, start = load_to_run(teacher), time.perf_counter()
    teacher_cache.build(folder, model, tokens, max_tokens, lambda done: None, states)
    return (time.perf_counter() - start) / len(tokens)


class _UpdateClock(TrainerCallback):
    """Measures the time of each update, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)
