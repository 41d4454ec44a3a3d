"""Making of students with the teacher's vocabulary, in the teacher's architecture or Marian's."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from datasets import Dataset
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
from a2d.models.activations import sample_text
from a2d.models.loading import check_layers, new_model
from a2d.models.pruning import Progress, have_same_widths, ignore_progress, prune
from a2d.models.search_settings import inherited_settings

Start = Literal["teacher", "random", "marian"]
_DEPTHS = ("encoder_layers", "decoder_layers")

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
    sample: Dataset | None = None,
    progress: Progress = ignore_progress,
) -> PreTrainedModel:
    """Make a student with the teacher's vocabulary.

    Args:
        teacher: the teacher, which is not changed.
        encoder_layers, decoder_layers, heads, width, feed_forward: the student's sizes; None: the
            teacher's.
        dropout, attention_dropout, activation_dropout: rates of dropout; None: the teacher's.
        decoder_heads, decoder_feed_forward: sizes of the decoder; None: `heads`, `feed_forward`.
        start: `teacher` starts from the teacher's layers, or parts of them, and fits them to its
            activations (`a2d.models.pruning.prune`). `random` uses transformers' initialisation of
            the teacher's family. `marian` is a random model in the Marian class for any teacher
            (`a2d.models.loading.new_model`).
        sample: tokenised pairs (`a2d.text.batching.tokenise`), by which a student that starts from
            the teacher chooses what it keeps. Without them, a student of the teacher's widths and
            heads gets copies of layers as they are (`copy_layers`); others are refused.
        progress: called while modules are fitted, with the numbers of fitted ones and of all.

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
    changes = {name: size for name, size in sizes.items() if size is not None}
    if start == "marian":
        return _marian(teacher, changes)
    config = student_config(teacher.config, **changes)
    student = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    student.generation_config = inherited_settings(teacher.generation_config)
    if start == "teacher":
        _start_from(teacher, student, sample, progress)
    return student


def _start_from(
    teacher: PreTrainedModel, student: PreTrainedModel, sample: Dataset | None, progress: Progress
) -> None:
    """Copy a teacher's layers, or the parts of them that a student keeps.

    Raises:
        UserError: the student is wider or deeper than its teacher, or has another activation, or
            it has other widths or heads and there is no sample.
    """
    check_start(student.config, teacher.config)
    projections = family_of(student.config).projections
    if have_same_widths(student, teacher):
        shapes = [sizes_of(model.config) for model in (student, teacher)]
        same = all(shapes[0][size] == shapes[1][size] for size in _DEPTHS)
        if same or sample is None or not projections:
            return copy_layers(teacher, student)
    if not projections:
        raise UserError(
            f"models of type {student.config.model_type!r} do not name their linear modules, so "
            "that a student cannot start from a teacher of other widths or heads: fill in "
            f"`projections` in the record of the family, {_AT_RANDOM}."
        )
    if sample is None:
        raise UserError(
            "a student with other widths or heads than its teacher needs sample text, to choose "
            "what it keeps: give sample=tokenise(pairs, tokenizer)."
        )
    text = sample_text(sample, teacher)
    prune(teacher, student, name_layers(teacher, student), text, progress)


def check_start(student: Any, teacher: Any) -> None:
    """Check that a student can start from its teacher, by their configurations.

    Raises:
        UserError: the student is wider or deeper than its teacher, or has another activation.
    """
    if activation_of(student) != activation_of(teacher):
        raise UserError(
            f"a student with activation {activation_of(student)!r} cannot start from a teacher "
            f"with {activation_of(teacher)!r}: use the teacher's activation, {_AT_RANDOM}."
        )
    for stack in ("encoder", "decoder"):
        count, available = (Geometry.of(config).layers(stack) for config in (student, teacher))
        if count > available:
            raise UserError(
                f"a student with {count} {stack} layers cannot start from a teacher with "
                f"{available}: use fewer layers, {_AT_RANDOM}."
            )
    width, available = (sizes_of(config)["width"] for config in (student, teacher))
    if width > available:
        raise UserError(
            f"a student of width {width} cannot start from a teacher of width {available}: use a "
            f"smaller width, {_AT_RANDOM}."
        )


def _marian(teacher: PreTrainedModel, sizes: dict[str, Any]) -> PreTrainedModel:
    """Make a new Marian model with the teacher's generation settings and, by default, its sizes."""
    if has_two_vocabularies(teacher.config):
        raise UserError(
            "a new Marian student has one vocabulary for source and target, and the teacher has "
            "two: start from the teacher's layers (a2d distill: --start teacher)."
        )
    positions = positions_of(teacher.config) or 512
    teacher_sizes = sizes_of(teacher.config)
    for size in ("heads", "feed_forward"):
        if size in sizes:
            teacher_sizes.pop(f"decoder_{size}", None)
    student = new_model(teacher.config, **teacher_sizes | sizes, max_positions=positions)
    banned_tokens = student.generation_config.bad_words_ids
    student.generation_config = inherited_settings(teacher.generation_config)
    student.generation_config.bad_words_ids = banned_tokens
    return student


