"""Export of students to CTranslate2, which translates faster and can quantise weights."""

from __future__ import annotations

from collections.abc import Callable
from os.path import lexists
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from a2d.errors import UserError, first_line
from a2d.families import Geometry, family_of, positions_of
from a2d.files import atomic_folder, seal
from a2d.models.exported import POSITIONS, is_exported, require_ctranslate2
from a2d.models.loading import load_config, load_model
from a2d.models.model_settings import read_generation_config
from a2d.models.search_settings import search_settings
from a2d.models.tokenizer import check_fits, load_tokenizer

Quantization = Literal[
    "float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int16"
]
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
"""Data types of the weights of an export."""
SMALLEST_FIRST: tuple[Quantization, ...] = ("int8", "float32")
"""Data types that are tried in turn. int16 is not among them: CTranslate2 computes such models in 8
bits on CPUs without its int16 products, such as AMD's."""


def export(
    model: str | Path,
    output: Path,
    quantization: str = "float32",
    check: Callable[[Path], None] | None = None,
) -> None:
    """Convert a student to a CTranslate2 model, saved with its tokenizer.

    Args:
        model: folder or hub name of the student.
        output: folder to write, which must not exist.
        quantization: data type of the weights, one of `QUANTIZATIONS`.
        check: called with the folder of the new model; an exception from it leaves no `output`.

    Raises:
        UserError: CTranslate2 is missing or cannot convert the model, `output` exists, or `model`
            is not a model or is already exported.
    """
    if is_exported(Path(model)):
        raise UserError(
            f"{model} is already exported: translate with it (`a2d translate`), or give the folder "
            "that it was exported from."
        )
    require_ctranslate2()
    from a2d.models.conversion import convert

    if quantization not in QUANTIZATIONS:
        raise UserError(
            f"unknown quantization {quantization!r}: give one of {', '.join(QUANTIZATIONS)}."
        )
    if lexists(output):  # includes broken links
        raise UserError(f"{output} exists already: choose another folder, or move this one away.")
    network = load_model(model)
    tokenizer = load_tokenizer(model)
    check_fits(tokenizer, network.config, model)
    reason = conversion_obstacle(network.config, tokenizer)
    if reason is not None:
        raise UserError(f"{model} {reason}: translate with PyTorch.")
    with atomic_folder(output) as partial:
        try:
            convert(network, tokenizer, partial, quantization)
        except (KeyError, ValueError, RuntimeError) as error:  # e.g. for unknown activations
            raise UserError(
                f"CTranslate2 cannot convert {model}, a model of type "
                f"{network.config.model_type!r} with a {type(tokenizer).__name__} "
                f"({first_line(error)}): translate with PyTorch."
            ) from error
        tokenizer.init_kwargs[POSITIONS] = positions_of(network.config)
        tokenizer.save_pretrained(partial)
        network.generation_config.save_pretrained(partial)
        seal(partial, without=(GENERATION_CONFIG_NAME,))  # which users may change
        if check is not None:
            check(partial)


def can_replace_transformers(model: str | None) -> bool:
    """Check whether CTranslate2 is installed, converts a model, and searches as transformers does.

    CTranslate2 searches differently for models with repetition penalties, because it computes these
    differently.

    Args:
        model: folder or hub name; None for a model of `a2d.models.loading.new_model`.
    """
    if export_obstacle(model) is not None:
        return False
    if model is None:
        return True
    settings = search_settings(read_generation_config(model))
    return settings.repetition_penalty in (None, 1) and not settings.no_repeat_ngram_size


def export_obstacle(model: str | None) -> str | None:
    """Describe why a model cannot be exported; None if it can.

    Args:
        model: folder or hub name; None for a model of `a2d.models.loading.new_model`.
    """
    try:
        require_ctranslate2()
    except UserError as error:
        return str(error).rstrip(".")
    if model is None:
        return None
    reason = conversion_obstacle(load_config(model), load_tokenizer(model))
    return None if reason is None else f"{model} {reason}"


def conversion_obstacle(config: Any, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Reason why CTranslate2 cannot convert a model, as a predicate; None if it can."""
    if family_of(config).ctranslate2_loader is None:
        return f"is a model of type {config.model_type!r}, which CTranslate2 does not support"
    if getattr(tokenizer, "separate_vocabs", False):
        return "has different vocabularies for source and target, which cannot be exported"
    shape = Geometry.of(config)
    if shape.encoder_heads != shape.decoder_heads:
        return (
            f"has {shape.encoder_heads} heads in the encoder and {shape.decoder_heads} in the "
            "decoder, and CTranslate2 supports only one number"
        )
    return None
