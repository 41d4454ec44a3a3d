"""Programs that run where `a2d` cannot be imported."""

import io
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch", "transformers"])


def without_a2d(program, lines, folder):
    """Run a program, unable to import a2d, in a folder; give what it prints for lines of input.

    Each call has a process of its own, forked from one that has imported PyTorch and transformers.
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
