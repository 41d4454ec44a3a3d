"""Training in two processes: equal to accumulation in one, and resumed exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("distributed_training.py")
RESUMPTION = Path(__file__).with_name("distributed_resumption.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.slow
def test_two_processes_equal_accumulation(tmp_path):
    single = [sys.executable, str(SCRIPT), str(tmp_path / "1"), "2"]
    double = [*LAUNCH, str(SCRIPT), str(tmp_path / "2"), "1"]
    for command in (single, double):
        subprocess.run(command, check=True, env=ENVIRONMENT)
    for name in ("model.safetensors", "alignment.safetensors"):
        one, two = (load_file(tmp_path / number / name) for number in "12")
        assert one.keys() == two.keys()
        for key in one:
            assert (one[key] - two[key]).abs().max() < 1e-6, key
    logs = [
        json.loads((tmp_path / number / "trainer_state.json").read_text())["log_history"]
        for number in "12"
    ]
    for first, second in zip(*logs, strict=True):
        for key in ("loss", "ce", "kd", "encoder", "decoder", "cross"):
            if key in first:
                assert first[key] == pytest.approx(second[key], rel=1e-5)


@pytest.mark.slow
def test_a_killed_training_in_two_processes_is_resumed_exactly(tmp_path):
    """It has bfloat16, dropout, gradient accumulation and a cache of the teacher."""

    def train(name, killed_after=0):
        arguments = [str(RESUMPTION), str(tmp_path / name), str(killed_after)]
        return subprocess.run([*LAUNCH, *arguments], check=False, env=ENVIRONMENT).returncode

    assert train("undisturbed") == 0
    assert train("killed", killed_after=5) != 0
    checkpoints = sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-3"]
    assert train("killed") == 0
    for name in ("model.safetensors", "alignment.safetensors"):
        undisturbed, resumed = (
            (tmp_path / folder / name).read_bytes() for folder in ("undisturbed", "killed")
        )
        assert undisturbed == resumed, name
    logs = [
        json.loads((tmp_path / folder / "checkpoint-7/trainer_state.json").read_text())
        for folder in ("undisturbed", "killed")
    ]
    timed = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    first, second = (
        [
            {key: value for key, value in entry.items() if key not in timed}
            for entry in log["log_history"]
        ]
        for log in logs
    )
    assert first == second
