"""Worker processes that share the cores or GPUs of a machine and send progress to their parent.

With one worker there is no process: tasks run in the process that submits them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

import torch

from a2d.endings import portable
from a2d.errors import UserError
from a2d.interruptions import end_with_parent, leave
from a2d.plugin_errors import plugin_error
from a2d.plugins import load_same, loaded_files
from a2d.progress import Report, log_file, log_to, silence_libraries
from a2d.runs.processes import call_in_processes

_PATIENCE = 2.0
"""Seconds after SIGTERM, before a process is killed."""

# In a worker process:
_events: Any = None  # queue of progress events to the parent
_log: Path
_busy = False
_failure: UserError | None = None  # of the start, raised by the first task


class Workers:
    """A pool of processes that call tasks as `task(*arguments, report)`.

    Every process imports the plugins that this process has imported (`a2d.plugins`).

    Args:
        count: number of tasks that run at once. Each gets an equal share of the cores.
        log: log file of the tasks.
        report: called with every progress event, in this process.
        gpus_per_task: number of GPUs that each task gets, in turn.
    """

    launcher = staticmethod(call_in_processes)

    def __init__(self, count: int, log: Path, report: Report, gpus_per_task: int = 1) -> None:
        self.count = count
        self.report = report
        self._pool: ProcessPoolExecutor | None = None
        if count == 1:
            return
        self._other_children = multiprocessing.active_children()
        context = multiprocessing.get_context("spawn")
        self._events = context.Queue()
        self._reader = threading.Thread(target=self._forward, daemon=True)
        gpus: Any = context.Queue()
        for number in range(count):
            gpus.put(_gpus(number, gpus_per_task))
        arguments = (threads_for(count), gpus, self._events, log, loaded_files())
        self._pool = ProcessPoolExecutor(count, context, _start_worker, arguments)
        self._reader.start()

    def submit(
        self, task: Callable[..., Any], *arguments: Any, training: bool = False
    ) -> Future[Any]:
        """Start a task; with one worker, finish it and raise its errors at once.

        The arguments are those of `a2d.runs.engines.Engine.submit`; all tasks have the same GPUs.
        """
        if self._pool is not None:
            return self._pool.submit(_run_task, task, *arguments)
        future: Future[Any] = Future()
        future.set_result(task(*arguments, self.report))
        return future

    def __enter__(self) -> Workers:
        """Return the pool; its processes start with the first task."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for the tasks; after an error, end them at once.

        Raises:
            UserError: a process was killed.
        """
        if self._pool is not None and error[0] is None:
            self._pool.shutdown()
            self._events.put(None)
            self._reader.join()
        elif self._pool is not None:
            self._events.cancel_join_thread()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._end_processes()
        if isinstance(error[1], BrokenProcessPool):
            raise UserError(
                "a process was killed, most likely because memory ran out: lower compute.parallel "
                "or training.max_tokens, and run the command again; finished stages are kept."
            ) from error[1]

    def _end_processes(self) -> None:
        """Ask processes to end, so that they end their children; kill them after a while."""
        children = multiprocessing.active_children()
        workers = [child for child in children if child not in self._other_children]
        for child in workers:
            child.terminate()
        deadline = time.monotonic() + _PATIENCE
        for child in workers:
            child.join(max(0.0, deadline - time.monotonic()))
            child.kill()

    def _forward(self) -> None:
        for event in iter(self._events.get, None):
            self.report(event)


def threads_for(count: int) -> int:
    """Number of CPU threads of a task, if this many share a machine like this one."""
    return max(1, torch.get_num_threads() // count)


def _gpus(number: int, count: int) -> str | None:
    """Choose the GPUs of a worker, as in `CUDA_VISIBLE_DEVICES`; None without a GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    if not (torch.cuda.is_available() and gpus):
        return None
    chosen = (gpus[(number * count + place) % len(gpus)] for place in range(count))
    return ",".join(dict.fromkeys(chosen))


def _start_worker(
    threads: int, gpus: Any, events: Any, log: Path, plugins: Mapping[Path, str]
) -> None:
    """Set up a worker process."""
    global _events, _log, _failure
    _events, _log = events, log
    gpu = gpus.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    silence_libraries()
    try:
        load_same(plugins)
    except UserError as error:  # raised here, it would break the pool
        _failure = error
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes
    signal.signal(signal.SIGTERM, _end)
    sys.unraisablehook = _end_after_finaliser


def _end_after_finaliser(error: sys.UnraisableHookArgs) -> None:
    """Send SIGTERM again if it came during a finaliser, where Python drops the exception.

    A thread sends it, because the finaliser must be over then.
    """
    if isinstance(error.exc_value, SystemExit):
        signal.signal(signal.SIGTERM, _end)
        again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(error)


def _run_task(task: Callable[..., Any], *arguments: Any) -> Any:
    global _busy
    if _failure is not None:
        raise _failure
    try:
        _busy = True
        with log_to(log_file(_log)):
            return task(*arguments, _events.put)
    except SystemExit as error:  # otherwise the pool would start the next task
        if plugin := plugin_error(error):
            raise plugin from error
        leave(128 + signal.SIGTERM)
    except Exception as error:
        raise portable(plugin_error(error) or error) from error
    finally:
        _busy = False


def _end(*_: Any) -> NoReturn:
    """End the task and its children; further signals are ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not _busy:
        leave(128 + signal.SIGTERM)
    sys.exit(128 + signal.SIGTERM)
