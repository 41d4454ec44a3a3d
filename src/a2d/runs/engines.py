"""Engines that carry out a run's tasks: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, Self

import torch

from a2d.errors import UserError
from a2d.files import temporary_folder
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


def count_workers(settings: ComputeSettings) -> int:
    """Check that an engine can do a run's tasks, and count those that it does at once.

    Raises:
        UserError: Ray is not installed, its cluster cannot be used, or this machine has too few
            GPUs.
    """
    if settings.engine == "local":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if 0 < gpus < settings.gpus_per_training:
            raise UserError(
                f"compute.gpus_per_training is {settings.gpus_per_training}, and this machine has "
                f"{gpus} GPUs: lower it, or give the work to a cluster (compute.engine=ray)."
            )
        return settings.parallel
    from a2d.runs.ray_tasks import import_ray  # an extra

    import_ray()
    if settings.address is None:  # a cluster on this machine
        return settings.parallel
    with (
        TemporaryDirectory(dir=temporary_folder()) as folder,
        open_workers(settings, Path(folder) / "log", lambda event: None) as workers,
    ):
        return workers.count


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
