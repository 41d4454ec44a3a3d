"""A training in two processes: same results as in one, also after a kill; errors arrive."""

import logging
import os
import signal
import subprocess
import time

import pytest
from safetensors.torch import load_file
from test_pipeline import command, corpus, run  # noqa: F401

from a2d import UserError
from a2d.progress import Event, log_to
from a2d.runs.processes import call_in_processes
from a2d.runs.recipe import load_recipe

METHODS = [
    "methods=[a2d]",
    "training.gradient_accumulation_steps=2",
    "training.max_tokens=128",
    "export.quantizations=[]",
]


def rank():
    return int(os.environ["RANK"])


def greet(name, report):
    logging.getLogger("a2d.greeting").info("hello from %s", name)
    report(Event(name, rank() + 1, 2))


def fail(report):
    if rank() == 1:
        raise UserError("the second process refuses.")
    time.sleep(600)


def break_off(report):
    if rank() == 1:
        raise ValueError("a defect")
    time.sleep(600)


def vanish(report):
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.mark.slow
class TestCalls:
    def test_the_first_process_reports(self):
        events, records = [], Records()
        with log_to(records):
            call_in_processes(2, greet, "ann", report=events.append)
        assert events == [Event("ann", 1, 2)]
        assert records.texts == ["hello from ann"]

    @pytest.mark.parametrize(
        ("task", "error", "message"),
        [
            pytest.param(fail, UserError, r"^the second process refuses\.", marks=pytest.mark.full),
            pytest.param(break_off, ValueError, "^a defect", marks=pytest.mark.full),
            pytest.param(
                vanish, UserError, "a process of the training was killed", marks=pytest.mark.full
            ),
        ],
    )
    def test_an_error_ends_all_processes(self, task, error, message):
        with pytest.raises(error, match=message):
            call_in_processes(2, task, report=print)


def weights(folder):
    return {
        path.relative_to(folder): load_file(path)
        for path in sorted(folder.glob("models/*/*.safetensors"))
    }


def assert_close(one, two):
    assert one.keys() == two.keys()
    for name, tensors in one.items():
        assert tensors.keys() == two[name].keys()
        for key, tensor in tensors.items():
            assert (tensor - two[name][key]).abs().max() < 1e-5, (name, key)


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):  # noqa: F811
    """Weights of a run whose trainings have one process each."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(corpus, folder, *METHODS, *TEACHER)
    return weights(folder)


TEACHER = ["teacher.training.gradient_accumulation_steps=2", "teacher.training.max_tokens=128"]
TWO = ["compute.gpus_per_training=2"]


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["false", "true"])
def test_two_processes_train_the_same_models(sharded, corpus, tmp_path, alone):  # noqa: F811
    run(corpus, tmp_path / "run", *METHODS, *TEACHER, *TWO, f"teacher.sharded={sharded}")
    assert_close(weights(tmp_path / "run"), alone)


@pytest.mark.full
@pytest.mark.slow
def test_four_processes_train_the_same_models(corpus, tmp_path):  # noqa: F811
    """Sums of four gradients depend on their order, those of two do not.

    A softmax cancels out the bias of keys, whose gradient is therefore nothing but rounding, which
    Adam scales up. These biases differ, and change no output.
    """
    batches = [f"{place}training.gradient_accumulation_steps=4" for place in ("", "teacher.")]
    for count in (1, 4):
        settings = [*METHODS, *TEACHER, *batches, f"compute.gpus_per_training={count}"]
        run(corpus, tmp_path / str(count), *settings)
    assert_close(*(without_key_biases(weights(tmp_path / count)) for count in "41"))
    four, one = (sorted((tmp_path / count).glob("results/test/hypotheses/*")) for count in "41")
    assert [file.read_bytes() for file in four] == [file.read_bytes() for file in one]
    assert len(one) == 2


def without_key_biases(models):
    return {
        name: {key: value for key, value in tensors.items() if not key.endswith("k_proj.bias")}
        for name, tensors in models.items()
    }


@pytest.mark.full
@pytest.mark.slow
def test_one_process_continues_what_two_began(corpus, tmp_path, alone):  # noqa: F811
    folder = tmp_path / "run"
    begin = [*command(corpus, folder), *METHODS, *TEACHER, *TWO]
    process = subprocess.Popen(begin, stdout=subprocess.DEVNULL, start_new_session=True)
    while not any(folder.glob("models/a2d*.partial/checkpoints/*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not any(folder.glob("models/a2d*seed1"))
    run(corpus, folder, *METHODS, *TEACHER)
    assert_close(weights(folder), alone)


@pytest.mark.parametrize("place", ["training", "teacher.training"])
def test_batches_that_cannot_be_shared_are_refused(place):
    others = {"training", "teacher.training"} - {place}
    overrides = [f"{other}.gradient_accumulation_steps=4" for other in others]
    overrides += [f"{place}.gradient_accumulation_steps=3", "compute.gpus_per_training=2"]
    with pytest.raises(UserError, match=rf"set {place}\.gradient_accumulation_steps to a multiple"):
        load_recipe("methods", overrides)
