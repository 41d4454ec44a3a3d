"""Token ids of source sentences."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

PREFIX = "source_prefix"
"""Tokenizer setting, saved in its configuration: text put before every source, as T5 (`translate
German to English: `) and MADLAD-400 (`<2en> `) need it."""


def with_prefix(tokenizer: PreTrainedTokenizerBase, sources: Sequence[str]) -> list[str]:
    """Put the tokenizer's prefix, if it has one, before every source."""
    prefix = tokenizer.init_kwargs.get(PREFIX, "")
    return [prefix + source for source in sources]


def encode_sources(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    max_length: int | None = None,
    *,
    whole: bool = False,
) -> list[list[int]]:
    """Encode source sentences, each after the tokenizer's prefix, if it has one.

    White space at the ends of a sentence is left out, as in training data.

    Args:
        tokenizer: tokenizer of the model.
        sentences: plain text.
        max_length: cut sentences to this many tokens, if the tokenizer's ``model_max_length`` is
            not smaller.
        whole: cut nothing.

    Returns:
        Token ids of each sentence.
    """
    texts = with_prefix(tokenizer, [sentence.strip() for sentence in sentences])
    if not texts:
        return []
    if whole:
        whole_ids: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"]
        return whole_ids
    truncates = max_length is not None and max_length < tokenizer.model_max_length
    ids: list[list[int]] = tokenizer(
        texts, truncation=True, max_length=max_length if truncates else None
    )["input_ids"]
    return ids
