"""One task in several processes, which PyTorch's launcher (torchrun) starts and connects.

The first process sends progress events and log records to the process that launches them. An error
of any process ends all of them.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Listener
from pathlib import Path
from secrets import token_bytes
from subprocess import DEVNULL, PIPE
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import torch

from a2d.endings import portable
from a2d.errors import UserError
from a2d.files import temporary_folder
from a2d.plugin_errors import plugin_error
from a2d.plugins import load_same, loaded_files
from a2d.programs import running
from a2d.progress import Event, Report, log_to, silence_libraries

_LAUNCH = ("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1")
"""Options of the launcher: all processes are on this machine."""


class Launcher(Protocol):
    """Caller of a task in several processes of one PyTorch process group."""

    def __call__(
        self, count: int, task: Callable[..., None], *arguments: Any, report: Report
    ) -> None:
        """Call a task in several processes, as `call_in_processes` does."""


class Launch(NamedTuple):
    """What a process needs before it can read its task.

    Attributes:
        address, key: address and key of the connection to the launching process.
        threads: CPU threads of each process.
        plugins: plugins to import, with their checksums.
    """

    address: Any
    key: bytes
    threads: int
    plugins: dict[Path, str]


def call_in_processes(
    count: int, task: Callable[..., None], *arguments: Any, report: Report
) -> None:
    """Call a task in several processes of one PyTorch process group, on this machine.

    With GPUs, each process has one of those that this process sees. Without GPUs, the processes
    share this one's threads, and PyTorch's backend is gloo.

    Args:
        count: number of processes.
        task: function of a module, called as `task(*arguments, report)` in every process.
        arguments: its arguments, which can be pickled.
        report: receiver of the first process's progress events.

    Raises:
        UserError: a process raises it, or was killed.
    """
    threads = max(1, torch.get_num_threads() // count)
    key, errors = token_bytes(32), list[Exception]()
    with TemporaryDirectory(dir=temporary_folder()) as folder, Listener(authkey=key) as listener:
        file = Path(folder) / "task"
        launch = Launch(listener.address, key, threads, loaded_files())
        file.write_bytes(pickle.dumps(launch) + pickle.dumps((task, arguments)))
        receiver = threading.Thread(target=_receive, args=(listener, report, errors), daemon=True)
        receiver.start()
        command = [sys.executable, "-m", "torch.distributed.run", *_LAUNCH]
        command += [f"--nproc-per-node={count}", "-m", __name__, str(file)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": _search_path()}
        # The processes end when their standard input does, because this process may be killed.
        with running(command, stdin=PIPE, stdout=DEVNULL, env=environment) as program:
            status = program.process.wait()
        with Client(listener.address, authkey=key) as connection:
            connection.send(None)
        receiver.join()
    if errors:
        raise next((error for error in errors if isinstance(error, UserError)), errors[0])
    if status:
        raise UserError(
            "a process of the training was killed, most likely because memory ran out: lower "
            "training.max_tokens, and run the command again; the training continues from its last "
            "checkpoint."
        )


def process_count() -> int:
    """Number of processes of the group that this process belongs to; 1 outside of a group."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Check whether this process is the first one of its group, or belongs to none."""
    return os.environ.get("RANK", "0") == "0"


def _search_path() -> str:
    """Folders that modules are imported from, for other processes."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _receive(listener: Listener, report: Report, errors: list[Exception]) -> None:
    """Accept the connections of all processes, until one of them sends None."""
    readers = []
    while True:
        connection = listener.accept()
        try:
            message = connection.recv()
        except EOFError:  # killed
            continue
        if message is None:
            break
        reader = threading.Thread(target=_read, args=(connection, message, report, errors))
        reader.start()
        readers.append(reader)
    for reader in readers:
        reader.join()


def _read(connection: Any, message: Any, report: Report, errors: list[Exception]) -> None:
    """Pass on what a process sends, until its connection ends."""
    with connection, suppress(EOFError, ConnectionError):
        while True:
            if isinstance(message, Exception):
                errors.append(message)
            elif isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
            elif isinstance(message, Event):
                report(message)
            message = connection.recv()


class _Sender(logging.Handler):
    """Sender of events, log records and errors to the launching process."""

    def __init__(self, connection: Any) -> None:
        super().__init__()
        self._connection = connection

    def send(self, message: Any) -> None:
        """Send a message; several threads may do so."""
        self.acquire()
        try:
            self._connection.send(message)
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record, with its arguments and traceback as text."""
        record.msg, record.args = self.format(record), None
        record.exc_info = record.exc_text = None
        self.send(record)


def _main(file: Path) -> None:
    """Call the task in one process of the group."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    silence_libraries()
    with file.open("rb") as content:
        launch = pickle.load(content)
        rest = content.read()
    torch.set_num_threads(launch.threads)
    with Client(launch.address, authkey=launch.key) as connection:
        sender = _Sender(connection)
        sender.send("started")
        try:
            load_same(launch.plugins)
            task, arguments = pickle.loads(rest)
            with log_to(sender if is_first_process() else logging.NullHandler()):
                task(*arguments, sender.send if is_first_process() else _ignore)
        except Exception as error:
            sent = portable(plugin_error(error) or error)
            sent.add_note("".join(traceback.format_exception(error)))
            sender.send(sent)
            sys.exit(1)


def _ignore(event: Event) -> None:
    """Report no progress: the first process does."""


def _end_with_input() -> None:
    """Exit when the launching process has ended."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
