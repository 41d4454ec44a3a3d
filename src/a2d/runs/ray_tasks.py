"""Tasks in processes of a Ray cluster."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from a2d.endings import portable
from a2d.errors import UserError, missing_library
from a2d.plugin_errors import plugin_error
from a2d.plugins import load_same
from a2d.progress import Event, log_file, log_to, silence_libraries
from a2d.runs.processes import is_first_process

TOKEN = Path("~/.ray/auth_token")
"""File where Ray looks for the token of a cluster."""


class Setup(NamedTuple):
    """What every process of the cluster needs.

    Attributes:
        threads: CPU threads of a process.
        folder: folder where the command was started; relative paths start there.
        log: log file of the tasks, in the run's folder.
        plugins: plugins to import, with their checksums.
        events: queue of progress events.
    """

    threads: int
    folder: Path
    log: Path
    plugins: Mapping[Path, str]
    events: Any


def run_task(setup: Setup, task: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a task in this process of the cluster.

    Of several processes that share a task, the first one logs and reports progress.

    Raises:
        UserError: the task raises it, or this machine does not see the run's folder.
    """
    with suppress(FileNotFoundError):  # absolute paths work without it
        os.chdir(setup.folder)
    if not setup.log.parent.is_dir():
        raise UserError(
            f"there is no {setup.log.parent} on {platform.node()}, a machine of the Ray cluster: "
            "choose an --output that all machines see by the same path."
        )
    torch.set_num_threads(setup.threads)
    silence_libraries()
    load_same(setup.plugins)

    last = None

    def report(event: Event) -> None:
        nonlocal last
        if is_first_process():
            last = setup.events.actor.put_nowait.remote(event)

    try:
        with log_to(log_file(setup.log) if is_first_process() else logging.NullHandler()):
            return task(*arguments, report)
    except Exception as error:
        raise portable(plugin_error(error) or error) from error
    finally:
        if last is not None:  # events arrive in order: after the last one, all have arrived
            import_ray().get(last)


def import_ray() -> Any:
    """Import Ray, an extra.

    If there is a token, it is used: a cluster that asks for none accepts it, too.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no request leaves the machine
    if "ray" not in sys.modules and TOKEN.expanduser().exists():  # it is read at the import
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        import ray.exceptions
        import ray.util.queue
    except ImportError as error:
        raise missing_library("ray", error) from error
    return ray
