"""Workers: tasks here or in other processes, their events, errors, logs, cores and cards."""

import logging
import os
import signal
import subprocess
import time
import weakref
from types import SimpleNamespace

import pytest
import torch

from a2d import UserError
from a2d.progress import Event
from a2d.runs import workers
from a2d.runs.workers import Workers, _card


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tell(name, report):
    """Where it runs."""
    report(Event(name, 1, 2))
    logging.getLogger("a2d.test").info("told by %s", name)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), torch.get_num_threads()


def meet(folder, mine, other, report):
    """Where it runs; waits until the other task runs too."""
    (folder / mine).touch()
    wait_for((folder / other).exists)
    return tell(mine, report)


def start_a_process(folder, mine, other, report):
    """Start a process that sleeps, and end it whatever comes."""
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (folder / "sleeper").write_text(str(process.pid))
        meet(folder, mine, other, report)
    finally:
        process.kill()
        process.wait()


def fail(report):
    raise UserError("this is wrong: mend it.")


def leave(path, report):
    path.touch()


class TestOne:
    def test_works_where_the_task_is_submitted(self, tmp_path):
        events = []
        with Workers(1, tmp_path / "log", events.append) as pool:
            future = pool.submit(tell, "a")
            assert events == [Event("a", 1, 2)]
        assert future.done()
        assert future.result()[0] == os.getpid()

    def test_raises_errors_at_once(self, tmp_path):
        with Workers(1, tmp_path / "log", print) as pool, pytest.raises(UserError, match="mend"):
            pool.submit(fail)


def vanish(report):
    os._exit(1)


def use(pool, folder):
    """Fill and end a pool of two with an error; what came of its tasks is told beforehand."""
    met = [pool.submit(meet, folder, *names) for names in (("a", "b"), ("b", "a"))]
    found = SimpleNamespace(places=[future.result() for future in met])
    found.error = pool.submit(fail).exception()
    found.afterwards = pool.submit(tell, "c").result()
    # Both are kept busy, one with a process of its own.
    for task, name in ((meet, "x"), (start_a_process, "y")):
        pool.submit(task, folder, name, "end")
    wait_for(lambda: (folder / "x").exists() and (folder / "y").exists())
    found.waiting = [pool.submit(leave, folder / f"left{number}") for number in range(20)]
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What came of tasks for two workers, whose processes start but once."""
    folder, events = tmp_path_factory.mktemp("two"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_card", lambda number: f"card{number}")
        patch.setattr(torch, "get_num_threads", lambda: 6)
        try:
            with Workers(2, folder / "run.log", events.append) as pool:
                found = use(pool, folder)
                raise found.error
        except UserError:
            found.folder, found.events = folder, events
            return found


@pytest.mark.slow
def test_a_killed_process_is_told(tmp_path):
    with (
        pytest.raises(UserError, match=r"a process was killed.*lower compute\.parallel"),
        Workers(2, tmp_path / "log", print) as pool,
    ):
        pool.submit(vanish).result()


def end_in_a_finaliser(report):
    """Be asked to end while a finaliser runs, where Python drops exceptions."""

    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    time.sleep(600)
    return reference


@pytest.mark.slow
def test_a_request_to_end_is_not_lost_in_a_finaliser(tmp_path, capfd):
    with (
        pytest.raises(UserError, match="a process was killed"),
        Workers(2, tmp_path / "log", print) as pool,
    ):
        pool.submit(end_in_a_finaliser).result(timeout=120)
    assert "Exception ignored" not in capfd.readouterr().err


@pytest.mark.slow
class TestTwo:
    def test_work_at_the_same_time_in_processes_of_their_own(self, two):
        pids = {pid for pid, _, _ in two.places}
        assert len(pids) == 2
        assert os.getpid() not in pids

    def test_have_a_card_each_and_share_the_cores(self, two):
        assert {card for _, card, _ in two.places} == {"card0", "card1"}
        assert {threads for _, _, threads in two.places} == {3}

    def test_tell_their_parent_every_event(self, two):
        assert sorted(two.events) == [Event(name, 1, 2) for name in "abc"]

    def test_log_to_the_file_of_the_run(self, two):
        lines = (two.folder / "run.log").read_text().splitlines()
        told = [line.partition(" INFO ")[2] for line in lines]
        assert sorted(told) == [f"told by {name}" for name in "abc"]

    def test_pass_errors_on_and_go_on(self, two):
        assert isinstance(two.error, UserError)
        assert str(two.error) == "this is wrong: mend it."
        assert two.afterwards[0] in {pid for pid, _, _ in two.places}

    def test_do_not_begin_what_an_error_made_useless(self, two):
        assert all(future.done() for future in two.waiting)
        assert two.waiting[-1].cancelled()
        for number, future in enumerate(two.waiting):
            assert not (two.folder / f"left{number}").exists() or not future.cancelled()

    def test_end_with_what_they_started(self, two):
        pids = [pid for pid, _, _ in two.places]
        for pid in [*pids, int((two.folder / "sleeper").read_text())]:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


class TestCards:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)

    def cards(self, count):
        return [_card(number) for number in range(count)]

    def test_are_dealt_in_turn(self, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert self.cards(7) == ["0", "1", "2", "0", "1", "2", "0"]

    @pytest.mark.parametrize("visible", ["5", "2,0", "7,1,3", "GPU-8932f937,MIG-1-2"])
    def test_are_those_that_the_user_allows_by_the_names_they_have(self, monkeypatch, visible):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        names = visible.split(",")
        assert self.cards(len(names) * 2) == names * 2

    def test_are_none_without_any(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        for visible in ("", "0,1"):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
            assert self.cards(2) == [None, None]
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert self.cards(2) == [None, None]
