"""Students made from a teacher: its vocabulary, its architecture or Marian's, its weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from a2d.errors import UserError
from a2d.method.attention import Geometry, check_family
from a2d.models.decoding import inherited_settings, positions_of
from a2d.models.loading import new_model

Start = Literal["teacher", "random", "marian"]
Rule = Literal["spread", "first", "last"]

RULES = ("spread", "first", "last")
"""Which of the teacher's layers a student starts from: evenly spaced ones, the first and the last
among them, as Shleifer & Rush 2020 ("Pre-trained Summarization Distillation", section 3.1) do; or
the first ones, or the last. A single layer is the last one unless the first ones are asked for
(docs/schedule.md has the measurement)."""

_LAYER = re.compile(r"(encoder|decoder)\.(layers|block)\.(\d+)\.")
_AT_RANDOM = "or start it at random (a2d distill: --start random; recipes: student_start: random)"
_BIAS = "relative_attention_bias.weight"
"""T5's bias by distance, one number a head; where it is not every layer's, the first one's."""


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
    """A student of the teacher's vocabulary and, unless asked otherwise, family.

    Args:
        teacher: the model to learn from; it stays as it is.
        encoder_layers, decoder_layers, heads, width, feed_forward, dropout, attention_dropout,
            activation_dropout: what differs from the teacher; None: as it has it.
        decoder_heads, decoder_feed_forward: where the decoder's are not `heads`, `feed_forward`.
        start: `teacher` copies embeddings and layers (`copy_layers`), which needs the teacher's
            widths; `random` initialises as the family does; `marian` is random too, and a plain
            Transformer in the Marian class (`a2d.models.loading.new_model`), whatever the family.
        rule: which layers are copied, one of `RULES`.

    Returns:
        The student in float32, on the processor.

    Raises:
        UserError: a family whose attention is not verified, a width that heads do not divide, or a
            shape that cannot start from the teacher's weights.

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
    """A new Marian model of the teacher's sizes where none are given, and its rules of decoding."""
    if not getattr(teacher.config, "share_encoder_decoder_embeddings", True):
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


def sizes_of(config: Any) -> dict[str, Any]:
    """A model's sizes by their names in `student_of`."""
    return {size: getattr(config, names[0]) for size, names in _names(config).items() if names}


def student_config(teacher: Any, **sizes: float) -> Any:
    """The teacher's configuration with other sizes, named as in `student_of`.

    Raises:
        UserError: as there.
    """
    check_family(teacher)
    config = copy.deepcopy(teacher)
    names = _names(config)
    inner = None if names is _BART_NAMES else config.num_heads * config.d_kv / config.d_model
    for size, value in sizes.items():
        if size.startswith("decoder_") and not names[size]:
            raise UserError(f"a {config.model_type} model has one size for both: leave {size} out.")
        for name in names[size]:
            setattr(config, name, value)
    if inner is not None and config.num_decoder_layers > config.num_layers:
        # transformers makes as many caches as there are layers in the encoder.
        raise UserError(
            f"a {config.model_type} model needs at least as many encoder layers as decoder "
            f"layers to generate, not {config.num_layers}x{config.num_decoder_layers}: give it "
            "more encoder layers, or start as marian."
        )
    heads = {Geometry.of(config).encoder_heads, Geometry.of(config).decoder_heads}
    for count in heads:
        whole = config.d_model if inner is None else round(inner * config.d_model)
        if whole % count:
            raise UserError(f"width {whole} cannot be split into {count} heads.")
        if inner is not None:
            config.d_kv = whole // count
    if hasattr(config, "num_hidden_layers") and names is _BART_NAMES:
        config.num_hidden_layers = config.encoder_layers
    return config


_BART_NAMES: dict[str, Sequence[str]] = {
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "width": ("d_model",),
    "feed_forward": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "decoder_heads": ("decoder_attention_heads",),
    "decoder_feed_forward": ("decoder_ffn_dim",),
    "dropout": ("dropout",),
    "attention_dropout": ("attention_dropout",),
    "activation_dropout": ("activation_dropout",),
}
_T5_NAMES: dict[str, Sequence[str]] = {
    "encoder_layers": ("num_layers",),
    "decoder_layers": ("num_decoder_layers",),
    "heads": ("num_heads",),
    "width": ("d_model",),
    "feed_forward": ("d_ff",),
    "decoder_heads": (),
    "decoder_feed_forward": (),
    "dropout": ("dropout_rate",),  # these have one for everything
    "attention_dropout": (),
    "activation_dropout": (),
}


def _names(config: Any) -> dict[str, Sequence[str]]:
    """What a family calls its sizes."""
    return _BART_NAMES if hasattr(config, "encoder_layers") else _T5_NAMES


def copy_layers(teacher: PreTrainedModel, student: PreTrainedModel, rule: Rule = "spread") -> None:
    """Start a student from its teacher's embeddings and layers.

    Heads need not be equally many: projections are copied whole, and cut into the student's heads.

    Args:
        teacher: of the student's family.
        student: gets the weights.
        rule: which layers, one of `RULES`.

    Raises:
        UserError: the student is deeper than the teacher, or of other widths or activations.
    """
    ours, theirs = (_activation(m.config) for m in (student, teacher))
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
    given = teacher.state_dict()
    state = student.state_dict()
    for name, own in state.items():
        counterpart = _LAYER.sub(
            lambda found: f"{found[1]}.{found[2]}.{depths[found[1]][int(found[3])]}.", name
        )
        weight = given.get(counterpart, given.get(name))
        if weight is not None and name.endswith(_BIAS):
            weight = _of_heads(weight, own.shape[1])
        if weight is None or weight.shape != own.shape:
            raise UserError(
                f"the student cannot start from the teacher: {name} differs in shape; give the "
                f"student the teacher's width and feed_forward, {_AT_RANDOM}."
            )
        state[name] = weight
    student.load_state_dict(state)


def chosen_layers(count: int, available: int, rule: Rule = "spread") -> list[int]:
    """Which of so many layers a student with `count` starts from, counted from 0.

    Example:
        >>> chosen_layers(3, 6), chosen_layers(3, 6, "first"), chosen_layers(3, 6, "last")
        ([0, 2, 5], [0, 1, 2], [3, 4, 5])
        >>> chosen_layers(1, 6)
        [5]
    """
    if rule == "first":
        return list(range(count))
    if rule == "last" or count == 1:  # the output layer reads the last one
        return list(range(available - count, available))
    chosen: list[int] = torch.linspace(0, available - 1, count).round().int().tolist()
    return chosen


def _of_heads(bias: Tensor, heads: int) -> Tensor:
    """A bias (distances, heads) for heads that were cut in pieces or joined."""
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


def _activation(config: Any) -> str:
    name: str = getattr(config, "activation_function", None) or config.feed_forward_proj
    return name