def student_config(teacher: Any, **sizes: float) -> Any:
    """Copy a teacher's configuration with other sizes.

    Args:
        teacher: configuration of the teacher, which is not changed.
        sizes: sizes to change, by the names of `student_of`.

    Raises:
        UserError: as `student_of`.
    """
    family = family_of(teacher)
    config = copy.deepcopy(teacher)
    ratio = attention_width(config) / sizes_of(config)["width"]
    for size, value in sizes.items():
        settings = family.sizes.get(size, ())
        if size.startswith("decoder_") and not settings:
            raise UserError(
                f"a {family.model_type} model has one size for encoder and decoder: remove {size}."
            )
        for setting in settings:
            setattr(config, setting, value)
    shape = Geometry.of(config)
    if shape.decoder_layers > shape.encoder_layers and not family.deeper_decoder:
        raise UserError(
            f"a {family.model_type} model needs at least as many encoder layers as decoder "
            f"layers to generate, not {shape.encoder_layers}x{shape.decoder_layers}: use more "
            "encoder layers, or start: marian (a2d distill: --start marian)."
        )
    width = sizes_of(config)["width"]
    for heads in (shape.encoder_heads, shape.decoder_heads):
        if round(ratio * width) % heads:
            widest = max(width, sizes_of(teacher)["width"])
            fitting = [w for w in range(1, widest + 1) if round(ratio * w) % heads == 0]
            near = sorted(sorted(fitting, key=lambda w: abs(w - width))[:2])
            widths = f"a width of {' or '.join(map(str, near))}, or " if near else ""
            raise UserError(
                f"width {width} cannot be split into {heads} heads: choose {widths}another number "
                "of heads."
            )
        if family.head_width is not None:
            setattr(config, family.head_width, round(ratio * width) // heads)
    return config


def copy_layers(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    """Copy a teacher's embeddings and some of its layers into a student of the same widths.

    Args:
        teacher: a model of the student's family.
        student: the model to copy weights into, in place.

    Raises:
        UserError: the student has other widths, more layers or another activation.
    """
    check_start(student.config, teacher.config)
    teacher_name = name_layers(teacher, student)
    weights = teacher.state_dict()
    state = student.state_dict()
    for name, student_weight in state.items():
        weight = weights.get(teacher_name(name), weights.get(name))
        if weight is None or weight.shape != student_weight.shape:
            raise UserError(
                f"the student cannot copy the teacher's layers: the shapes of {name} differ."
            )
        state[name] = weight
    student.load_state_dict(state)


def name_layers(teacher: PreTrainedModel, student: PreTrainedModel) -> Callable[[str], str]:
    """Choose the teacher's layers for a student.

    Returns:
        Function from the names of a student's weights to those of its teacher's.

    Raises:
        UserError: the record of the family does not say where the layers are.
    """
    check_layers(teacher)
    family = family_of(student.config)
    shapes = [Geometry.of(m.config) for m in (student, teacher)]
    layers = {
        stack: choose_layers(*(shape.layers(stack) for shape in shapes))
        for stack in ("encoder", "decoder")
    }
    layer = re.compile(rf"(encoder|decoder)\.{re.escape(family.layers)}\.(\d+)\.")

    def teacher_layer(match: re.Match[str]) -> str:
        return f"{match[1]}.{family.layers}.{layers[match[1]][int(match[2])]}."

    return lambda name: layer.sub(teacher_layer, name)


def choose_layers(count: int, available: int) -> list[int]:
    """Choose the teacher's layers for a student: evenly spaced, the first and the last among them.

    This is the choice of Shleifer & Rush 2020 ("Pre-trained Summarization Distillation",
    section 3.1), except that a single layer is the last one: the output layer was trained with it.
    Other choices lost several BLEU (docs/schedule.md).

    Args:
        count: number of the student's layers.
        available: number of the teacher's layers.

    Returns:
        Indices of the chosen layers, ascending, counted from 0.

    Example:
        >>> choose_layers(3, 6), choose_layers(1, 6)
        ([0, 2, 5], [5])
    """
    if count == 1:
        return [available - 1]
    indices: list[int] = torch.linspace(0, available - 1, count).round().int().tolist()
    return indices
