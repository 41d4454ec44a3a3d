"""Two processes take the same steps as one process that accumulates two batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("distributed_training.py")


@pytest.mark.slow
def test_two_processes_equal_accumulation(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    single = [sys.executable, str(SCRIPT), str(tmp_path / "1"), "2"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    double = [*launch, str(SCRIPT), str(tmp_path / "2"), "1"]
    for command in (single, double):
        subprocess.run(command, check=True, env=environment)
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
