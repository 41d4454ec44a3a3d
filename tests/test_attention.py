"""Captured maps equal those of transformers' `eager` attention, and nothing else changes."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import assert_close, batch, marian
from transformers import MvpConfig, MvpForConditionalGeneration

from a2d.errors import UserError
from a2d.method.attention import (
    GROUPS,
    AttentionCapture,
    attention_forward,
    capture_attention,
    enable_capture,
)
from a2d.training.outputs import Needs, model_outputs

FIELDS = {
    "encoder": "encoder_attentions",
    "decoder": "decoder_attentions",
    "cross": "cross_attentions",
}


class Case(NamedTuple):
    """Arguments of `marian` and `batch`."""

    layers: tuple[int, int]
    heads: tuple[int, int]
    sources: list[int]
    targets: list[int]
    left: bool
    seed: int


@st.composite
def cases(draw):
    sentences = draw(st.integers(1, 3))
    lengths = st.lists(st.integers(1, 6), min_size=sentences, max_size=sentences)
    heads = st.sampled_from([1, 2, 3, 4, 6])
    return Case(
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        (draw(heads), draw(heads)),
        draw(lengths),
        draw(lengths),
        draw(st.booleans()),
        draw(st.integers(0, 2**16)),
    )


def feed(model, inputs):
    """The keyword arguments of a forward pass on a batch with labels."""
    feed = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    ids = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    return {**feed, "decoder_input_ids": ids, "use_cache": False}


def eager(model, inputs):
    model.set_attn_implementation("eager")
    return model(**feed(model, inputs), output_attentions=True)


def captured(model, inputs):
    """Logits and maps."""
    enable_capture(model)
    tokens, features = model_outputs(model, inputs, Needs())
    return tokens.logits, {group: maps.stacked() for group, maps in features.maps.items()}


def example():
    return batch([4, 6, 2], [5, 2, 4])


@given(cases())
@settings(max_examples=30, deadline=None)
def test_maps_and_logits_equal_eager(case):
    model = marian(*case.layers, *case.heads, seed=case.seed).double()
    inputs = batch(case.sources, case.targets, left=case.left, seed=case.seed)
    with torch.no_grad():
        reference = eager(model, inputs)
        logits, maps = captured(model, inputs)

    assert (logits - reference.logits).abs().max() <= 1e-12 * reference.logits.abs().max()
    assert set(maps) == set(GROUPS)
    for group, layers_and_heads in zip(GROUPS, (0, 1, 1), strict=True):
        layers, heads = case.layers[layers_and_heads], case.heads[layers_and_heads]
        attentions = getattr(reference, FIELDS[group])
        assert maps[group].shape[1] == layers * heads
        for layer in range(layers):
            for head in range(heads):
                channel = maps[group][:, layer * heads + head]
                assert (channel - attentions[layer][:, head]).abs().max() <= 1e-12


@pytest.mark.parametrize("left", [False, True])
def test_rows_are_distributions_over_visible_keys(left):
    inputs = batch([4, 6, 2], [5, 2, 4], left=left)
    _, maps = captured(marian(), inputs)
    for group in GROUPS:
        assert_close(maps[group].sum(-1), torch.ones(maps[group].shape[:3]), 1e-6)
    for group in ("encoder", "cross"):
        keys = inputs["attention_mask"].bool()[:, None, None].expand_as(maps[group])
        assert (maps[group][~keys] == 0).all()
        assert (maps[group][keys] > 0).all()
    future = torch.ones(5, 5).triu(1).bool().expand_as(maps["decoder"])
    assert (maps["decoder"][future] == 0).all()


def outputs_of(modules):
    """Return a list to which hooks add the modules' outputs, call by call."""
    outputs = []
    for module in modules:
        module.register_forward_hook(
            lambda _module, _inputs, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
    return outputs


def test_values_are_those_of_the_last_layers():
    model = marian(2, 3, 2, 3)
    enable_capture(model)
    encoder, decoder = model.model.encoder.layers[-1], model.model.decoder.layers[-1]
    attentions = (encoder.self_attn, decoder.self_attn, decoder.encoder_attn)
    projections = outputs_of(attention.v_proj for attention in attentions)
    _, features = model_outputs(model, example(), Needs())
    for group, heads, projection in zip(GROUPS, (2, 3, 3), projections, strict=True):
        values = features.values[group]
        assert values.shape[1] == heads
        assert torch.equal(values.transpose(1, 2).flatten(2), projection)


def test_hidden_states_are_the_outputs_of_all_layers():
    model = marian(2, 3)
    enable_capture(model)
    stacks = {"encoder": model.model.encoder.layers, "decoder": model.model.decoder.layers}
    outputs = {name: outputs_of(layers) for name, layers in stacks.items()}
    _, features = capture_attention(model, feed(model, example()), hidden_states=True)
    assert features.hidden.keys() == outputs.keys()
    for name, layer_outputs in outputs.items():
        assert len(layer_outputs) == len(stacks[name])
        for states, output in zip(features.hidden[name], layer_outputs, strict=True):
            assert torch.equal(states, output)
    _, features = capture_attention(model, feed(model, example()))
    assert features.hidden == {}


def test_gradients_through_maps_equal_those_through_eager():
    inputs = example()

    def gradients(model, maps):
        torch.manual_seed(1)
        sum((torch.randn(layers.shape) * layers).sum() for layers in maps).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    reference = marian(2, 2, 2, 3)
    output = eager(reference, inputs)
    expected = gradients(
        reference, [torch.cat(getattr(output, FIELDS[group]), dim=1) for group in GROUPS]
    )
    model = marian(2, 2, 2, 3)
    _, maps = captured(model, inputs)
    captured_gradients = gradients(model, [maps[group] for group in GROUPS])

    assert captured_gradients.keys() == expected.keys()
    assert any(
        name.endswith("q_proj.weight") and g.abs().max() > 0
        for name, g in captured_gradients.items()
    )
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (captured_gradients[name] - gradient).abs().max() <= 1e-5 * largest, name


def test_maps_are_captured_before_dropout():
    inputs = example()
    model = marian(attention_dropout=0.5)
    _, undisturbed = captured(model, inputs)
    logits, _ = captured(model, inputs)
    torch.manual_seed(0)
    dropped, maps = captured(model.train(), inputs)

    assert not torch.allclose(dropped, logits)  # dropout is active
    for group in GROUPS:
        assert_close(maps[group].sum(-1), torch.ones(maps[group].shape[:3]), 1e-6)
    first_layer = slice(0, 2)
    assert torch.equal(maps["encoder"][:, first_layer], undisturbed["encoder"][:, first_layer])
    assert torch.equal(maps["decoder"], undisturbed["decoder"])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_capture_logits_equal_sdpa(left, dtype):
    inputs = batch([4, 6, 2], [5, 2, 4], left=left)
    model = marian().to(dtype)
    model.set_attn_implementation("sdpa")
    reference = model_outputs(model, inputs, None).tokens.logits
    enable_capture(model)
    tokens, features = model_outputs(model, inputs, None)
    logits = tokens.logits
    assert features is None
    assert logits.dtype == dtype
    assert_close(logits, reference, 1e-6 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_boolean_masks(dtype):
    """Callers may pass boolean masks: transformers does not convert four-dimensional masks."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8, dtype=dtype).unbind()
    mask = torch.rand(2, 1, 5, 5) < 0.5
    mask[..., 0] = True
    module = torch.nn.Module().eval()
    module.is_causal = False
    output, _ = attention_forward(module, query, key, value, mask)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    assert_close(output, expected.transpose(1, 2), 1e-6 if dtype == torch.float32 else 3e-2)


def test_generation_equals_sdpa():
    inputs = example()
    model = marian()
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 12, "num_beams": 3}
    model.set_attn_implementation("sdpa")
    reference = model.generate(**prompt, **settings)
    enable_capture(model)
    assert torch.equal(model.generate(**prompt, **settings), reference)


def test_maps_are_float32_under_bf16():
    inputs = example()
    _, reference = captured(marian(), inputs)
    _, maps = captured(marian().bfloat16(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        _, autocast = captured(marian(), inputs)
    for group in GROUPS:
        for low in (maps[group], autocast[group]):
            assert low.dtype == torch.float32
            assert (low - reference[group]).abs().max() < 0.1
            assert_close(low.sum(-1), torch.ones(low.shape[:3]), 1e-6)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_gradient_checkpointing_changes_nothing():
    inputs = example()
    gradients = []
    for checkpointing in (False, True):
        model = marian().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        logits, maps = captured(model, inputs)
        assert [maps[group].shape[1] for group in GROUPS] == [4, 2, 2]
        sum(maps[group].square().sum() for group in GROUPS).backward(retain_graph=True)
        logits.square().mean().backward()
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        gradients.append({name: weight.grad for name, weight in weights.items()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_layers_called_again_in_the_backward_pass_are_not_captured():
    model = marian().train()
    enable_capture(model)
    model.gradient_checkpointing_enable()
    capture = AttentionCapture(complete_maps=True)
    output = model(**feed(model, example()), attention_capture=capture)
    first = capture.finish(model.config)
    output.logits.sum().backward()
    second = capture.finish(model.config)
    for group in GROUPS:
        assert torch.equal(first.maps[group].stacked(), second.maps[group].stacked())
        assert first.values[group] is second.values[group]


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_reentrant_checkpointing_is_refused():
    model = marian().train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises((RuntimeError, UserError), match="use_reentrant"):
        captured(model, example())


def test_captures_do_not_mix():
    inputs, other_inputs = example(), batch([3, 3], [2, 4], seed=5)
    model = marian()
    _, first = captured(model, inputs)
    captured(model, other_inputs)
    _, second = captured(model, inputs)
    assert all(torch.equal(first[group], second[group]) for group in GROUPS)


def test_an_unsupported_family_is_refused():
    config = MvpConfig(
        vocab_size=11,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_position_embeddings=16,
    )
    with pytest.raises(UserError, match=r"'mvp'.*marian"):
        enable_capture(MvpForConditionalGeneration(config))


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_layerdrop_is_switched_off(side):
    model = marian(**{f"{side}_layerdrop": 1.0}).train()
    enable_capture(model)
    assert getattr(model.config, f"{side}_layerdrop") == 0
    _, features = model_outputs(model, batch([3], [4]), Needs())
    assert set(features.maps) == set(GROUPS)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_skipped_layer_is_an_error(side):
    model = marian().train()
    enable_capture(model)
    getattr(model.model, side).layerdrop = 1.0
    with pytest.raises(RuntimeError, match=rf"{side} attention maps.*layerdrop"):
        capture_attention(model, feed(model, example()))


def test_capture_needs_a_prepared_model():
    model = marian()
    with pytest.raises(RuntimeError, match="captured 0 encoder attention maps"):
        capture_attention(model, feed(model, example()))
