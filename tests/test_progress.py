"""Progress: bars on a terminal, plain lines elsewhere."""

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import TrainerState

from a2d import progress
from a2d.progress import Bars, Event, show_activity
from a2d.training.callbacks import TrainingProgress


@pytest.fixture
def clock(monkeypatch):
    """Clock that tests set by hand."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def make_console(terminal=False, width=80):
    """A console and its output."""
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=width), file


class TestWithoutATerminal:
    def test_a_task_has_lines_at_start_and_end_and_between(self, clock):
        console, file = make_console()
        with Bars(console) as bars:
            for step in range(101):  # a step a second
                bars.show(Event("kd", step, 100, f"loss {step}.0"))
                clock.seconds += 1
            bars.show(Event("kd", 100, 100, "loss 100.0"))
        assert file.getvalue().splitlines() == [
            "kd: 0/100 (0%)  0:00:00  loss 0.0",
            "kd: 30/100 (30%)  0:00:30  loss 30.0",
            "kd: 60/100 (60%)  0:01:00  loss 60.0",
            "kd: 90/100 (90%)  0:01:30  loss 90.0",
            "kd: 100/100 (100%)  0:01:40  loss 100.0",
        ]

    def test_tasks_have_separate_lines(self, clock):
        console, file = make_console()
        with Bars(console) as bars:
            for name in "ab":
                bars.show(Event(name, 1500, 3000))
            clock.seconds += 31
            for name in "ab":
                bars.show(Event(name, 2000, 3000))
        assert file.getvalue().splitlines() == [
            "a: 1,500/3,000 (50%)  0:00:00",
            "b: 1,500/3,000 (50%)  0:00:00",
            "a: 2,000/3,000 (67%)  0:00:31",
            "b: 2,000/3,000 (67%)  0:00:31",
        ]

    def test_long_lines_and_markup_are_printed_literally(self):
        console, file = make_console(width=20)
        with Bars(console) as bars:
            bars.show(Event("a [b] :smile: translating", 0, 5, "loss 1.00"))
        assert file.getvalue() == "a [b] :smile: translating: 0/5 (0%)  0:00:00  loss 1.00\n"

    def test_an_empty_task(self):
        console, file = make_console()
        with Bars(console) as bars:
            bars.show(Event("a", 0, 0))
        assert file.getvalue() == "a: 0/0 (100%)  0:00:00\n"

    def test_warnings(self):
        console, file = make_console()
        with Bars(console) as bars:
            bars.show(Event("kd", warning="[sic] bad"))
        assert file.getvalue() == "Warning: kd: [sic] bad\n"

    def test_activities(self):
        console, file = make_console()
        with show_activity(console, "Reading the corpus…"):
            assert file.getvalue() == "Reading the corpus…\n"


class TestOnATerminal:
    def test_a_task_has_one_bar(self):
        console, file = make_console(terminal=True)
        with Bars(console) as bars:
            for step in range(11):
                bars.show(Event("kd", step, 10, "loss 1.0"))
        assert "10/10" in file.getvalue()
        assert "loss 1.0" in file.getvalue()
        assert "(100%)" not in file.getvalue()


def test_a_training_ends_after_its_last_validation():
    events = []
    callback = TrainingProgress("kd", events.append)
    state = TrainerState(max_steps=2)
    callback.on_train_begin(None, state, None)
    for step in (1, 2):
        state.global_step = step
        callback.on_step_end(None, state, None)
    callback.on_log(None, state, None, {"loss": 5.0})
    callback.on_log(None, state, None, {"eval_bleu": 7.0})
    callback.on_train_end(None, state, None)
    assert [event.completed for event in events] == [0, 1, 1, 1, 1, 2]
    assert events[-1] == Event("kd", 2, 2, "loss 5.00  BLEU 7.00")


def test_bars_of_libraries_make_no_named_semaphore():
    """A killed process would leak the semaphore: Python warns of it when the run ends."""
    code = """
from multiprocessing import resource_tracker, set_start_method
set_start_method("spawn")  # as in workers
resource_tracker.register = lambda *name: print("registered", *name)
from a2d.progress import silence_libraries
silence_libraries()
from tqdm.contrib.concurrent import thread_map
print(thread_map(abs, [-1], disable=True))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[1]\n", result.stderr
