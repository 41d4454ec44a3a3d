"""Short trainings that measure what the real ones will take."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from datasets import load_from_disk
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from a2d.files import temporary_folder
from a2d.models.loading import count_parameters, load_to_run
from a2d.runs.stages.models import Model
from a2d.runs.training import TrainingInputs, new_trainer
from a2d.text.batching import load_tokens
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
        if model.method.definition.uses_outputs and model.data_parts in inputs.caches:
            inputs, cache_seconds = _with_small_cache(model, inputs, folder)
        trainer = new_trainer(model, inputs, folder / "checkpoints", [clock], trial=True)
        trainer.args.max_steps = _WARM_UP + _UPDATES
        trainer.args.eval_strategy = trainer.args.save_strategy = IntervalStrategy.NO
        trainer.args.load_best_model_at_end = False
        trainer.train()
    seconds = mean(clock.seconds[_WARM_UP:])
    return Trial(seconds, count_parameters(trainer.student), cache_seconds)


def _with_small_cache(
    model: Model, inputs: TrainingInputs, folder: Path
) -> tuple[TrainingInputs, float]:
    """Cache the teacher's outputs for a sample of the corpus, in place of all training data.

    Returns:
        Inputs with the sample and its cache, and the seconds that a pair took.
    """
    assert model.training is not None
    train = load_from_disk(str(inputs.tokens))["train"]
    count = min(_CACHED_PAIRS, len(train))
    sample, cache = folder / "sample", folder / "cache"
    train.select([index * len(train) // count for index in range(count)]).save_to_disk(sample)
    cache.mkdir()
    data = dict.fromkeys(model.data_parts, sample)
    tokens, states = load_tokens([*data.values()]), model.method.definition.states
    teacher, start = load_to_run(inputs.teacher), time.perf_counter()
    budget = model.training.max_tokens
    teacher_cache.build(cache, teacher, tokens, budget, lambda done: None, states)
    seconds = (time.perf_counter() - start) / len(tokens)
    return inputs._replace(data=data, caches={model.data_parts: cache}), seconds


class _UpdateClock(TrainerCallback):
    """Measures the time of each update, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)
