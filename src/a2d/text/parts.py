"""Work on the parts of a large corpus, in several processes."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from datasets import Dataset

from a2d.errors import UserError
from a2d.files import temporary_folder
from a2d.interruptions import end_with_parent, ignored_interrupts
from a2d.text.pairs import Pair
from a2d.text.storage import PART, StoredPairs, pairs_of

Item = TypeVar("Item")
T = TypeVar("T")

MIN_PAIRS = 200_000
"""Pairs for each process: less work is not worth a process, which takes seconds to start."""
MAX_PROCESSES = 32
"""Each process needs some hundred MB, and reading is one process anyway."""


def usable_cores() -> int:
    """Return the number of cores that this process may use.

    `OMP_NUM_THREADS` limits it, as it limits PyTorch.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdecimal() and int(limit) > 0:
        return int(limit)
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_parts(
    work: Callable[[Sequence[Pair]], T], pairs: Sequence[Pair], processes: int = 1
) -> Iterator[T]:
    """Call a function with each part of a corpus, and yield the results in order.

    Args:
        work: the function. It can be pickled, and so can its results.
        pairs: the corpus. Its parts are at most 10,000 pairs long.
        processes: number of processes, if the corpus is large enough (`processes_for`).

    Raises:
        UserError: a process was killed.
    """
    processes = processes_for(pairs, processes)
    if processes < 2 or not isinstance(pairs, StoredPairs):
        yield from map(work, parts(pairs))
        return
    numbers = range(len(pairs.batches()))
    yield from in_processes(_PartWork(work, pairs.dataset), numbers, processes)


def processes_for(pairs: Sequence[Pair], processes: int) -> int:
    """Return how many processes to use for a corpus; this process works on it if that is 1.

    Args:
        pairs: the corpus. Only one in files (`StoredPairs`) can be shared.
        processes: number of processes, each of which gets at least 200,000 pairs.
    """
    if not isinstance(pairs, StoredPairs):
        return 1
    return max(1, min(processes, MAX_PROCESSES, len(pairs) // MIN_PAIRS))


def in_processes(work: Callable[[Item], T], items: Iterable[Item], processes: int) -> Iterator[T]:
    """Call a function with each item in processes, and yield the results in order.

    Args:
        work: the function. It can be pickled, and so can items and results.
        items: its arguments.
        processes: number of processes.

    Raises:
        UserError: a process was killed.
    """
    waiting: deque[Future[T]] = deque()
    with _open_pool(processes) as pool, _stored(work) as file:
        for item in items:
            with ignored_interrupts():  # a process that starts inherits this
                waiting.append(pool.submit(_call, file, item))
            if len(waiting) > 2 * processes:  # results of a slow reader must not pile up
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_kept: ProcessPoolExecutor | None = None
"""Processes that all steps use within `kept_processes`."""


@contextmanager
def kept_processes() -> Iterator[None]:
    """Let all steps within a block use the same processes, which take seconds to start."""
    global _kept
    if _kept is not None:
        yield
        return
    with _new_pool(min(usable_cores(), MAX_PROCESSES)) as _kept:
        try:
            yield
        finally:
            _kept = None


@contextmanager
def _open_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    if _kept is not None:
        yield _kept
        return
    with _new_pool(processes) as pool:
        yield pool


@contextmanager
def _new_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool, whose processes start when they are needed; an error ends them at once.

    Raises:
        UserError: a process was killed.
    """
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError(
                "a process was killed, most likely because memory ran out: repeat the command "
                "with fewer processes (environment variable OMP_NUM_THREADS=1)."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children = [c for c in multiprocessing.active_children() if c not in others]
            for child in children:
                child.kill()
            for child in children:
                child.join()
            raise


@contextmanager
def _stored(work: Callable[..., Any]) -> Iterator[Path]:
    """Write a function into a temporary file, because it may hold megabytes."""
    with TemporaryDirectory(dir=temporary_folder(), ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "work"
        file.write_bytes(pickle.dumps(work))
        yield file


def parts(pairs: Sequence[Pair], numbers: range | None = None) -> Iterator[Sequence[Pair]]:
    """Yield the parts of a corpus in order, or those with the given consecutive numbers."""
    first, end = (0, None) if numbers is None else (numbers.start, numbers.stop)
    if isinstance(pairs, StoredPairs):
        yield from map(pairs_of, pairs.batches()[first:end])
    else:
        starts = range(0, len(pairs), PART)[first:end]
        yield from (pairs[start : start + PART] for start in starts)


def _start() -> None:
    """Set up a worker process."""
    logging.disable(logging.WARNING)  # the parent warns
    gc.freeze()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    threading.Thread(target=end_with_parent, daemon=True).start()


def _call(file: Path, item: Any) -> Any:
    return _load(file)(item)


@lru_cache(maxsize=1)
def _load(file: Path) -> Callable[[Any], Any]:
    """Load the function of the present step in a worker process."""
    work: Callable[[Any], Any] = pickle.loads(file.read_bytes())
    gc.freeze()
    return work


@dataclass(frozen=True)
class _PartWork:
    """Function that works on a part of a stored corpus, given its number.

    Attributes:
        work: function of the pairs.
        dataset: the corpus.
    """

    work: Callable[[Sequence[Pair]], Any]
    dataset: Dataset

    def __call__(self, number: int) -> Any:
        """Work on a part."""
        return self.work(pairs_of(self._batches[number]))

    @cached_property
    def _batches(self) -> list[Any]:
        batches: list[Any] = self.dataset.data.to_batches()
        return batches
