"""A training in two processes of which one is killed continues as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from campaign import FULL

SCRIPT = Path(__file__).with_name("two_processes.py")
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TIMES = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


def train(folder, killed_after):
    """Train in two processes; return the exit code."""
    command = [*LAUNCH, str(SCRIPT), str(folder), str(killed_after)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, env=environment).returncode


def history(folder):
    """The log of a finished training, without times."""
    state = json.loads((folder / "checkpoint-7/trainer_state.json").read_text())
    return [
        {key: value for key, value in entry.items() if key not in TIMES}
        for entry in state["log_history"]
    ]


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="FAULTS=full: it starts six processes")
def test_a_killed_process(tmp_path, ledger):
    """The training has bfloat16, dropout, accumulated gradients and a cache of the teacher."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert train(undisturbed, killed_after=0) == 0
    assert train(killed, killed_after=5) != 0
    assert [path.name for path in killed.glob("checkpoint-*")] == ["checkpoint-3"]
    assert train(killed, killed_after=0) == 0
    equal = history(undisturbed) == history(killed) and all(
        (undisturbed / name).read_bytes() == (killed / name).read_bytes()
        for name in ("model.safetensors", "alignment.safetensors")
    )
    outcome = "as undisturbed" if equal else "results changed"
    ledger.record("kills and signals", outcome, "SIGKILL of the second process")
