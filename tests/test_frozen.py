"""Frozen teachers: packing changes neither outputs nor the original model."""

import platform
import sys
from copy import deepcopy

import bitsandbytes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import every_family, tiny
from torch import nn
from torch.nn import functional
from toys import batch, marian

from a2d import UserError
from a2d.method.attention import GROUPS, enable_capture
from a2d.training.frozen import OUTLIER, frozen_teacher, pack, quantise_layers
from a2d.training.outputs import Needs, model_outputs

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="nothing is packed here"
)


class OneLayer(nn.Module):
    """A model with the interface that `pack` needs."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def get_output_embeddings(self):
        return None


@needs_packing
@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_packed_layers_equal_linear_layers(shape, sizes, bias, transposed, seed):
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


def test_other_dtypes_are_not_packed():
    layer = nn.Linear(3, 3).double()
    model = OneLayer(layer)
    pack(model)
    assert model.layer is layer


@every_family
@pytest.mark.parametrize(
    ("dtype", "reference", "tolerance"),
    [(torch.float32, torch.float64, 1e-5), (torch.bfloat16, torch.bfloat16, 1e-2)],
)
def test_outputs_of_every_family_are_the_same(family, dtype, reference, tolerance):
    inputs, teacher = batch([5, 7, 2], [6, 3, 4]), tiny(family).float()
    plain = deepcopy(teacher).to(reference)
    enable_capture(plain)
    with torch.no_grad():
        expected, expected_features = model_outputs(plain, inputs, Needs())
        frozen = frozen_teacher(teacher, CPU, bf16=dtype == torch.bfloat16)
        prediction, features = model_outputs(frozen, inputs, Needs())
    assert prediction.hidden.dtype == dtype
    pairs = [
        (features.maps[group].stacked(), expected_features.maps[group].stacked())
        for group in GROUPS
    ]
    for value, expected_value in [(prediction.logits, expected.logits), *pairs]:
        assert (
            value.double() - expected_value.double()
        ).norm() <= tolerance * expected_value.double().norm()


@needs_packing
@pytest.mark.parametrize("bf16", [False, True])
def test_all_layers_but_the_output_are_packed(bf16):
    if bf16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU multiplies no bfloat16")
    frozen = frozen_teacher(marian(), CPU, bf16=bf16)
    layers = [module for module in frozen.modules() if type(module) is nn.Linear]
    assert layers == [frozen.get_output_embeddings()]


@pytest.mark.parametrize("bf16", [False, True])
def test_the_teacher_is_not_changed(bf16):
    teacher = marian().train()
    initial = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    frozen = frozen_teacher(teacher, CPU, bf16=bf16)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not frozen.training
    assert teacher.training
    assert teacher.config._attn_implementation != frozen.config._attn_implementation
    assert teacher.state_dict().keys() == initial.keys()
    for name, weight in teacher.state_dict().items():
        assert torch.equal(weight, initial[name])
    teacher(**batch([4], [3])).loss.backward()


@every_family
@pytest.mark.parametrize("bf16", [False, True])
def test_a_teacher_in_8_bits_computes_nearly_the_same(family, bf16):
    inputs, teacher = batch([5, 7, 2], [6, 3, 4]), tiny(family).float()
    initial = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    exact, frozen = frozen_teacher(teacher, CPU), frozen_teacher(teacher, CPU, bf16=bf16, int8=True)
    quantised = [m for m in frozen.modules() if isinstance(m, bitsandbytes.nn.Linear8bitLt)]
    linear = [m for m in teacher.modules() if isinstance(m, nn.Linear)]
    assert len(quantised) == len(linear) - 1  # the output layer stays
    assert {layer.weight.dtype for layer in quantised} == {torch.int8}
    with torch.no_grad():
        (prediction, features), (expected, expected_features) = (
            model_outputs(each, inputs, Needs(hidden_states=True)) for each in (frozen, exact)
        )
    pairs = [
        (features.maps[group].stacked(), expected_features.maps[group].stacked())
        for group in GROUPS
    ]
    # With 8 bits, so few random channels with such large weights lose more than real ones do.
    for value, other in [(prediction.logits, expected.logits), *pairs]:
        assert functional.cosine_similarity(value.float().flatten(), other.flatten(), 0) > 0.9
        assert not torch.equal(value.float(), other)
    assert all(torch.equal(weight, initial[n]) for n, weight in teacher.state_dict().items())


@given(st.integers(1, 6), st.integers(1, 60), st.integers(1, 60), st.booleans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_errors_of_layers_in_8_bits_have_a_bound(rows, inputs, outputs, bias, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    model = OneLayer(layer)
    quantise_layers(model)
    states = torch.randn(rows, inputs).half().float()
    states[0, 0] = 20.0  # an outlier, which is not rounded to 8 bits
    values, weight = states.double(), layer.weight.double()
    exact = functional.linear(values, weight, layer.bias.double() if bias else None)
    result = model.layer.to("cpu")(states).double()
    inner = values * ~(values.abs() >= OUTLIER).any(0)

    def steps(matrix):  # of 8 bits: 127 of them reach the largest value of a row
        return (matrix.abs().amax(1, keepdim=True) / 127).expand_as(matrix)

    bound = values.abs() @ steps(weight).T + steps(inner) @ weight.abs().T
    assert ((result - exact).abs() <= bound + 2e-3 * (1 + exact.abs())).all()


def test_8_bits_need_bitsandbytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"bitsandbytes is not installed: .*\[bitsandbytes\]"):
        frozen_teacher(marian(), CPU, int8=True)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_copy_of_a_copy_has_the_same_weights(bf16):
    teacher = marian()
    frozen = frozen_teacher(teacher, CPU, bf16=bf16)
    second = frozen_teacher(frozen, CPU, bf16=bf16)
    expected = teacher.to(torch.bfloat16 if bf16 else torch.float32).state_dict()
    for copy in (frozen, second):
        state = copy.state_dict()
        assert state.keys() == expected.keys()
        for name, weight in state.items():
            assert torch.equal(weight, expected[name])


def test_float32_copies_share_unpacked_weights():
    teacher = marian()
    frozen = frozen_teacher(teacher, CPU)
    weight, teacher_weight = (model.get_input_embeddings().weight for model in (frozen, teacher))
    assert weight.data_ptr() == teacher_weight.data_ptr()
    assert frozen.get_output_embeddings().weight is weight
