"""Runs on Ray have the results of runs without it, also when nodes die."""

import os
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console
from test_pipeline import command, corpus, outputs, run, settings  # noqa: F401

from a2d import UserError
from a2d.runs.engines import count_workers
from a2d.runs.planning import plan_run
from a2d.runs.ray_tasks import Setup, run_task
from a2d.runs.ray_workers import RECORDS
from a2d.runs.recipe import load_recipe
from a2d.runs.settings import ComputeSettings

ray = pytest.importorskip("ray", reason="Ray is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils")

METHODS = [
    "methods=[{method: seqkd+kd, student_start: teacher}]",
    "teacher.cache=true",
    "export.quantizations=[int8]",
    *(
        f"{place}.{setting}"
        for place in ("training", "teacher.training")
        for setting in ("gradient_accumulation_steps=2", "max_tokens=128")
    ),
]
MOMENTS = ["models/teacher.partial/checkpoints/*", "models/*seed1.partial/checkpoints/*"]
"""Files whose existence shows that a model is being trained."""
TWO = ["compute.gpus_per_training=2"]
SIXTY_FOUR = [
    "compute.gpus_per_training=64",
    "training.gradient_accumulation_steps=64",
    "teacher.training.gradient_accumulation_steps=64",
]
LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by the machine's address in its network
RAY = ["compute.engine=ray", "compute.parallel=2"]


def plan(corpus, output, *overrides):  # noqa: F811
    return plan_run(load_recipe("methods", [*settings(corpus), *overrides]), Console(quiet=True))


@pytest.fixture(scope="module", autouse=True)
def niceness():
    """Let Ray's processes have their share of a machine that runs other tests, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def expected(corpus, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("local") / "run"
    run(corpus, folder, *METHODS)
    return outputs(folder)


@pytest.mark.slow
def test_a_cluster_of_this_machine(corpus, tmp_path, expected):  # noqa: F811
    run(corpus, tmp_path / "run", *METHODS, *RAY)
    assert outputs(tmp_path / "run") == expected
    assert not ray.is_initialized()


@pytest.mark.full
@pytest.mark.slow
def test_nodes_that_die(corpus, tmp_path, expected):  # noqa: F811
    """Of three nodes one dies twice while two train a model. No hand is laid on the run."""
    folder = tmp_path / "run"
    place = {"node_ip_address": LOOPBACK, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **place})
    try:
        cluster.add_node(num_cpus=1, **place)
        mortal = cluster.add_node(num_cpus=1, **place)
        address = f"compute.address={cluster.address}"
        process = subprocess.Popen(
            [*command(corpus, folder), *METHODS, *RAY, *TWO, address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for moment in MOMENTS:
            while not any(folder.glob(moment)) and process.poll() is None:
                time.sleep(0.03)
            assert process.poll() is None, process.stdout.read()
            cluster.remove_node(mortal, allow_graceful=False)
            mortal = cluster.add_node(num_cpus=1, **place)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
    finally:
        cluster.shutdown()
    assert without_devices(outputs(folder)) == without_devices(expected)
    assert not (folder / RECORDS).exists()


def without_devices(outputs):
    """Leave out what names the number of a training's processes."""
    files, scores = outputs
    return files, [{k: v for k, v in row.items() if k != "device"} for row in scores]


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], TWO])
def test_errors_of_tasks_are_those_of_a_machine(corpus, tmp_path, processes):  # noqa: F811
    settings = [*METHODS, *RAY, *processes, "teacher.training.learning_rate=1e6"]
    with pytest.raises(UserError, match=r"^teacher: .*diverged"):
        run(corpus, tmp_path / "run", *settings)


@pytest.mark.full
@pytest.mark.slow
def test_a_cluster_too_small_for_a_training(corpus, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match=r"gpus_per_training is 64, and the Ray cluster has room"):
        run(corpus, tmp_path / "run", *SIXTY_FOUR, *RAY)


@pytest.mark.full
@pytest.mark.slow
def test_a_relative_folder(corpus, tmp_path, monkeypatch, expected):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    run(corpus, "run", *METHODS, *RAY, *TWO)
    assert without_devices(outputs(tmp_path / "run")) == without_devices(expected)


def test_a_folder_that_a_machine_does_not_see(tmp_path):
    setup = Setup(1, tmp_path / "elsewhere", tmp_path / "absent/run.log", {}, None)
    with pytest.raises(UserError, match="choose an --output that all machines see"):
        run_task(setup, print, ())


@pytest.mark.slow
@pytest.mark.parametrize("carry_out", [run, plan])
def test_a_cluster_that_is_not_there(carry_out, corpus, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("a2d.runs.run.read_splits", lambda recipe: 1 / 0)  # it takes long
    with pytest.raises(UserError, match=r"compute\.address '127\.0\.0\.1:1' cannot be reached"):
        carry_out(corpus, tmp_path / "run", *RAY, "compute.address=127.0.0.1:1")


@pytest.mark.full
@pytest.mark.slow
def test_a_token_is_used(tmp_path):
    program = (
        "from a2d.runs.ray_tasks import import_ray; import os; import_ray(); print(os.environ)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"}
    environment["HOME"] = str(tmp_path)
    (tmp_path / ".ray").mkdir()
    for token in (False, True):
        if token:
            (tmp_path / ".ray/auth_token").touch()
        text = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
        assert ("'RAY_AUTH_MODE': 'token'" in text) == token


def test_more_gpus_than_there_are(monkeypatch):
    settings = ComputeSettings(gpus_per_training=3)
    assert count_workers(settings) == 1  # without GPUs, it is the number of processes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="this machine has 2 GPUs"):
        count_workers(settings)
    assert count_workers(ComputeSettings(gpus_per_training=2, parallel=2)) == 2


def test_addresses():
    with pytest.raises(UserError, match=r"set compute\.engine to ray"):
        load_recipe("methods", ["compute.address=auto"])
    with pytest.raises(UserError, match="start the command on a machine of the cluster"):
        load_recipe("methods", [*RAY, "compute.address=ray://head:10001"])
