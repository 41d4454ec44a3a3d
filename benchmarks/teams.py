"""Processes that carry out steps on request: plain steps in one, steps of this package in another.

Both sides need a process of their own, because `A2DTrainer` tunes its process, which must neither
help nor hinder the plain steps.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from parts import attention_loss, shares_by_kind
from steps import (
    STEPS,
    Batch,
    MakeStep,
    Setting,
    Step,
    batches,
    naive_attention_loss,
    student_alone,
)
from torch import Tensor

from a2d.method.losses import attention_transfer
from a2d.method.maps import StackedMaps
from a2d.progress import silence_libraries

BATCHES = 2
"""Different batches, in turn: memory settles, as in a long training."""

YARDSTICK = "student in fp32"
"""Step that was once measured together with the authors' code."""


def student_in_fp32(setting: Setting, data: list[Batch], folder: Path) -> Step:
    """Train as `student_alone`, without autocast."""
    return student_alone(setting._replace(bf16=False), data, folder)


def package_attention_loss(
    maps: Tensor, teacher: Tensor, keys: Tensor, rows: Tensor, *, weight: Tensor
) -> Tensor:
    """Compute the same as `naive_attention_loss`, with this package."""
    return attention_transfer(
        StackedMaps(maps), StackedMaps(teacher), keys, rows, weight=weight, log_maps=True
    )


MEMBERS: dict[str, MakeStep] = {
    **STEPS,
    "naive attention loss": attention_loss(naive_attention_loss),
    "attention loss": attention_loss(package_attention_loss),
    YARDSTICK: student_in_fp32,
}

PLAIN = ("student", "vanilla kd", "naive a2d", "naive attention loss", YARDSTICK)
"""Steps without this package."""


class Team(AbstractContextManager["Team"]):
    """Steps in a process of their own, which sleeps between requests.

    Args:
        setting: configuration to measure.
        names: names of steps in `MEMBERS`.
        threads: number of CPU threads.
        folder: folder for files of the steps.
    """

    def __init__(self, setting: Setting, names: list[str], threads: int, folder: Path) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        self._pool.submit(_prepare, setting, names, threads, folder).result()

    def seconds(self, name: str, number: int) -> float:
        """Carry out a step on batch `number`, and return its seconds."""
        return self._pool.submit(_timed, name, number).result()

    def profile(self, name: str) -> dict[str, float]:
        """Measure shares of a step's time by kind of work (`parts.shares_by_kind`)."""
        return self._pool.submit(_profile, name).result()

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown()


# In the process

_data: list[Batch] = []
_steps: dict[str, Step] = {}


def _prepare(setting: Setting, names: list[str], threads: int, folder: Path) -> None:
    torch.set_num_threads(threads)
    silence_libraries()
    _data.extend(batches(setting, BATCHES))
    _steps.update({name: MEMBERS[name](setting, _data, folder) for name in names})


def _timed(name: str, number: int) -> float:
    return seconds_of(_steps[name], _data[number % BATCHES])


def _profile(name: str) -> dict[str, float]:
    return shares_by_kind(_steps[name], 2 * _data)


def seconds_of(step: Step, batch: Batch) -> float:
    """Carry out a step, and return its seconds; on GPU, wait for its kernels."""
    _synchronize()
    start = time.perf_counter()
    step(batch)
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
