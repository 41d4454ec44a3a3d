"""Translation with any encoder-decoder model, in batches of like length."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from a2d.text.batching import TokenBatchSampler, encode_sources


def generation_limit(source_tokens: int, positions: int | None = None) -> int:
    """Longest translation, in tokens, of a source of that many: 1.2·n + 10 (the paper's rule).

    Args:
        source_tokens: n.
        positions: how many the model has (`positions_of`); the last token is never read.
    """
    limit = int(1.2 * source_tokens) + 10
    return limit if positions is None else min(limit, positions)


def positions_of(config: Any) -> int | None:
    """How many positions a model tells apart; None if that is not limited (T5's are relative)."""
    found: int | None = getattr(config, "max_position_embeddings", None)
    return found


def search_settings(model: GenerationConfig) -> GenerationConfig:
    """A model's own settings of its search, but for what would make it another one.

    Nothing is drawn at random, and no end is forced at a limit that depends on the batch.
    """
    settings = copy.deepcopy(model)
    settings.update(do_sample=False, temperature=None, top_p=None, top_k=None, num_beam_groups=None)
    settings.update(diversity_penalty=None, penalty_alpha=None, forced_eos_token_id=None)
    return settings


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    beams: int = 5,
    max_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Translate sentences by beam search: the best of `n_best`, whose arguments these are."""
    found = n_best(
        model, tokenizer, sentences, 1, beams=beams, max_tokens=max_tokens, progress=progress
    )
    return [hypotheses[0] for hypotheses in found]


@torch.inference_mode()
def n_best(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    count: int,
    *,
    beams: int = 5,
    max_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> list[list[str]]:
    """Several translations of every sentence by beam search, the best first.

    Args:
        model: an encoder-decoder; it is put into evaluation mode.
        tokenizer: its tokenizer.
        sentences: plain text, one sentence each; an empty one is translated as empty.
        count: how many translations, at most `beams`.
        beams: width of the beam; 1 is greedy search.
        max_tokens: padded source tokens per batch.
        progress: called after each batch with the number of sentences done so far.

    Returns:
        Plain, detokenised translations, in the order of `sentences`.
    """
    if not sentences:
        return []
    model.eval()
    with _searching(model):
        return _found(model, tokenizer, sentences, count, beams, max_tokens, progress)


@contextmanager
def _searching(model: PreTrainedModel) -> Iterator[None]:
    """Give a model `search_settings` for a while; `generate` fills in what others lack from its."""
    own = model.generation_config
    model.generation_config = search_settings(own)
    try:
        yield
    finally:
        model.generation_config = own


def _found(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    count: int,
    beams: int,
    max_tokens: int,
    progress: Callable[[int], None] | None,
) -> list[list[str]]:
    positions = positions_of(model.config)
    encoded = encode_sources(tokenizer, sentences, positions)
    sizes = np.array([[len(ids)] * 2 for ids in encoded]).reshape(-1, 2)
    translations = [[""] * count for _ in sentences]
    budget = max(max_tokens, int(sizes.max(initial=1)))
    done = 0
    for batch in TokenBatchSampler(sizes, budget, shuffle=False):
        limits = torch.tensor([generation_limit(int(sizes[i, 0]), positions) for i in batch])
        inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt")
        output = model.generate(
            **inputs.to(model.device),
            num_beams=beams,
            num_return_sequences=count,
            max_new_tokens=int(limits.max()),
            stopping_criteria=StoppingCriteriaList([_OwnLimits(limits.to(model.device))]),
        )
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        for place, index in enumerate(batch):
            if sentences[index].strip():
                own = texts[count * place : count * (place + 1)]
                translations[index] = [text.strip() for text in own]
        if progress is not None:
            done += len(batch)
            progress(done)
    return translations


class _OwnLimits(StoppingCriteria):
    """Stops each translation at its own limit, so that it does not depend on its batch."""

    def __init__(self, limits: Tensor) -> None:
        self.limits = limits

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Which rows (sentences × beams) are done; the decoder's start is no token of theirs."""
        beams = input_ids.shape[0] // len(self.limits)
        done: Tensor = input_ids.shape[1] - 1 >= self.limits.repeat_interleave(beams)
        return done
