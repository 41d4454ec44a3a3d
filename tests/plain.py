"""Programs that run where `a2d` cannot be imported."""

import io
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch", "transformers"])


def without_a2d(program, lines, folder):
    """Run a program in a folder, without a2d; return its output for lines of input.

    Each call forks a process that has imported PyTorch and transformers.
    """
    text = "".join(f"{line}\n" for line in lines)
    with ProcessPoolExecutor(1, _SERVER) as pool:
        return pool.submit(_run, program, text, folder).result().split("\n")[:-1]


def _run(program, text, folder):
    assert not any(name.partition(".")[0] == "a2d" for name in sys.modules)
    sys.modules["a2d"] = None
    os.chdir(folder)
    sys.stdin, sys.stdout = io.StringIO(text), io.StringIO()
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    return sys.stdout.getvalue()
