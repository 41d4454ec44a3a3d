"""Workers: tasks in this or other processes, their events, errors, logs, cores and GPUs."""

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
from a2d.runs.workers import Workers, _gpus


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def report_resources(name, report):
    """Return process, GPU and number of threads."""
    report(Event(name, 1, 2))
    logging.getLogger("a2d.test").info("reported by %s", name)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), torch.get_num_threads()


def meet(folder, mine, other, report):
    """Call `report_resources` while the other task is running."""
    (folder / mine).touch()
    wait_for((folder / other).exists)
    return report_resources(mine, report)


def start_a_process(folder, mine, other, report):
    """Call `meet` with a running child process, which ends by itself."""
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
    def test_works_in_the_process_that_submits(self, tmp_path):
        events = []
        with Workers(1, tmp_path / "log", events.append) as pool:
            future = pool.submit(report_resources, "a")
            assert events == [Event("a", 1, 2)]
        assert future.done()
        assert future.result()[0] == os.getpid()

    def test_raises_errors_at_once(self, tmp_path):
        with Workers(1, tmp_path / "log", print) as pool, pytest.raises(UserError, match="mend"):
            pool.submit(fail)


def vanish(report):
    os._exit(1)


def use(pool, folder):
    """Submit tasks to a pool of two workers that an error ends; return their outcome so far."""
    futures = [pool.submit(meet, folder, *names) for names in (("a", "b"), ("b", "a"))]
    outcome = SimpleNamespace(places=[future.result() for future in futures])
    outcome.error = pool.submit(fail).exception()
    outcome.afterwards = pool.submit(report_resources, "c").result()
    # Both workers are busy, one of them with a child process.
    for task, name in ((meet, "x"), (start_a_process, "y")):
        pool.submit(task, folder, name, "end")
    wait_for(lambda: (folder / "x").exists() and (folder / "y").exists())
    outcome.waiting = [pool.submit(leave, folder / f"left{number}") for number in range(20)]
    return outcome


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Outcome of the tasks of two workers, whose processes start only once."""
    folder, events = tmp_path_factory.mktemp("two"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_gpus", lambda number, count: f"gpu{number}")
        patch.setattr(torch, "get_num_threads", lambda: 6)
        try:
            with Workers(2, folder / "run.log", events.append) as pool:
                outcome = use(pool, folder)
                raise outcome.error
        except UserError:
            outcome.folder, outcome.events = folder, events
            return outcome


@pytest.mark.slow
def test_a_killed_process_is_reported(tmp_path):
    with (
        pytest.raises(UserError, match=r"a process was killed.*lower compute\.parallel"),
        Workers(2, tmp_path / "log", print) as pool,
    ):
        pool.submit(vanish).result()


def end_in_a_finaliser(report):
    """Receive SIGTERM while a finaliser runs, where Python drops exceptions."""

    class Finalised:
        pass

    instance = Finalised()
    reference = weakref.ref(instance, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del instance
    time.sleep(600)
    return reference


@pytest.mark.slow
def test_sigterm_in_a_finaliser_ends_the_task(tmp_path, capfd):
    with (
        pytest.raises(UserError, match="a process was killed"),
        Workers(2, tmp_path / "log", print) as pool,
    ):
        pool.submit(end_in_a_finaliser).result(timeout=120)
    assert "Exception ignored" not in capfd.readouterr().err


@pytest.mark.slow
class TestTwo:
    def test_work_at_the_same_time_in_two_processes(self, two):
        pids = {pid for pid, _, _ in two.places}
        assert len(pids) == 2
        assert os.getpid() not in pids

    def test_have_a_gpu_each_and_share_the_cores(self, two):
        assert {gpu for _, gpu, _ in two.places} == {"gpu0", "gpu1"}
        assert {threads for _, _, threads in two.places} == {3}

    def test_send_every_event_to_their_parent(self, two):
        assert sorted(two.events) == [Event(name, 1, 2) for name in "abc"]

    def test_log_to_the_file_of_the_run(self, two):
        lines = (two.folder / "run.log").read_text().splitlines()
        messages = [line.partition(" INFO ")[2] for line in lines if " ERROR " not in line]
        assert sorted(messages) == [f"reported by {name}" for name in "abc"]

    def test_pass_errors_on_and_continue(self, two):
        assert isinstance(two.error, UserError)
        assert str(two.error) == "this is wrong: mend it."
        assert two.afterwards[0] in {pid for pid, _, _ in two.places}

    def test_do_not_begin_tasks_after_an_error(self, two):
        assert all(future.done() for future in two.waiting)
        assert two.waiting[-1].cancelled()
        for number, future in enumerate(two.waiting):
            assert not (two.folder / f"left{number}").exists() or not future.cancelled()

    def test_end_with_their_children(self, two):
        pids = [pid for pid, _, _ in two.places]
        for pid in [*pids, int((two.folder / "sleeper").read_text())]:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


class TestGPUs:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)

    def gpus(self, count):
        return [_gpus(number, 1) for number in range(count)]

    def test_are_assigned_in_turn(self, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert self.gpus(7) == ["0", "1", "2", "0", "1", "2", "0"]

    def test_are_several_for_each_training(self, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert [_gpus(number, 2) for number in range(3)] == ["0,1", "2,0", "1,2"]
        assert _gpus(0, 5) == "0,1,2"

    @pytest.mark.parametrize("visible", ["5", "2,0", "7,1,3", "GPU-8932f937,MIG-1-2"])
    def test_are_the_visible_ones_by_name(self, monkeypatch, visible):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        names = visible.split(",")
        assert self.gpus(len(names) * 2) == names * 2

    def test_are_none_on_a_machine_without_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        for visible in ("", "0,1"):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
            assert self.gpus(2) == [None, None]
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert self.gpus(2) == [None, None]
