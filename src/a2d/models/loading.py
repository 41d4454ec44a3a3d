"""Making, loading and checking of models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    MarianConfig,
    MarianMTModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import ACT2FN

from a2d.errors import UserError, first_line, memory_is_full
from a2d.families import (
    FAMILIES,
    ROLES,
    Family,
    Geometry,
    activation_of,
    family_of,
    has_two_vocabularies,
    positions_of,
    sizes_of,
    uneven_heads,
)
from a2d.models.decoding import check_generates
from a2d.models.folders import read_model, reading, tensor_shapes
from a2d.models.model_settings import empty_model, read_config, read_generation_config
from a2d.models.search_settings import check_search, check_tokens
from a2d.quoting import counted, quoted
from a2d.text.batching import IGNORE_INDEX


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
    """Make a random Transformer (Vaswani et al. 2017) in transformers' Marian class.

    It has post-norm layers, sinusoidal positions, and one embedding matrix for source, target and
    output.

    Args:
        vocabulary: a tokenizer, or the configuration of a model with the same tokens.
        encoder_layers, decoder_layers, heads, width, feed_forward: sizes.
        decoder_heads, decoder_feed_forward: sizes of the decoder; None: the encoder's.
        dropout, attention_dropout, activation_dropout: dropout rates in training.
        activation: activation between the two feed-forward layers.
        max_positions: length of the longest sentence, in tokens.

    Raises:
        UserError: the width cannot be split into that many heads.
    """
    if problem := uneven_heads(width, heads, decoder_heads or heads):
        raise UserError(f"{problem}.")
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
    # No translation contains padding.
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
    """Load the configuration of an encoder-decoder from a folder, the hub, or the package.

    Raises:
        UserError: there is no such model, it asks to run code, its family is not supported, or
            its sizes are not valid.
    """
    problem = (
        f"no model at {str(path)!r}: give a local folder with a config.json, or a hub name while "
        "online"
    )
    with reading(path, problem):
        config = read_config(path)
    family_of(config)
    _check_sizes(config, path)
    if FAMILIES.plugin(config.model_type):
        unknown = f"transformers cannot make the model of {path}: register its class in the plugin"
        with reading(path, unknown), torch.device("meta"):
            check_layers(AutoModelForSeq2SeqLM.from_config(copy.deepcopy(config)))
    return config


MAX_LAYERS = 1000
"""A configuration with more layers is considered damaged."""

MAX_POSITIONS = 32_768
"""A configuration with more positions is considered damaged: some families compute them all."""


def _check_sizes(config: Any, path: str | Path) -> None:
    family = family_of(config)
    try:
        Geometry.of(config)
        _named_sizes(config)
        activation_of(config)
        switches = filter(None, (family.scaled_embeddings, family.one_vocabulary))
        for name in (*switches, *chain(*family.sizes.values())):
            getattr(config, name)
    except AttributeError as error:
        raise UserError(
            f"the record of the family {config.model_type!r} (a2d.families) names a setting that "
            f"the configuration of {path} lacks ({first_line(error)}): correct the record."
        ) from error
    problem = next(_problems(config, family), None)
    if problem is not None:
        raise UserError(f"the config.json of {path} is not valid: {problem}.")


def _problems(config: Any, family: Family) -> Iterator[str]:
    """Yield what is wrong with a configuration that has all settings of its family.

    A check relies on those before it, so that only the first problem counts.
    """
    sizes = _named_sizes(config)
    if wrong := [name for name, size in sizes.items() if type(size) is not int or size < 1]:
        yield f"its {wrong[0]} is {quoted(sizes[wrong[0]])}, and not a positive whole number"
    if not has_two_vocabularies(config) and (vocabularies := _vocabularies(config)):
        listed = " and ".join(f"{name} is {size:,}" for name, size in vocabularies.items())
        yield f"its {listed}, but it has one vocabulary"
    if config.is_encoder_decoder is not True:
        yield "its is_encoder_decoder is not true, and a2d needs an encoder-decoder"
    shape, width = Geometry.of(config), sizes_of(config)["width"]
    layers, heads = max(shape[:2]), set(shape[2:])
    if layers > MAX_LAYERS:
        yield f"{layers:,} layers are more than {MAX_LAYERS:,}"
    if family.positions is not None and (positions := sizes[family.positions]) > MAX_POSITIONS:
        yield f"its {family.positions} is {positions:,}, more than {MAX_POSITIONS:,}"
    if family.head_width is None and any(width % count for count in heads):
        yield f"width {width} cannot be split into {' or '.join(map(str, heads))} heads"
    activation = activation_of(config)
    if str(activation).removeprefix("gated-") not in ACT2FN:
        yield (
            f"its {family.activation} is {quoted(activation)}, and transformers has no such "
            "activation"
        )
    dropouts = {name: value for name, value in config.to_dict().items() if "drop" in name}
    if wrong := [name for name, rate in dropouts.items() if not _is_rate(rate)]:
        yield f"its {wrong[0]} is {quoted(dropouts[wrong[0]])}, and not a rate between 0 and 1"
    try:
        check_tokens(config, config.vocab_size)
    except ValueError as error:
        yield str(error)


def _named_sizes(config: Any) -> dict[str, Any]:
    """Return name → value of the settings of a configuration that are sizes.

    Raises:
        AttributeError: the configuration lacks one.
    """
    family = family_of(config)
    names = [settings[0] for size, settings in family.sizes.items() if "dropout" not in size]
    others = (*family.vocabulary_sizes, family.positions, family.head_width)
    return {name: getattr(config, name) for name in (*names, *others) if name is not None}


def _vocabularies(config: Any) -> dict[str, int]:
    """Return name → value of the settings that hold different sizes of the vocabulary."""
    sizes = {name: getattr(config, name) for name in family_of(config).vocabulary_sizes}
    return sizes if len(set(sizes.values())) > 1 else {}


def _is_rate(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= 1)


def load_model(path: str | Path) -> PreTrainedModel:
    """Load a pretrained encoder-decoder, in float32.

    Weights are read from safetensors only, because a pickle can run code.

    Raises:
        UserError: as `load_config`; or weights are missing, do not fit the configuration, are not
            finite or not in safetensors; or the model does not run.
    """
    config = check_weights(path)
    with reading(path, _unreadable(path)):
        try:
            model, loading_info = read_model(path, config)
        except RuntimeError as error:  # weights of other shapes
            if memory_is_full(error):
                raise
            raise UserError(
                f"the weights in {path} do not fit its config.json: download or save both again "
                f"({first_line(error)})"
            ) from error
    missing = sorted(name for name in loading_info["missing_keys"] if not _computed(model, name))
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of its model's weights ({missing[0]}, …): download or "
            "save the model again."
        )
    infinite = infinite_tensors(model)
    if infinite:
        raise UserError(
            f"{path} has {counted(len(infinite), 'tensor')} with values that are not finite "
            f"numbers ({infinite[0]}{', …' * (len(infinite) > 1)}): the training diverged, or the "
            "file is damaged; use another model."
        )
    for name, parameter in model.named_parameters():
        if _computed(model, name):  # new models exclude it from training, loaded ones do not
            parameter.requires_grad_(False)
    check_search(model.generation_config, model.config.vocab_size, path)
    check_layers(model)
    _check_runs(model, path)
    return model


def check_weights(path: str | Path) -> Any:
    """Check that a model's files hold weights of the configured sizes, without reading these.

    Returns:
        The configuration.

    Raises:
        UserError: as `load_config`; or the weights do not fit it, or are not in safetensors.
    """
    config = load_config(path)
    read_generation_config(path)  # first, because its errors are not those of weights
    empty = empty_model(config, path)
    with reading(path, _unreadable(path)):
        _check_shapes(config, empty, tensor_shapes(path), path)
    return config


def _unreadable(path: str | Path) -> str:
    return (
        f"{path} holds no readable safetensors weights: load the model with transformers and save "
        "it with save_pretrained()"
    )


def check_layers(model: PreTrainedModel) -> None:
    """Check that a model's layers and their projections are where the record of its family says.

    Raises:
        UserError: they are not.
    """
    family, shape = family_of(model.config), Geometry.of(model.config)
    for stack in ("encoder", "decoder"):
        module: Any = getattr(model, f"get_{stack}")()
        layers = getattr(module, family.layers, ())
        if not isinstance(layers, nn.ModuleList) or len(layers) != shape.layers(stack):
            children = module.named_children()
            lists = [name for name, child in children if isinstance(child, nn.ModuleList)]
            raise UserError(
                f"the record of the family {family.model_type!r} (a2d.families) has layers="
                f"{family.layers!r}, but the {stack} keeps its {shape.layers(stack)} layers "
                f"elsewhere (its lists: {', '.join(lists) or 'none'}): correct the record."
            )
        for layer in layers if family.projections else ():
            _check_projections(layer, family, sizes_of(model.config)["width"])


def _check_projections(layer: nn.Module, family: Family, width: int) -> None:
    """Check that a layer has modules of all roles, and that they read or write its width."""
    linear = {
        name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)
    }
    roles = {name: family.projections.get(name.rpartition(".")[2], "") for name in linear}
    for role in ROLES:
        writes = role in ("output", "contract")
        modules = [linear[name] for name in linear if roles[name] == role]
        widths = {module.out_features if writes else module.in_features for module in modules}
        if widths != {width}:
            raise UserError(
                f"the record of the family {family.model_type!r} (a2d.families) has projections="
                f"{dict(family.projections)!r}, but no module of a layer, or one of another width, "
                f"is its {role!r} (its modules: {', '.join(linear)}): correct the record."
            )


_MAX_RATIO = 2
"""Largest ratio of a model's parameters to those in its files, which hold tied weights once."""


