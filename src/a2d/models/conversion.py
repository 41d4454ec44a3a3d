"""Conversion of models for CTranslate2, of every family whose record names a loader.

CTranslate2's loaders do the work. This module adds two facts that they miss in models of
transformers 5: a name for every row of the embeddings, and the token that decoders start from. The
record's `prepare_export` (`a2d.families`) makes the changes that depend on the family. This module
needs CTranslate2.
"""

from __future__ import annotations

from typing import Any

from ctranslate2.converters import Converter
from ctranslate2.converters import transformers as loaders
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2d.families import family_of


class LoadedConverter(Converter):
    """Converter of a model in memory. It may change the model's configuration."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer

    def _load(self) -> Any:
        family = family_of(self._model.config)
        assert family.ctranslate2_loader is not None
        loader = getattr(loaders, family.ctranslate2_loader)
        if family.prepare_export is not None:
            family.prepare_export(self._model)
        complete: Any = type(loader.__name__, (_Complete, loader), {})
        return complete()(self._model, self._tokenizer)


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
