"""Models from scratch and from a folder, and what must be equal in two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    MarianConfig,
    MarianMTModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from a2d.errors import UserError, first_line
from a2d.method.attention import check_family
from a2d.teachers import model_path


def new_model(
    vocabulary: PreTrainedTokenizerBase | PretrainedConfig,
    *,
    encoder_layers: int,
    decoder_layers: int,
    heads: int,
    width: int,
    feed_forward: int,
    decoder_heads: int | None = None,
    decoder_feed_forward: int | None = None,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
    activation_dropout: float = 0.0,
    activation: str = "relu",
    max_positions: int = 512,
) -> MarianMTModel:
    """A freshly initialised Transformer (Vaswani et al. 2017) in transformers' Marian class.

    Post-norm, sinusoidal positions, one embedding matrix for source, target and output.

    Args:
        vocabulary: a tokenizer, or the configuration of a model, whose tokens the new model has.
        encoder_layers, decoder_layers, heads, width, feed_forward: its size.
        decoder_heads, decoder_feed_forward: those of its decoder; None: as the encoder has them.
        dropout, attention_dropout, activation_dropout: shares of what is dropped in training.
        activation: between the two feed-forward layers.
        max_positions: longest sentence, in tokens.

    Raises:
        UserError: the width cannot be split into that many heads.
    """
    for count in (heads, decoder_heads or heads):
        if width % (2 * count):
            raise UserError(
                f"width {width} cannot be split into {count} heads of an even size: choose a width "
                f"that is a multiple of {2 * count}."
            )
    ids = _special_tokens(vocabulary)
    config = MarianConfig(
        **ids,
        decoder_vocab_size=ids["vocab_size"],
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=decoder_heads or heads,
        encoder_ffn_dim=feed_forward,
        decoder_ffn_dim=decoder_feed_forward or feed_forward,
        dropout=dropout,
        attention_dropout=attention_dropout,
        activation_dropout=activation_dropout,
        activation_function=activation,
        max_position_embeddings=max_positions,
        scale_embedding=True,
        # The usual Transformer initialisation: embeddings of unit variance once scaled by √width,
        # linear layers as Xavier's. The library's 0.02 drowns the tokens in the positions.
        init_std=width**-0.5,
        forced_eos_token_id=None,
        tie_word_embeddings=True,
        share_encoder_decoder_embeddings=True,
    )
    model = MarianMTModel(config)
    _shrink_residual_branches(model)
    # Padding is never a translation's token.
    model.generation_config.bad_words_ids = [[ids["pad_token_id"]]]
    return model


_SPECIAL = ("vocab_size", "pad_token_id", "eos_token_id", "decoder_start_token_id")


def _special_tokens(vocabulary: Any) -> dict[str, int]:
    if isinstance(vocabulary, PretrainedConfig):
        return {name: getattr(vocabulary, name) for name in _SPECIAL}
    padding = vocabulary.pad_token_id
    return dict(
        zip(_SPECIAL, (len(vocabulary), padding, vocabulary.eos_token_id, padding), strict=True)
    )


def load_config(path: str | Path) -> Any:
    """The configuration of a pretrained encoder-decoder in a folder, on the hub, or packaged.

    Raises:
        UserError: no such model, or an unverified family.
    """
    try:
        config = AutoConfig.from_pretrained(model_path(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"no model at {str(path)!r}: give a local folder with a config.json, or a hub name "
            f"while online ({first_line(error)})"
        ) from error
    check_family(config)
    return config


def load_model(path: str | Path) -> PreTrainedModel:
    """Load a pretrained encoder-decoder, in float32.

    Weights are read from safetensors only: a pickle can run code.

    Raises:
        UserError: as `load_config` says, or weights that are missing, do not fit, or are no
            safetensors.
    """
    load_config(path)
    try:
        model, told = AutoModelForSeq2SeqLM.from_pretrained(
            model_path(path), use_safetensors=True, dtype="float32", output_loading_info=True
        )
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} holds no readable safetensors weights: load it once with transformers and "
            f"save_pretrained() it again ({first_line(error)})"
        ) from error
    except RuntimeError as error:  # of shapes
        raise UserError(
            f"the weights in {path} do not fit its config.json: fetch or save both anew "
            f"({first_line(error)})"
        ) from error
    missing = sorted(name for name in told["missing_keys"] if not _computed(model, name))
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of its model's weights ({missing[0]}, …): fetch or save "
            "it anew."
        )
    loaded: PreTrainedModel = model
    return loaded


def _computed(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight is no learned one: releases of Pegasus lack their sinusoidal positions."""
    return "Sinusoidal" in type(model.get_submodule(name.rpartition(".")[0])).__name__


def load_to_run(path: str | Path) -> PreTrainedModel:
    """`load_model`, on the graphics card where there is one."""
    model = load_model(path)
    return model.to("cuda") if torch.cuda.is_available() else model


def check_same_ids(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    """Make sure that two models agree on the size of the vocabulary and the special tokens.

    Raises:
        UserError: they do not.
    """
    for name in _SPECIAL:
        ours, theirs = getattr(student.config, name), getattr(teacher.config, name)
        if ours != theirs:
            raise UserError(
                f"teacher and student vocabularies differ: {name} is {theirs} and {ours}. "
                "Build the student with the teacher's own tokenizer."
            )


def decoder_inputs(model: PreTrainedModel, labels: Tensor) -> Tensor:
    """What the decoder reads when it is to predict `labels` (B, T), -100 at padding."""
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        ids: Tensor = model.prepare_decoder_input_ids_from_labels(labels)
        return ids
    ids = labels.roll(1, dims=1)
    ids[:, 0] = model.config.decoder_start_token_id
    return ids.masked_fill(ids == -100, model.config.pad_token_id)


def freeze_padding_row(model: PreTrainedModel) -> None:
    """Stop a Marian model's padding token's embedding from learning.

    The decoder starts from it, and with tied embeddings the output layer would train it. Inference
    engines take it for zero, as it is in releases and new models.
    """
    if model.config.model_type != "marian":
        return
    padding = model.config.pad_token_id

    def forget_padding(weight: Tensor) -> None:
        assert weight.grad is not None
        weight.grad[padding] = 0

    model.get_input_embeddings().weight.register_post_accumulate_grad_hook(forget_padding)


def _shrink_residual_branches(model: PreTrainedModel, factor: float = 0.1) -> None:
    """Let post-norm layers start near the identity, but for cross-attention.

    Post-norm Transformers depend heavily on their residual branches, which makes them slow to
    start and unstable (Liu et al. 2020, "Understanding the Difficulty of Training Transformers",
    section 4). Cross-attention keeps its full weight: it is what has to be found first, and a
    small corpus yields few updates to find it.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            branch = name.endswith(("out_proj.weight", "fc2.weight"))
            if branch and "encoder_attn" not in name:
                weight.mul_(factor)


def count_parameters(model: PreTrainedModel) -> int:
    """Number of parameters that a saved model holds (sinusoidal position tables are computed)."""
    computed = set(model._keys_to_ignore_on_save or ())
    return sum(p.numel() for name, p in model.named_parameters() if name not in computed)
