"""Conversion of models for CTranslate2, of every family whose record names a loader.

CTranslate2's loaders do the work. This module adds two facts that they miss in models of
transformers 5: a name for every row of the embeddings, and the token that decoders start from. The
record's `prepare_export` (`a2d.families`) makes the changes that depend on the family. Weights of 8
bits are rounded so that all CPUs add up their products exactly. This module needs CTranslate2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.converters import transformers as loaders
from ctranslate2.specs.model_spec import NumpyVariable, index_spec
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2d.families import family_of

LARGEST_WEIGHT = 64
"""Largest absolute value of weights of 8 bits.

CPUs without products of 8 bits that add up in 32 bits (VNNI) add pairs of them in 16 bits, with
saturation: sums beyond 32,767 are cut off. CTranslate2 shifts its inputs to 0 … 255 there, so that
weights of up to 64 keep all sums exact (2 · 255 · 64 = 32,640), and its own range of 127 does not.
"""
_LEAST = 1e-30
"""Rows of no larger weights are rounded to zeros, so that their factors stay finite."""


def convert(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, quantization: str
) -> None:
    """Convert a model in memory, whose configuration may change.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        folder: folder to write, which must not exist.
        quantization: data type of the weights, as CTranslate2 names them.
    """
    family = family_of(model.config)
    assert family.ctranslate2_loader is not None
    loader = getattr(loaders, family.ctranslate2_loader)
    if family.prepare_export is not None:
        family.prepare_export(model)
    complete: Any = type(loader.__name__, (_Complete, loader), {})
    spec = complete()(model, tokenizer)
    spec.validate()
    weights = {}
    if quantization.startswith("int8"):
        # `optimize` changes arrays in place. Variables of one dimension are not quantised.
        weights = {
            name: variable.to("float32").numpy().copy()
            for name, variable in spec.variables().items()
            if len(variable.shape) > 1
        }
    spec.optimize(quantization=quantization)
    variables = spec.variables()
    for name, weight in weights.items():
        if f"{name}_scale" in variables:  # it was quantised, and is not a name of its equal
            layer, _, key = name.rpartition("/")
            values, scale = quantise_rows(weight)
            setattr(index_spec(spec, layer), key, NumpyVariable(values))
            setattr(index_spec(spec, layer), f"{key}_scale", NumpyVariable(scale))
    folder.mkdir(parents=True)
    spec.save(str(folder))


def quantise_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round the rows of a weight to whole numbers of up to `LARGEST_WEIGHT`.

    Args:
        weight: `[outputs, inputs]`.

    Returns:
        The whole numbers, `[outputs, inputs]`, and the factor of each row by which its weights were
        multiplied, `[outputs]`.
    """
    largest = np.maximum(np.abs(weight).max(axis=1), _LEAST)
    scale = (LARGEST_WEIGHT / largest).astype(np.float32)
    return np.rint(weight * scale[:, None]).astype(np.int8), scale


class _Complete:
    """Changes to every loader.

    Each row of the embeddings has a distinct token. Decoders start from the embedding of the
    model's start token, as in transformers.
    """

    def get_vocabulary(self, model: Any, tokenizer: Any) -> list[str]:
        names = {index: token for token, index in tokenizer.get_vocab().items()}
        taken = set(names.values())
        tokens = []
        for row in range(model.config.vocab_size):
            token = names.get(row)
            if token is None:
                token = tokenizer.convert_ids_to_tokens(row)  # M2M100's languages
                token = f"<row {row}>" if token is None or token in taken else token
            tokens.append(token)
        return tokens

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        start = model.generation_config.decoder_start_token_id
        start = model.config.decoder_start_token_id if start is None else start
        config.eos_token, config.unk_token = tokenizer.eos_token, tokenizer.unk_token
        config.bos_token = tokenizer.bos_token or tokenizer.eos_token
        config.decoder_start_token = tokenizer.convert_ids_to_tokens(start)

    def set_decoder(self, spec: Any, decoder: Any) -> None:
        super().set_decoder(spec, decoder)  # type: ignore[misc]
        # Marian's loader starts from zeros; training may change the padding token's embedding.
        spec.start_from_zero_embedding = False

    def _remove_pad_weights(self, spec: Any) -> None:
        """Keep the row of the padding token, which Marian's loader removes."""
