"""Workers on a Ray cluster: tasks run wherever the cluster has the cores and GPUs they need.

Ray starts a task again elsewhere if its node dies. All nodes must see the run's folder, the corpora
and the models under the same paths, and have the same version of a2d.
"""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from a2d.errors import UserError, first_line
from a2d.interruptions import NUMBERS
from a2d.plugins import loaded_files
from a2d.progress import Report
from a2d.runs.ray_processes import RayLauncher
from a2d.runs.ray_tasks import Setup, import_ray, run_task
from a2d.runs.workers import threads_for

_RETRIES = 5
"""How often a task is started again after its node or its process died."""

_PATIENCE = 10.0
"""Seconds to wait for an answer of the cluster's address."""

_LOOPBACK = "127.0.0.1"
"""Address of a cluster that is started on this machine: no other machine can reach it."""

RECORDS = ".ray"
"""Folder of Ray Train's own records, beside the log of the run."""


class RayWorkers:
    """Workers with the interface of `a2d.runs.workers.Workers`.

    As many tasks run at once as the cluster has cores or GPUs for.

    Args:
        count: share of this machine's cores that a task gets: one of this many.
        log: log file of the tasks.
        report: called with every progress event, in this process.
        gpus: GPUs of a training, if the cluster has GPUs; other tasks get one. Several may be on
            different nodes. Without GPUs, this is the number of a training's processes.
        address: address of a running cluster, as `ray.init` takes it; None starts one on this
            machine.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or it has not the cores or
            the GPUs of a task.
    """

    def __init__(
        self, count: int, log: Path, report: Report, gpus: int = 1, address: str | None = None
    ) -> None:
        self.report = report
        self._processes = gpus
        ray = self._ray = import_ray()
        with _kept_handlers():
            _connect(ray, address)
        try:
            gpu = {"GPU": 1} if ray.cluster_resources().get("GPU", 0) else {}
            threads = threads_for(count)
            self._task = {"CPU": threads} | gpu
            self._process = {"CPU": max(1, threads // gpus)} | gpu
            self.count = self._count_workers()
            self._events = _new_queue(ray)
        except BaseException:
            ray.shutdown()
            raise
        log = log.absolute()
        self._setup = Setup(self._task["CPU"], Path.cwd(), log, loaded_files(), self._events)
        process = self._setup._replace(threads=self._process["CPU"])
        self._records = log.parent / RECORDS
        self.launcher = RayLauncher(process, self._process, self._records, _RETRIES + 1)
        self._reader = threading.Thread(target=self._forward, daemon=True)
        self._reader.start()

    def submit(
        self, task: Callable[..., Any], *arguments: Any, training: bool = False
    ) -> Future[Any]:
        """Start a task when the cluster has room for it (`a2d.runs.engines.Engine.submit`)."""
        shared = training and self._processes > 1  # its processes have the cores and GPUs
        needs = {} if shared else self._task
        remote = self._ray.remote(
            num_cpus=needs.get("CPU", 0),
            num_gpus=needs.get("GPU", 0),
            max_retries=_RETRIES,
            retry_exceptions=False,
        )(run_task)
        future: Future[Any] = Future()
        reference = remote.remote(self._setup, task, arguments)
        reference.future().add_done_callback(lambda done: self._pass_on(done, future))
        return future

    def __enter__(self) -> RayWorkers:
        """Return the workers."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the cluster; one that was started here ends, with tasks that still run."""
        if error[0] is None:
            self._events.put(None)
            self._reader.join()
        self._ray.shutdown()
        shutil.rmtree(self._records, ignore_errors=True)

    def _count_workers(self) -> int:
        """Count the tasks that the cluster can run at once.

        Raises:
            UserError: no node has the cores of a task, or the cluster has not the GPUs or cores of
                a training's processes.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        names = {"CPU": "cores", "GPU": "GPUs"}
        count = _room(nodes, self._task)
        if not count:
            needs = " and ".join(f"{need} {names[name]}" for name, need in self._task.items())
            raise UserError(
                f"a task needs {needs}, and no node of the Ray cluster has as many: raise "
                "compute.parallel."
            )
        if (room := _room(nodes, self._process)) < self._processes:
            raise UserError(
                f"compute.gpus_per_training is {self._processes}, and the Ray cluster has room "
                f"for {room} processes: lower it, or add nodes."
            )
        return count

    def _pass_on(self, done: Future[Any], future: Future[Any]) -> None:
        """Pass on a task's result, or its own error instead of Ray's."""
        errors = self._ray.exceptions
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        elif isinstance(error, errors.RayTaskError):
            future.set_exception(error.cause)
        elif isinstance(error, errors.RayError):
            future.set_exception(_lost(error))
        else:
            future.set_exception(error)

    def _forward(self) -> None:
        """Pass on events until the end of the queue, or of the cluster."""
        with suppress(self._ray.exceptions.RayError):
            while (event := self._events.get()) is not None:
                self.report(event)


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address is None:
        ray.init("local", include_dashboard=False, _node_ip_address=_LOOPBACK, **quiet)
        return
    try:
        host, _, port = address.rpartition(":")
        if host:  # Ray would try to reach it for minutes
            socket.create_connection((host, int(port)), _PATIENCE).close()
        ray.init(address, **quiet)
    except Exception as error:  # Ray has several, by the kind of address
        raise UserError(
            f"the Ray cluster at compute.address {address!r} cannot be reached "
            f"({first_line(error)}): start it by `ray start`, with the RAY_AUTH_MODE and token of "
            "this command, or leave compute.address out."
        ) from error


def _new_queue(ray: Any) -> Any:
    """Make a queue of events on this node, which lives as long as this process."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.util.queue.Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _room(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, int]) -> int:
    """Count how often a need of resources fits on some nodes."""
    return sum(
        int(min(node.get(name, 0) // need for name, need in needs.items())) for node in nodes
    )


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Keep this process's handlers of signals, which Ray replaces."""
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    try:
        yield
    finally:
        if main:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _lost(error: Exception) -> UserError:
    return UserError(
        f"the Ray cluster lost a task {_RETRIES + 1} times, most likely because memory ran out "
        f"({first_line(error)}): lower training.max_tokens, or give the tasks larger nodes, and "
        "run the command again; finished stages are kept."
    )
