"""Engines that carry out a run's tasks: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, Self

from a2d.progress import Report
from a2d.runs.processes import Launcher
from a2d.runs.settings import ComputeSettings
from a2d.runs.workers import Workers


class Engine(Protocol):
    """Workers that call tasks as `task(*arguments, report)`; a context manager.

    Attributes:
        count: number of tasks that can run at once.
        report: receiver of progress events, in this process.
    """

    count: int
    report: Report

    @property
    def launcher(self) -> Launcher:
        """Caller of a function in several processes, for tasks of the engine."""

    def submit(
        self, task: Callable[..., Any], *arguments: Any, training: bool = False
    ) -> Future[Any]:
        """Start a task, or put it in a queue.

        Args:
            task: function of a module.
            arguments: its arguments, which can be pickled.
            training: whether it is a training, which uses `compute.gpus_per_training` GPUs, in
                processes of their own if there are several.
        """

    def __enter__(self) -> Self:
        """Return the workers."""

    def __exit__(self, *error: object) -> None:
        """End the workers."""


def open_workers(settings: ComputeSettings, log: Path, report: Report) -> Engine:
    """Open the workers of a run.

    Args:
        settings: the run's settings of computing.
        log: log file of the tasks.
        report: called with every progress event, in this process.

    Raises:
        UserError: Ray is not installed, or its cluster cannot be used.
    """
    arguments = settings.parallel, log, report, settings.gpus_per_training
    if settings.engine == "local":
        return Workers(*arguments)
    from a2d.runs.ray_workers import RayWorkers  # an extra

    return RayWorkers(*arguments, settings.address)
