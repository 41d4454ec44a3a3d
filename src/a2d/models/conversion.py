"""Models as CTranslate2 takes them, of every family.

Its loaders do the work; here is what they miss of models that transformers 5 writes: a name for
every row of the embeddings, the token that decoders start from, and settings that are no longer
saved. This module needs CTranslate2.
"""

from __future__ import annotations

from typing import Any

from ctranslate2.converters import Converter
from ctranslate2.converters import transformers as loaders
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NEVER = -1e4
"""Logit of a token that is not to be said; float16 holds it."""


class LoadedConverter(Converter):
    """Converts a model that is loaded; it may change the model's configuration."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer

    def _load(self) -> Any:
        load: Any = FAMILIES[self._model.config.model_type]()
        return load(self._model, self._tokenizer)


class _Whole:
    """Every row of the embeddings has a token of its own; decoders start as the model says."""

    def get_vocabulary(self, model: Any, tokenizer: Any) -> list[str]:
        named = {index: token for token, index in tokenizer.get_vocab().items()}
        known = set(named.values())
        tokens = []
        for row in range(model.config.vocab_size):
            token = named.get(row)
            if token is None:
                token = tokenizer.convert_ids_to_tokens(row)  # M2M100's languages
                token = f"<row {row}>" if token is None or token in known else token
            tokens.append(token)
        return tokens

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        start = model.generation_config.decoder_start_token_id
        start = model.config.decoder_start_token_id if start is None else start
        config.eos_token, config.unk_token = tokenizer.eos_token, tokenizer.unk_token
        config.bos_token = tokenizer.bos_token or tokenizer.eos_token
        config.decoder_start_token = tokenizer.convert_ids_to_tokens(start)


class _Barts(_Whole):
    """Whether layers normalise what they read, and whether embeddings are normalised."""

    before = embeddings = False

    def get_model_spec(self, model: Any) -> Any:
        model.config.normalize_before = self.before
        model.config.normalize_embedding = self.embeddings
        return super().get_model_spec(model)  # type: ignore[misc]


class _Bart(_Barts, loaders.BartLoader):
    embeddings = True


class _MBart(_Barts, loaders.MBartLoader):
    before = embeddings = True


class _M2M100(_Whole, loaders.M2M100Loader):
    pass


class _Pegasus(_Barts, loaders.PegasusLoader):
    before = True


class _Marian(_Whole, loaders.MarianMTLoader):
    """Decoders start from the padding token's embedding, as in transformers, and not from zeros.

    It is no longer zero once transformers' Trainer has trained a model. What follows is never
    padding.
    """

    def get_model_spec(self, model: Any) -> Any:
        model.final_logits_bias[0, model.config.pad_token_id] = _NEVER
        return super().get_model_spec(model)

    def set_decoder(self, spec: Any, decoder: Any) -> None:
        super().set_decoder(spec, decoder)
        spec.start_from_zero_embedding = False

    def _remove_pad_weights(self, spec: Any) -> None:
        pass


class _T5s(_Whole):
    """Output layers scale what they read if the model says so, not if they share embeddings."""

    def get_model_spec(self, model: Any) -> Any:
        scaled = getattr(model.config, "scale_decoder_outputs", False)  # mT5 never does
        model.config.tie_word_embeddings = scaled
        return super().get_model_spec(model)  # type: ignore[misc]


class _T5(_T5s, loaders.T5Loader):
    pass


class _UMT5(_T5s, loaders.UMT5Loader):
    pass


FAMILIES = {
    "bart": _Bart,
    "mbart": _MBart,
    "m2m_100": _M2M100,
    "pegasus": _Pegasus,
    "marian": _Marian,
    "t5": _T5,
    "mt5": _T5,
    "umt5": _UMT5,
}
