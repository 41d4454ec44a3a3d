"""Students made from a teacher: with its vocabulary, and its architecture or Marian's."""

from __future__ import annotations

import copy
import re
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from a2d.errors import UserError
from a2d.families import (
    Geometry,
    activation_of,
    attention_width,
    family_of,
    has_two_vocabularies,
    positions_of,
    sizes_of,
)
from a2d.models.decoding import inherited_settings
from a2d.models.loading import new_model

Start = Literal["teacher", "random", "marian"]
Rule = Literal["spread", "first", "last"]

RULES = ("spread", "first", "last")
"""Rules for the teacher's layers that a student starts from.

`spread`: evenly spaced layers with the first and the last among them, as in Shleifer & Rush 2020
("Pre-trained Summarization Distillation", section 3.1). A single layer is the last one
(docs/schedule.md has the measurement). `first`, `last`: the first or the last layers."""

_AT_RANDOM = "or start it at random (a2d distill: --start random; recipes: student_start: random)"


def student_of(
    teacher: PreTrainedModel,
    *,
    encoder_layers: int | None = None,
    decoder_layers: int | None = None,
    heads: int | None = None,
    width: int | None = None,
    feed_forward: int | None = None,
    decoder_heads: int | None = None,
    decoder_feed_forward: int | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    activation_dropout: float | None = None,
    start: Start = "teacher",
    rule: Rule = "spread",
) -> PreTrainedModel:
    """Make a student with the teacher's vocabulary.

    Args:
        teacher: the model to learn from. It is not changed.
        encoder_layers, decoder_layers, heads, width, feed_forward: the student's sizes; None: the
            teacher's.
        dropout, attention_dropout, activation_dropout: rates of dropout; None: the teacher's.
        decoder_heads, decoder_feed_forward: sizes of the decoder; None: `heads`, `feed_forward`.
        start: `teacher` copies embeddings and layers (`copy_layers`), which needs the teacher's
            widths. `random` initialises as transformers does for the teacher's family. `marian` is
            random too, in the Marian class for any teacher (`a2d.models.loading.new_model`).
        rule: which layers are copied, one of `RULES`.

    Returns:
        The student in float32, on the CPU.

    Raises:
        UserError: the family is not supported, heads do not divide the width, or a student of this
            shape cannot start from the teacher's weights.

    Example:
        >>> from a2d.models.loading import load_model
        >>> student_of(load_model("opus-mt-de-en"), decoder_layers=2)  # doctest: +SKIP
    """
    sizes: dict[str, float | None] = {
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "heads": heads,
        "width": width,
        "feed_forward": feed_forward,
        "decoder_heads": decoder_heads,
        "decoder_feed_forward": decoder_feed_forward,
        "dropout": dropout,
        "attention_dropout": attention_dropout,
        "activation_dropout": activation_dropout,
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    if start == "marian":
        return _marian(teacher, given)
    config = student_config(teacher.config, **given)
    student = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    student.generation_config = inherited_settings(teacher.generation_config)
    if start == "teacher":
        copy_layers(teacher, student, rule)
    return student


def _marian(teacher: PreTrainedModel, sizes: dict[str, Any]) -> PreTrainedModel:
    """Make a new Marian model with the teacher's generation settings, and its sizes by default."""
    if has_two_vocabularies(teacher.config):
        raise UserError(
            "a new Marian student has one vocabulary for source and target, and the teacher has "
            "two: start from the teacher's layers."
        )
    positions = positions_of(teacher.config) or 512
    theirs = sizes_of(teacher.config)
    for size in ("heads", "feed_forward"):
        if size in sizes:
            theirs.pop(f"decoder_{size}", None)
    shape = theirs | sizes
    student = new_model(teacher.config, **shape, max_positions=positions)
    never = student.generation_config.bad_words_ids
    student.generation_config = inherited_settings(teacher.generation_config)
    student.generation_config.bad_words_ids = never
    return student


def student_config(teacher: Any, **sizes: float) -> Any:
    """The teacher's configuration with other sizes.

    Args:
        teacher: its configuration, which is not changed.
        sizes: named as in `student_of`.

    Raises:
        UserError: as `student_of`.
    """
    family = family_of(teacher)
    config = copy.deepcopy(teacher)
    ratio = attention_width(config) / sizes_of(config)["width"]
    for size, value in sizes.items():
        settings = family.sizes.get(size, ())
        if size.startswith("decoder_") and not settings:
            raise UserError(f"a {family.model_type} model has one size for both: leave {size} out.")
        for setting in settings:
            setattr(config, setting, value)
    shape = Geometry.of(config)
    if shape.decoder_layers > shape.encoder_layers and not family.deeper_decoder:
        raise UserError(
            f"a {family.model_type} model needs at least as many encoder layers as decoder "
            f"layers to generate, not {shape.encoder_layers}x{shape.decoder_layers}: give it "
            "more encoder layers, or start as marian."
        )
    width = round(ratio * sizes_of(config)["width"])
    for heads in (shape.encoder_heads, shape.decoder_heads):
        if width % heads:
            raise UserError(f"width {width} cannot be split into {heads} heads.")
        if family.head_width is not None:
            setattr(config, family.head_width, width // heads)
    return config


def copy_layers(teacher: PreTrainedModel, student: PreTrainedModel, rule: Rule = "spread") -> None:
    """Copy a teacher's embeddings and some of its layers into a student.

    The numbers of heads may differ: projections are copied whole, and the student cuts them into
    its own heads.

    Args:
        teacher: a model of the student's family.
        student: the model that gets the weights.
        rule: which layers are copied, one of `RULES`.

    Raises:
        UserError: the student has more layers than the teacher, or other widths or activations.
    """
    family = family_of(student.config)
    ours, theirs = (activation_of(m.config) for m in (student, teacher))
    if ours != theirs:
        raise UserError(
            f"a student with activation {ours!r} cannot start from a teacher with {theirs!r}: "
            f"give it the teacher's, {_AT_RANDOM}."
        )
    depths = {}
    shapes = [Geometry.of(m.config) for m in (student, teacher)]
    for stack in ("encoder", "decoder"):
        count, available = (shape.layers(stack) for shape in shapes)
        if count > available:
            raise UserError(
                f"a student with {count} {stack} layers cannot start from a teacher with "
                f"{available}: give it fewer, {_AT_RANDOM}."
            )
        depths[stack] = chosen_layers(count, available, rule)
    layer = re.compile(rf"(encoder|decoder)\.{re.escape(family.layers)}\.(\d+)\.")

    def of_teacher(match: re.Match[str]) -> str:
        return f"{match[1]}.{family.layers}.{depths[match[1]][int(match[2])]}."

    weights = teacher.state_dict()
    state = student.state_dict()
    for name, own in state.items():
        weight = weights.get(layer.sub(of_teacher, name), weights.get(name))
        if weight is not None and family.head_bias and name.endswith(family.head_bias):
            weight = _of_heads(weight, own.shape[1])
        if weight is None or weight.shape != own.shape:
            raise UserError(
                f"the student cannot start from the teacher: {name} differs in shape; give the "
                f"student the teacher's width and feed_forward, {_AT_RANDOM}."
            )
        state[name] = weight
    student.load_state_dict(state)


def chosen_layers(count: int, available: int, rule: Rule = "spread") -> list[int]:
    """Choose the layers that a student starts from.

    Args:
        count: the student's layers.
        available: the teacher's layers.
        rule: one of `RULES`.

    Returns:
        Indices of the teacher's layers, in order, counted from 0.

    Example:
        >>> chosen_layers(3, 6), chosen_layers(3, 6, "first"), chosen_layers(3, 6, "last")
        ([0, 2, 5], [0, 1, 2], [3, 4, 5])
        >>> chosen_layers(1, 6)
        [5]
    """
    if rule == "first":
        return list(range(count))
    if rule == "last" or count == 1:  # the output layer reads the last layer
        return list(range(available - count, available))
    chosen: list[int] = torch.linspace(0, available - 1, count).round().int().tolist()
    return chosen


def _of_heads(bias: Tensor, heads: int) -> Tensor:
    """Adapt a bias (distances, heads) to another number of heads.

    Heads that are cut in pieces keep their bias; heads that are joined get the mean of theirs.
    """
    own = bias.shape[1]
    if heads % own == 0:
        return bias.repeat_interleave(heads // own, dim=1)
    if own % heads == 0:
        joined: Tensor = bias.unflatten(1, (heads, own // heads)).mean(-1)
        return joined
    raise UserError(
        f"a student with {heads} heads cannot start from a teacher with {own} and a bias for "
        "each: give it a multiple or a divisor of that."
    )
