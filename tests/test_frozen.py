"""Frozen teachers: packed, they say what they said, and those that were given stay whole."""

import platform
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import every_family, tiny
from torch import nn
from torch.nn import functional
from toys import batch, marian

from a2d.method.attention import GROUPS, enable_capture
from a2d.training.frozen import frozen_teacher, pack
from a2d.training.signals import Needs, model_signals

CPU = torch.device("cpu")
packed_here = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="nothing is packed here"
)


class OneLayer(nn.Module):
    """As much of a model as `pack` asks for."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def get_output_embeddings(self):
        return None


@packed_here
@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_packed_layers_are_the_layers(shape, sizes, bias, transposed, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(*sizes, bias=bias).requires_grad_(False)
    model = OneLayer(layer)
    pack(model)
    assert not isinstance(model.layer, nn.Linear)
    states = torch.randn(*shape, 1, sizes[0])
    if transposed and len(shape) > 1:
        states = states.transpose(0, 1)
    exact = functional.linear(
        states.double(), layer.weight.double(), layer.bias.double() if bias else None
    )
    torch.testing.assert_close(model.layer(states).double(), exact, rtol=1e-5, atol=1e-5)


def test_what_is_not_float32_or_bf16_stays():
    layer = nn.Linear(3, 3).double()
    model = OneLayer(layer)
    pack(model)
    assert model.layer is layer


@every_family
@pytest.mark.parametrize(
    ("dtype", "reference", "tolerance"),
    [(torch.float32, torch.float64, 1e-5), (torch.bfloat16, torch.bfloat16, 1e-2)],
)
def test_teachers_of_every_family_say_the_same(family, dtype, reference, tolerance):
    inputs, teacher = batch([5, 7, 2], [6, 3, 4]), tiny(family).float()
    plain = deepcopy(teacher).to(reference)
    enable_capture(plain)
    with torch.no_grad():
        expected, wanted = model_signals(plain, inputs, Needs())
        packed = frozen_teacher(teacher, CPU, bf16=dtype == torch.bfloat16)
        found, features = model_signals(packed, inputs, Needs())
    assert found.hidden.dtype == dtype
    pairs = [(features.maps[group].stacked(), wanted.maps[group].stacked()) for group in GROUPS]
    for ours, theirs in [(found.logits, expected.logits), *pairs]:
        assert (ours.double() - theirs.double()).norm() <= tolerance * theirs.double().norm()


@packed_here
@pytest.mark.parametrize("bf16", [False, True])
def test_the_teacher_that_was_given_stays_as_it_was(bf16):
    teacher = marian().train()
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    packed = frozen_teacher(teacher, CPU, bf16=bf16)
    layers = [module for module in packed.modules() if type(module) is nn.Linear]
    assert layers == [packed.get_output_embeddings()]
    assert not any(parameter.requires_grad for parameter in packed.parameters())
    assert not packed.training
    assert teacher.training
    assert teacher.config._attn_implementation != packed.config._attn_implementation
    assert teacher.state_dict().keys() == before.keys()
    for name, weight in teacher.state_dict().items():
        assert torch.equal(weight, before[name])
    teacher(**batch([4], [3])).loss.backward()


@pytest.mark.parametrize("bf16", [False, True])
def test_copies_of_copies_and_their_weights_are_the_same(bf16):
    teacher = marian()
    packed = frozen_teacher(teacher, CPU, bf16=bf16)
    again = frozen_teacher(packed, CPU, bf16=bf16)
    expected = teacher.to(torch.bfloat16 if bf16 else torch.float32).state_dict()
    for copied in (packed, again):
        found = copied.state_dict()
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            assert torch.equal(weight, expected[name])


def test_float32_copies_share_what_is_not_packed():
    teacher = marian()
    packed = frozen_teacher(teacher, CPU)
    ours, theirs = (model.get_input_embeddings().weight for model in (packed, teacher))
    assert ours.data_ptr() == theirs.data_ptr()
    assert packed.get_output_embeddings().weight is ours
