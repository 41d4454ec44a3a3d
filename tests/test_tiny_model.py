"""Student and teacher of the authors' code, converted to Marian, behave as in their code."""

from functools import cache

import pytest
import torch
from test_official import KINDS, TOLERANCES, weights
from torch import nn
from toys import assert_close, load_fixture, marian

from a2d.families import Geometry
from a2d.method.attention import GROUPS, enable_capture
from a2d.method.objective import Objective
from a2d.training.distillation import IGNORE_INDEX, Distillation
from a2d.training.outputs import Needs, model_outputs

PADDING, END = 1, 2
GEOMETRIES = {"student": Geometry(2, 2, 4, 4), "teacher": Geometry(3, 3, 8, 8)}
ALIGNMENTS = {
    "encoder.alignment_module.weight": "encoder",
    "decoder.self_alignment_module.weight": "decoder",
    "decoder.cross_alignment_module.weight": "cross",
}
LOSSES = {
    "encoder": "attn_loss",
    "decoder": "decoder_self_attn_loss",
    "cross": "decoder_cross_attn_loss",
}


def array(name):
    return load_fixture("tiny_model.npz")[name]


def weights_of(role):
    fixture = load_fixture("tiny_model.npz")
    return {
        name.removeprefix(f"{role}/"): tensor
        for name, tensor in fixture.items()
        if name.startswith(f"{role}/")
    }


def model(role):
    """Marian with the weights of a fairseq model; the names differ only in a prefix."""
    geometry = GEOMETRIES[role]
    converted = marian(
        *geometry,
        vocabulary=40,
        decoder_vocab_size=44,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=True,
        d_model=64,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=64,
        pad_token_id=PADDING,
        eos_token_id=END,
        decoder_start_token_id=END,  # fairseq starts a translation with </s>
    )
    state = {f"model.{k}": t for k, t in weights_of(role).items() if k not in ALIGNMENTS}
    missing, unexpected = converted.load_state_dict(state, strict=False)
    assert unexpected == []
    assert set(missing) == {
        "final_logits_bias",
        "lm_head.weight",  # tied to the decoder's embeddings
        "model.encoder.embed_positions.weight",
        "model.decoder.embed_positions.weight",
    }
    enable_capture(converted)
    return converted


class FairseqPositions(nn.Module):
    """Position embeddings of one batch with fairseq's numbers of positions.

    The n-th token of a sentence (from 1) takes row n+1 of the table, wherever padding has moved
    it; padding takes row 1, which is zero. Marian numbers columns from 0, padding included.
    """

    def __init__(self, table, is_token):
        super().__init__()
        rows = (is_token.cumsum(1) + 1).masked_fill(~is_token, PADDING)
        self.register_buffer("embeddings", table[rows])

    def forward(self, shape, past_length=0, position_ids=None):
        assert self.embeddings.shape[:2] == shape
        return self.embeddings


def as_in_fairseq(role):
    """Convert a model so that it treats padding in the fixture's batch as fairseq does.

    The official formula reads maps at padding, too. Positions at padding, padded target keys
    (hidden from padded queries, unlike in Marian) and the decoder's input at padding must
    therefore be equal.
    """
    converted = model(role)
    source, decoder_input = array("batch/src_tokens"), array("batch/prev_output_tokens")
    for side, ids in (("encoder", source), ("decoder", decoder_input)):
        positions = FairseqPositions(array("pos_table"), ids != PADDING)
        getattr(converted.model, side).embed_positions = positions

    def feed(module, args, kwargs):
        mask = decoder_input != PADDING
        return args, kwargs | {"decoder_input_ids": decoder_input, "decoder_attention_mask": mask}

    converted.model.register_forward_pre_hook(feed, with_kwargs=True)
    return converted


def batch():
    target, source = array("batch/target"), array("batch/src_tokens")
    return {
        "input_ids": source,
        "attention_mask": (source != PADDING).long(),
        "labels": target.masked_fill(target == PADDING, IGNORE_INDEX),
    }


