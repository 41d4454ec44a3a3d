"""Teachers whose weights are divided among processes compute what whole ones do."""

from math import ceil

import pytest
import torch
from test_families import tiny
from torch import distributed
from toys import batch, marian

from a2d import A2DConfig, UserError
from a2d.families import FAMILIES, family_of
from a2d.method.attention import GROUPS
from a2d.progress import Report
from a2d.runs.processes import call_in_processes
from a2d.training.frozen import frozen_teacher, teacher_for
from a2d.training.outputs import Needs, model_outputs

PROCESSES = 2


def compare_families(report: Report) -> None:
    """Compare divided teachers of all families with whole ones."""
    distributed.init_process_group("gloo")
    for family in FAMILIES:
        compare(family, distributed.get_rank())
    distributed.destroy_process_group()


def compare(family: str, rank: int) -> None:
    """Compare a divided teacher with a whole one, on other batches in each process."""
    teacher = tiny(family)  # float64, which is not packed
    copies = [frozen_teacher(teacher, "cpu", sharded=sharded) for sharded in (False, True)]
    for seed in range(2):
        inputs = batch([4, 2, 3], [3, 4, 1 + rank], seed=PROCESSES * seed + rank)
        whole, divided = (model_outputs(copy, inputs, Needs(hidden_states=True)) for copy in copies)
        assert torch.equal(divided.tokens.logits, whole.tokens.logits), family
        for group in GROUPS:
            one, two = (outputs.features.maps[group] for outputs in (whole, divided))
            assert torch.equal(one.tensor, two.tensor), (family, group)
    layers = getattr(copies[1].get_encoder(), family_of(teacher.config).layers)
    for parameter in layers.parameters():
        held, rows = parameter.to_local().numel(), parameter.shape[0]
        assert held <= ceil(rows / PROCESSES) * parameter.numel() / rows, family


@pytest.mark.slow
def test_divided_teachers_compute_the_same():
    call_in_processes(PROCESSES, compare_families, report=print)


def test_one_process_cannot_share(tmp_path):
    settings = A2DConfig(output_dir=str(tmp_path), method="kd", shard_teacher=True)
    with pytest.raises(UserError, match="start the training with torchrun"):
        teacher_for(marian(), marian(), settings)


def test_a_teacher_in_int8_is_not_divided(tmp_path):
    with pytest.raises(UserError, match="int8 cannot be divided"):
        A2DConfig(output_dir=str(tmp_path), shard_teacher=True, teacher_precision="int8")