def _check_shapes(
    config: Any, empty: PreTrainedModel, shapes: Sequence[tuple[int, ...]], path: str | Path
) -> None:
    """Check that the weights have the configured sizes, before libraries reserve memory."""
    if not shapes:
        return
    width = sizes_of(config)["width"]
    layers, embeddings = sum(Geometry.of(config)[:2]), (config.vocab_size, width)
    problem = None
    if embeddings not in shapes:
        problem = "{:,} tokens of width {:,}".format(*embeddings)
    elif layers > len(shapes):
        problem = f"{layers:,} layers"
    else:
        needed, in_files = count_parameters(empty), sum(map(prod, shapes))
        needed += sum(buffer.numel() for buffer in empty.buffers())
        computed = width * 2 * (positions_of(config) or 0)
        if needed > _MAX_RATIO * in_files + computed:
            problem = f"{needed:,} parameters"
    if problem is not None:
        raise UserError(
            f"the weights in {path} do not fit its config.json: download or save both again (they "
            f"are not the tensors of {problem})."
        )


@torch.inference_mode()
def _check_runs(model: PreTrainedModel, path: str | Path) -> None:
    """Check that a model computes logits and generates: some settings are read only then.

    Raises:
        UserError: the model does not run.
    """
    with reading(path, f"the model in {path} does not run: download or save it again"):
        ids = torch.zeros((1, 2), dtype=torch.long)
        mask = torch.ones_like(ids)
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).logits
        if logits.shape != (1, 2, model.config.vocab_size) or not logits.isfinite().all():
            raise ValueError("its logits are not finite, or not one per token")
    check_generates(model, path)