@cache
def measure(epoch, dtype):
    """A distillation after the backward pass of the official objective, and its terms."""
    teacher = as_in_fairseq("teacher").to(dtype)
    objective = Objective("a2d", "official", 0.5, temperature=1.0, label_smoothing=0.1)
    module = Distillation(as_in_fairseq("student"), objective, teacher.config)
    with torch.no_grad():
        outputs = model_outputs(teacher, batch(), module.needs)
    module.alignment.load_state_dict(
        {
            f"weights.{group}": weights_of("student")[name].flatten(1)
            for name, group in ALIGNMENTS.items()
        }
    )
    terms = module.to(dtype)(**batch(), teacher=outputs)
    weighted = {name: weight * terms[name] for name, weight in weights(epoch).items()}
    sum(weighted[group] for group in GROUPS).add(terms["tokens"]).backward()
    return module, terms, weighted


@pytest.mark.parametrize("role", GEOMETRIES)
def test_logits_and_maps(role):
    tokens, features = model_outputs(as_in_fairseq(role), batch(), Needs())
    assert_close(tokens.logits, array(f"{role}_logits"), 1e-5)
    name = "student_stacked_maps" if role == "student" else "teacher_maps"
    for group, kind in KINDS.items():
        assert_close(features.maps[group].stacked(), array(f"{name}_{kind}"), 1e-5)


@pytest.mark.parametrize("role", GEOMETRIES)
def test_logits_and_maps_of_tokens_without_fairseqs_padding(role):
    """Sources padded on the right, as in this package: column c takes row c+2 of the table."""
    converted = model(role)
    for side in (converted.model.encoder, converted.model.decoder):
        side.embed_positions.weight.data[:] = array("pos_table")[2:]
    # A stable sort by "is padding" moves each sentence's padding to its end.
    inputs = batch()
    order = (inputs["attention_mask"] == 0).long().argsort(dim=1, stable=True)
    shifted = {name: inputs[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    tokens, features = model_outputs(converted, inputs | shifted, Needs())

    source, target = shifted["attention_mask"].bool(), inputs["labels"] != IGNORE_INDEX
    logits = array(f"{role}_logits")
    assert_close(tokens.logits[target], logits[target], 1e-5)
    name = "student_stacked_maps" if role == "student" else "teacher_maps"
    for group, kind in KINDS.items():
        reference = array(f"{name}_{kind}")
        queries = source if group == "encoder" else target
        keys = target if group == "decoder" else source
        if group == "encoder":
            index = order[:, None, :, None].expand_as(reference)
            reference = reference.gather(2, index)
        if group != "decoder":
            reference = reference.gather(3, order[:, None, None, :].expand_as(reference))
        of_tokens = (queries[:, None, :, None] & keys[:, None, None, :]).expand_as(reference)
        assert_close(features.maps[group].stacked()[of_tokens], reference[of_tokens], 1e-5)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("epoch", [1, 3])
def test_objective(epoch, dtype):
    _, terms, weighted = measure(epoch, dtype)
    prefix = f"traw_ep{epoch}/"
    assert_close(terms["ce"], array(f"{prefix}golden_loss"), TOLERANCES[dtype])
    assert_close(terms["kd"], array(f"{prefix}kd_loss"), TOLERANCES[dtype])
    for group, name in LOSSES.items():
        assert_close(weighted[group], array(prefix + name), TOLERANCES[dtype])
    assert_close(sum(weighted.values()), array(f"{prefix}loss"), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_gradients(dtype):
    """Compare each gradient's norm and its product with cos(0), cos(1), …"""
    module, _, _ = measure(1, dtype)
    ours = {
        name.removeprefix("student.model."): parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    prefix = "traw_ep1/gradient_digest/"
    names = [n.removeprefix(prefix) for n in load_fixture("tiny_model.npz") if prefix in n]
    assert len(names) == len(ours)
    digests = {name: array(prefix + name) for name in names}
    largest = max(norm for norm, _ in digests.values())
    for name, digest in digests.items():
        group = ALIGNMENTS.get(name)
        key = f"transfer.alignment.weights.{group}" if group else name
        gradient = ours[key].double().flatten()
        waves = torch.arange(gradient.numel(), dtype=torch.float64).cos()
        digest_of_ours = torch.stack([gradient.norm(), gradient @ waves])
        assert (digest_of_ours - digest).abs().max() <= TOLERANCES[dtype] * largest, name
