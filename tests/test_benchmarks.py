"""Benchmarks: every module can be imported, and the steps that they compare compute the same."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from toys import assert_close

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import parts  # noqa: E402
import steps  # noqa: E402
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
    import_module(path.stem)


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
