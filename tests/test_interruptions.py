"""Ctrl-C and SIGTERM, to one process or to all: everything ends, and can be continued."""

import os
import signal
import subprocess
import sys
import time

import pytest


def start(program, *arguments, **options):
    """Start a process in a new group."""
    command = [sys.executable, *program, *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes, **options)


def end(process, number, whole_group):
    """Send a signal and wait; return remaining processes of the group, and standard error."""
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=30)
    deadline = time.monotonic() + 5  # Python's tracker of shared memory ends after its parent
    while alive(process.pid):
        assert time.monotonic() < deadline
    return errors


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, process):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


DISTILL = ["distill", "--teacher", "x", "--data", "x", "--source", "de", "--target", "en"]
DISTILL += ["--student", "tiny", "--output", "y"]

AT_FIRST_IMPORT = """
import os, signal, sys
from a2d import __main__, cli

class Finder:
    def find_spec(self, name, *_):
        if name.split(".")[:2] in (["a2d", n] for n in ("runs", "models", "progress", "serving")):
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
__main__.main()
"""

LATE = """
import ctypes
from a2d.__main__ import main
from a2d.runs import recipe

def compute(*_):
    print("begun", flush=True)
    libc = ctypes.CDLL(None)
    while True:
        libc.sleep(1000)  # one step for Python, which handles no signal meanwhile

recipe.load_recipe = compute
main()
"""


def test_a_long_computation_is_ended_from_outside(tmp_path):
    process = start(["-c", LATE], "run", "methods", cwd=tmp_path)
    assert process.stdout.readline() == "begun\n"
    # A thread receives the signal: the main thread keeps sleeping.
    errors = end(process, signal.SIGTERM, whole_group=False)
    assert process.returncode == 143
    assert errors == "Interrupted: repeat the command to continue a run.\n"


FINALISER = """
import os, signal, time
from a2d.__main__ import main
from a2d.runs import recipe

class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

def collect(*_):
    Slow()
    time.sleep(60)

recipe.load_recipe = collect
main()
"""


def test_a_signal_within_a_finaliser(tmp_path):
    process = start(["-c", FINALISER], "run", "methods", cwd=tmp_path)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "Interrupted: repeat the command to continue a run.\n"


def test_other_commands_end_too(tmp_path):
    process = start(["-m", "a2d"], "translate", "builtin:en-pt")
    wait_for(lambda: os.path.exists(f"/proc/{process.pid}/maps") and loaded(process), process)
    errors = end(process, signal.SIGINT, whole_group=True)
    assert process.returncode == 130
    assert errors.endswith("Interrupted.\n")  # there is no run to continue
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        (["run", "demo"], "repeat the command to continue a run."),
        (DISTILL, "repeat the command to continue a run."),
        ([*DISTILL, "--dry-run"], None),
        (["translate", "x"], None),
        (["serve", "x"], None),
        (["bench", "x", "--input", "x"], None),
        (["export", "x", "--output", "y"], None),
        (["report", "x"], None),
    ],
)
def test_only_runs_are_continued(command, ending):
    """Ctrl-C when a command imports its first module."""
    process = start(["-c", AT_FIRST_IMPORT], *command)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ("Interrupted.\n" if ending is None else f"Interrupted: {ending}\n")


def loaded(process):
    """Check whether a process has loaded PyTorch."""
    with open(f"/proc/{process.pid}/maps") as file:
        return "libtorch" in file.read()


def test_ctrl_c_while_the_command_starts_leaves_no_traceback():
    program = """if True:
        import os, signal, sys
        import a2d.__main__
        class Finder:  # the first module that is imported for the command is the moment
            def find_spec(self, *_):
                os.kill(os.getpid(), signal.SIGINT)
        for name in [name for name in sys.modules if name.startswith("a2d.")]:
            assert name == "a2d.__main__", f"{name} is imported before Ctrl-C is handled"
        sys.meta_path.insert(0, Finder())
        a2d.__main__.main()
    """
    process = start(["-c", program])
    assert end(process, 0, whole_group=False) == ""
    assert process.returncode == -signal.SIGINT
