"""Benchmarks: every module can be imported, and the steps that they compare compute the same."""

import json
import os
import subprocess
import sys
import tarfile
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
from toys import assert_close

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS.parent / "tools")]

import bench  # noqa: E402
import gpu  # noqa: E402
import parts  # noqa: E402
import speed  # noqa: E402
import steps  # noqa: E402
import tables  # noqa: E402
import teams  # noqa: E402

TINY = steps.Setting((1, 1, 2, 32, 64), (1, 1, 4, 32, 64), 100, 6, 64, dropout=0.0)

EQUAL_STEPS = (("student", "our student"), ("vanilla kd", "our kd"), ("naive a2d", "a2d"))
"""Steps of plain PyTorch, and steps of this package that do the same."""


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Losses of three updates of each step, two batches in turn."""
    data = steps.batches(TINY, 2)

    def three_losses(make, name):
        step = make(TINY, data, tmp_path_factory.mktemp("step"))
        return torch.stack([step(data[number % 2]) for number in range(3)])

    return {name: three_losses(make, name) for name, make in steps.STEPS.items()}


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_every_module_can_be_imported(path):
    pytest.importorskip("ctranslate2" if path.stem == "decoding" else "torch")
    assert import_module(path.stem).__file__ == str(path)


@pytest.mark.parametrize(("plain", "package"), EQUAL_STEPS)
def test_a_step_of_this_package_has_the_loss_of_the_plain_one(losses, plain, package):
    assert_close(losses[package], losses[plain], 1e-5)


def test_the_attention_loss_is_part_of_the_steps_with_attention_transfer(losses):
    assert (losses["a2d"] > losses["our kd"] + 1e-3).all()
    assert (losses["naive a2d"] > losses["vanilla kd"] + 1e-3).all()


@pytest.mark.parametrize("name", ["a2d, bf16 teacher", "a2d, cached"])
def test_steps_with_a_coarser_teacher_have_almost_the_same_loss(losses, name):
    assert_close(losses[name], losses["a2d"], 1e-2)


def test_attention_losses_agree_on_the_same_maps(tmp_path):
    data = steps.batches(TINY, 1)
    values = []
    for name in ("naive attention loss", "attention loss"):
        torch.manual_seed(0)
        values.append(teams.MEMBERS[name](TINY, data, tmp_path)(data[0]))
    assert_close(values[1], values[0], 1e-5)


def test_shares_of_a_step_by_kind_of_work(tmp_path):
    data = steps.batches(TINY, 1)
    shares = parts.shares_by_kind(steps.STEPS["vanilla kd"](TINY, data, tmp_path), data)
    assert set(shares) == set(parts.KINDS)
    assert 0 < shares["matrix products"] < 1


def test_a_profile_names_the_longest_operations():
    factors = torch.randn(2, 600, 600)

    def three_products(batch):
        return sum(factors[0].mm(factors[1]).sum() for _ in range(3))

    profile = parts.kernel_profile(three_products, {"labels": factors}, 100.0)
    assert profile["seconds in kernels"] + profile["seconds waiting"] == pytest.approx(100)
    assert profile["kernel launches"] >= 6
    first = profile["longest kernels"][0]
    assert (first["name"], first["launches"]) == ("aten::mm", 3)


@pytest.mark.full
@pytest.mark.slow
def test_the_benchmark_writes_its_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PAPER", TINY)
    monkeypatch.setattr(bench, "AUTHORS", {64: (2.0, 1.0)})
    monkeypatch.setattr(bench, "applies", lambda name, setting: True)
    monkeypatch.setattr(parts, "PAIRS", 40)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(
        bench, "settings", lambda full: [TINY._replace(bf16=bf16) for bf16 in (False, True)]
    )
    monkeypatch.setattr(sys, "argv", ["bench.py", "--busy", "--rounds", "1", "--name", "tiny"])
    bench.main()
    figures = json.loads((tmp_path / "tiny.json").read_text())
    views = {view: speed.VIEWS[view](figures) for view in ("ratios", "seconds", "profile")}
    for name in teams.MEMBERS:
        assert f"| {name} |" in views["seconds"]
    assert "| authors' code ÷ a2d |" in views["ratios"]
    assert "| matrix products |" in views["profile"]
    others = speed.VIEWS["others"](figures)
    assert "| peak: a2d ÷ vanilla kd |" in others
    assert "| epoch: a2d ÷ kd |" in others
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


class TestGpu:
    """The prepared programme for a machine with a GPU."""

    @pytest.fixture
    def no_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    @pytest.mark.parametrize("options", [[], ["--smoke"], ["--device", "cpu"]])
    def test_without_a_gpu_it_refuses_in_one_sentence(self, tmp_path, no_gpu, options):
        with pytest.raises(SystemExit, match="--smoke") as error:
            gpu.main(["--out", str(tmp_path / "out"), *options])
        assert str(error.value).count(".") == 1
        assert not (tmp_path / "out").exists()

    def test_a_missing_package_disables_only_the_parts_that_need_it(
        self, tmp_path, monkeypatch, capsys
    ):
        needs = {"tests": gpu.Part(0.1, ("no_such_module",)), "steps": gpu.Part(0.1)}
        monkeypatch.setattr(gpu, "PARTS", needs)
        monkeypatch.setattr(gpu, "PACKAGES", ())
        monkeypatch.setattr(gpu, "command_of", lambda *_: ["-c", "print('ran')"])
        run_here(tmp_path, "tests", "steps")
        assert statuses(tmp_path) == {
            "tests": "skipped: Python has no module no_such_module",
            "steps": "ok",
        }
        assert "no_such_module" in (tmp_path / "tests.log").read_text()
        assert (tmp_path / "steps.log").read_text() == "ran\n"

    def test_a_part_is_ended_with_its_children_and_keeps_what_it_wrote(self, tmp_path):
        program = (
            "import subprocess, sys\n"
            "sleep = 'import time; time.sleep(600)'\n"
            "child = subprocess.Popen([sys.executable, '-c', sleep])\n"
            "print(child.pid)\n"
            "child.wait()\n"
        )
        log = tmp_path / "log"
        status = gpu.run_command(["-c", program], log, 10.0, "cpu")
        assert status.startswith("stopped")
        child = int(log.read_text().split()[0])
        time.sleep(0.5)
        state = Path(f"/proc/{child}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"

    def test_large_files_and_checkpoints_are_not_packed_but_named(self, tmp_path):
        run = tmp_path / "run"
        (run / "models/checkpoints").mkdir(parents=True)
        (run / "models/history.json").write_text("{}")
        (run / "models/checkpoints/optimizer.pt").write_text("state")
        (run / "models/small.safetensors").write_bytes(os.urandom(10 * 2**20))
        (run / "models/large.safetensors").write_bytes(os.urandom(11 * 2**20))
        dropped = gpu.pack(run, tmp_path / "training.tar.gz")
        assert dropped == [
            "models/checkpoints/optimizer.pt (state of a training)",
            "models/large.safetensors (11.0 MiB)",
        ]
        with tarfile.open(tmp_path / "training.tar.gz") as archive:
            names = set(archive.getnames())
        assert names == {"training/models/history.json", "training/models/small.safetensors"}

    @pytest.mark.full
    @pytest.mark.slow
    def test_the_smoke_run(self, tmp_path):
        smoke(tmp_path, "--minutes", "30")
        assert statuses(tmp_path) == dict.fromkeys(("tests", "steps", "training"), "ok")
        files = [path.name for path in tmp_path.iterdir()]
        assert len(files) <= 8
        summary = json.loads((tmp_path / "summary.json").read_text())
        named = [file for part in summary["parts"].values() for file in part["files"]]
        assert sorted(files) == sorted([*named, "summary.json"])
        kernels = json.loads((tmp_path / "steps.kernels.json").read_text())
        assert [set(profiles) for profiles in kernels.values()] == [{"our kd", "a2d"}]
        with tarfile.open(tmp_path / "training.tar.gz") as archive:
            scores = json.load(archive.extractfile("training/results/test/scores.json"))
        methods = {row["name"].split("-")[0] for row in scores}
        assert {"teacher", "baseline", "kd", "uniform", "tinybert", "a2d", "paper"} <= methods

    @pytest.mark.full
    @pytest.mark.slow
    def test_a_failing_part_does_not_end_the_others(self, tmp_path):
        smoke(tmp_path, "--parts", "training", "steps", "--recipe", "missing.yaml")
        training, steps_status = statuses(tmp_path).values()
        assert training.startswith("failed: ")
        assert "missing.yaml" in training
        assert steps_status == "ok"


def run_here(folder, *names):
    gpu.main(["--out", str(folder), "--device", "cpu", "--smoke", "--parts", *names])


def smoke(folder, *options):
    command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--smoke"]
    command += ["--parallel", "1", "--out", folder, *options]
    subprocess.run(command, check=True)


def statuses(folder):
    parts_of_run = json.loads((folder / "summary.json").read_text())["parts"]
    return {name: record["status"] for name, record in parts_of_run.items()}