def infinite_tensors(model: nn.Module) -> list[str]:
    """Names of a model's tensors that hold infinite values, or NaN."""
    return [name for name, weight in model.state_dict().items() if not weight.isfinite().all()]


def _computed(model: PreTrainedModel, name: str) -> bool:
    """Check for a weight that is computed, not learned: published models may lack it."""
    return name.endswith(family_of(model.config).computed_weights)


def load_to_run(path: str | Path, device: str = "auto") -> PreTrainedModel:
    """Load a model with `load_model` onto a device; "auto" is the GPU if there is one."""
    model = load_model(path)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model if device == "cpu" else model.to(device)


def check_same_ids(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    """Check that two models have the same size of vocabulary and the same special tokens.

    Raises:
        UserError: the models differ.
    """
    for name in _SPECIAL:
        value, teacher_value = getattr(student.config, name), getattr(teacher.config, name)
        if value != teacher_value:
            raise UserError(
                f"teacher and student vocabularies differ: {name} is {teacher_value} in the "
                f"teacher's and {value} in the student's. Build the student with the teacher's "
                "tokenizer."
            )


def decoder_inputs(model: PreTrainedModel, labels: Tensor) -> Tensor:
    """Compute the decoder's input ids for teacher forcing.

    Args:
        model: an encoder-decoder.
        labels: target token ids (B, T), `IGNORE_INDEX` at padding.

    Returns:
        Labels shifted right by one, after the decoder's start token (B, T).
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        ids: Tensor = model.prepare_decoder_input_ids_from_labels(labels)
        return ids
    ids = labels.roll(1, dims=1)
    ids[:, 0] = model.config.decoder_start_token_id
    return ids.masked_fill(ids == IGNORE_INDEX, model.config.pad_token_id)


def freeze_padding_row(model: PreTrainedModel) -> Callable[[], None]:
    """Exclude the padding token's embedding from training, in families that need that.

    With tied embeddings, the output layer would train the padding row otherwise.

    Returns:
        A function that makes the embedding trainable again.
    """
    if not family_of(model.config).frozen_padding:
        return lambda: None
    padding = model.config.pad_token_id

    def forget_padding(weight: Tensor) -> None:
        assert weight.grad is not None
        weight.grad[padding] = 0

    weight = model.get_input_embeddings().weight
    remove: Callable[[], None] = weight.register_post_accumulate_grad_hook(forget_padding).remove
    return remove


def _shrink_residual_branches(model: PreTrainedModel, factor: float = 0.1) -> None:
    """Scale down residual branches except cross-attention, so that layers start near the identity.

    Post-norm Transformers depend heavily on their residual branches, which makes them slow to
    start and unstable (Liu et al. 2020, "Understanding the Difficulty of Training Transformers",
    section 4). Cross-attention keeps its full weight, because the model must learn it first, and a
    small corpus yields few updates for that.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            branch = name.endswith(("out_proj.weight", "fc2.weight"))
            if branch and "encoder_attn" not in name:
                weight.mul_(factor)


def count_parameters(model: PreTrainedModel) -> int:
    """Number of parameters in a saved model, which excludes computed sinusoidal position tables."""
    computed = set(model._keys_to_ignore_on_save or ())
    return sum(p.numel() for name, p in model.named_parameters() if name not in computed)
