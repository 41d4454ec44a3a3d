"""Processes that take steps when told to: the library's steps in one, ours in another.

A training has its memory to itself, and how it is used is part of what is compared: what
`A2DTrainer` does for its process must neither help nor hinder the library's steps.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from parts import attention_loss, profiled
from steps import STEPS, Batch, Setting, Step, batches, naive_attention_loss, student_alone

from a2d.method.losses import attention_transfer
from a2d.progress import silence_libraries

BATCHES = 2
"""Different ones, in turn: memory comes to rest, as it does in a long training."""

YARDSTICK = "student in fp32"
"""What the authors' code was once measured together with."""


def student_in_fp32(setting: Setting, data: list[Batch], folder: Path) -> Step:
    """*student* without autocast."""
    return student_alone(setting._replace(bf16=False), data, folder)


MEMBERS = {
    **STEPS,
    "naive attention loss": attention_loss(naive_attention_loss),
    "attention loss": attention_loss(partial(attention_transfer, formula="geometric")),
    YARDSTICK: student_in_fp32,
}

LIBRARY = ("student", "vanilla kd", "naive a2d", "naive attention loss", YARDSTICK)
"""Those that owe nothing to this package; the others make up our team."""


class Team(AbstractContextManager["Team"]):
    """Steps in a process of their own, which waits while it is told nothing.

    Args:
        setting: what to measure.
        names: of steps, among `MEMBERS`.
        threads: on a processor.
        folder: for what they write.
    """

    def __init__(self, setting: Setting, names: list[str], threads: int, folder: Path) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        self._pool.submit(_prepare, setting, names, threads, folder).result()

    def seconds(self, name: str, number: int) -> float:
        """What step number `number` takes."""
        return self._pool.submit(_timed, name, number).result()

    def profile(self, name: str) -> dict[str, float]:
        """Parts of a step's time by kind of work (`parts.profiled`)."""
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
    step, batch = _steps[name], _data[number % BATCHES]
    _finished()
    start = time.perf_counter()
    step(batch)
    _finished()
    return time.perf_counter() - start


def _profile(name: str) -> dict[str, float]:
    return profiled(_steps[name], 2 * _data)


def _finished() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
