"""Work on the parts of a large corpus, in several processes."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from datasets import Dataset

from a2d.errors import UserError
from a2d.interruptions import end_with_parent, ignored_interrupts
from a2d.text.pairs import Pair
from a2d.text.storage import PART, StoredPairs, pairs_of

Item = TypeVar("Item")
T = TypeVar("T")

MIN_PAIRS = 200_000
"""Pairs for each process: less work is not worth a process, which takes seconds to start."""
MAX_PROCESSES = 32
"""Each process needs some hundred MB, and reading is one process anyway."""

# In a worker process:
_work: Callable[[Sequence[Pair]], Any]
_batches: list[Any]


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
        processes: number of processes, for a corpus in a file (`StoredPairs`) of at least 200,000
            pairs for each process. Any other corpus is worked on in this process.

    Raises:
        UserError: a process was killed.
    """
    processes = min(processes, MAX_PROCESSES, len(pairs) // MIN_PAIRS)
    if processes < 2 or not isinstance(pairs, StoredPairs):
        yield from map(work, parts(pairs))
        return
    numbers = range(len(pairs.batches()))
    yield from in_processes(_apply, numbers, processes, _share, (work, pairs.dataset))


def in_processes(
    work: Callable[[Item], T],
    items: Iterable[Item],
    processes: int,
    share: Callable[..., None] | None = None,
    shared: tuple[Any, ...] = (),
) -> Iterator[T]:
    """Call a function with each item in processes, and yield the results in order.

    Args:
        work: the function. It can be pickled, and so can items and results.
        items: its arguments.
        processes: number of processes.
        share: function that every process calls first.
        shared: its arguments.

    Raises:
        UserError: a process was killed.
    """
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (share, shared)) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                with ignored_interrupts():  # a process that starts inherits this
                    waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * processes:  # results of a slow reader must not pile up
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process was killed, most likely because memory ran out: repeat the command "
                "with fewer processes (environment variable OMP_NUM_THREADS=1)."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                if child not in others:
                    child.kill()
            raise


def parts(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """Yield the parts of a corpus in order."""
    if isinstance(pairs, StoredPairs):
        yield from map(pairs_of, pairs.batches())
    else:
        yield from (pairs[start : start + PART] for start in range(0, len(pairs), PART))


def _start(share: Callable[..., None] | None, shared: tuple[Any, ...]) -> None:
    """Set up a worker process."""
    logging.disable(logging.WARNING)  # the parent warns
    if share is not None:
        share(*shared)
    gc.freeze()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    threading.Thread(target=end_with_parent, daemon=True).start()


def _share(work: Callable[[Sequence[Pair]], Any], dataset: Dataset) -> None:
    """Remember the work of all parts, and the corpus."""
    global _work, _batches
    _work, _batches = work, dataset.data.to_batches()


def _apply(number: int) -> Any:
    return _work(pairs_of(_batches[number]))
