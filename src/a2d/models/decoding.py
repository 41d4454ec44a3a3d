"""Translation with encoder-decoder models, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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

from a2d.defaults import BATCH_TOKENS
from a2d.families import positions_of, sizes_of
from a2d.models.folders import reading
from a2d.models.hypotheses import Hypothesis
from a2d.models.likelihoods import count_tokens, log_probabilities
from a2d.models.model_settings import naming_generation_setting
from a2d.models.search_settings import (
    BEAMS,
    generation_limit,
    max_length_limit,
    search_settings,
    set_beams,
)
from a2d.models.tokenizer import mark_languages
from a2d.text.batching import TokenBatchSampler
from a2d.text.sources import encode_sources

_CPU_FLOATS = 2**20
"""Largest product of a batch's source tokens, beams and the model's width on CPU.

Larger states leave the processor's caches, and a batch goes on until its last sentence ends: with
6+6 layers of width 512 and five beams, batches of 4,096 tokens take three times as long.
"""

_LEAST_TOKENS = 256
"""Size of a batch, in padded source tokens, that is not lowered further."""


@torch.inference_mode()
def check_generates(model: PreTrainedModel, place: str | Path) -> None:
    """Check that a model generates: transformers reads some generation settings only then.

    Args:
        model: the model.
        place: its folder or hub name, for error messages.

    Raises:
        UserError: it does not generate with its generation settings.
    """
    ids = torch.zeros((1, 2), dtype=torch.long)
    original = model.generation_config

    def generate(settings: GenerationConfig) -> None:
        model.generation_config = search_settings(settings)
        set_beams(model.generation_config, settings.num_beams or BEAMS)
        model.generation_config.validate(strict=True)  # so that students can be saved with them
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_length=3)

    problem = f"the model in {place} does not run: download or save it again"
    try:
        with reading(place, problem), naming_generation_setting(place, generate):
            generate(original)
    finally:
        model.generation_config = original


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    beams: int | None = None,
    max_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Translate sentences by beam search; `n_best` describes the arguments."""
    lists = n_best(
        model, tokenizer, sentences, 1, beams=beams, max_tokens=max_tokens, progress=progress
    )
    return [hypotheses[0] for hypotheses in lists]


def n_best(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    count: int,
    *,
    beams: int | None = None,
    max_tokens: int = BATCH_TOKENS,
    cut: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[list[str]]:
    """Translate sentences into n-best lists by beam search, as `search` does.

    Args:
        model, tokenizer, count, beams, max_tokens, cut: as in `search`.
        sentences: plain text, one sentence each; tokens beyond the model's positions are cut off.
            The translation of an empty sentence is empty.
        progress: called with the number of translated sentences after each batch.

    Returns:
        Hypotheses of each sentence, the best first, as plain detokenised text.
    """
    encoded = encode_sources(tokenizer, sentences, positions_of(model.config))
    options: dict[str, Any] = {"max_tokens": max_tokens, "cut": cut, "progress": progress}
    lists = search(model, tokenizer, encoded, count, beams=beams, **options)
    return [
        [hypothesis.text for hypothesis in hypotheses] if sentence.strip() else [""] * count
        for sentence, hypotheses in zip(sentences, lists, strict=True)
    ]


@torch.inference_mode()
def search(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    count: int,
    *,
    beams: int | None = None,
    max_tokens: int = BATCH_TOKENS,
    cut: bool = False,
    scored: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[list[Hypothesis]]:
    """Find the best translations of encoded sentences by beam search.

    The hypotheses are those that plain `generate` returns for each sentence alone with the model's
    `search_settings`. If these settings have no `max_length`, translations end at
    `generation_limit`.

    Args:
        model: an encoder-decoder, which is set to evaluation mode.
        tokenizer: the model's tokenizer. Language codes become special tokens (`mark_languages`).
        encoded: token ids of each sentence, no more than the model has positions.
        count: number of hypotheses per sentence, at most `beams`.
        beams: beam width; 1 is greedy search; None: the model's setting, or `BEAMS`.
        max_tokens: largest number of padded source tokens per batch. On CPU a batch has at most
            `_CPU_FLOATS` floats in a layer's states, too.
        cut: end translations at `generation_limit` even if the model has a `max_length`. This
            guards against teachers that do not stop.
        scored: compute log-probabilities, which costs one more pass of the model.
        progress: called with the number of translated sentences after each batch.

    Returns:
        Hypotheses of each sentence, the best first.
    """
    mark_languages(tokenizer)
    model.eval()
    positions = positions_of(model.config)
    limits = [generation_limit(len(ids), positions) for ids in encoded]
    translations: dict[int, list[Hypothesis]] = {}
    with searching(model) as settings:
        beams = beams or settings.num_beams or BEAMS
        batch_search = _Search(model, tokenizer, count, beams, scored)
        max_tokens = _batch_tokens(model, beams, max_tokens)
        max_limit = None if cut else max_length_limit(settings, positions)
        if max_limit is not None:
            exhaustive = settings.early_stopping == "never"  # the search depends on `max_limit`
            limits = [max_limit if exhaustive else min(limit, max_limit) for limit in limits]
        waiting = list(range(len(encoded)))
        sizes = [len(ids) for ids in encoded]
        while waiting:
            for batch in _batches([sizes[index] for index in waiting], max_tokens):
                indices = [waiting[position] for position in batch]
                results = batch_search.run(
                    [encoded[i] for i in indices], [limits[i] for i in indices], max_limit
                )
                before = len(translations)
                for index, (hypotheses, ended) in zip(indices, results, strict=True):
                    if ended or max_limit in (None, limits[index]):
                        translations[index] = hypotheses
                if progress is not None and len(translations) > before:
                    progress(len(translations))
            # Translations beyond the usual limit are rare. They are repeated with `max_limit` in
            # separate batches, because the whole batch would wait for them.
            waiting = [index for index in waiting if index not in translations]
            for index in waiting:
                assert max_limit is not None
                limits[index] = sizes[index] = max_limit
    return [translations[index] for index in range(len(encoded))]


def _batch_tokens(model: PreTrainedModel, beams: int, max_tokens: int) -> int:
    """Return the largest number of padded source tokens per batch, which depends on the device."""
    if model.device.type != "cpu":
        return max_tokens
    width: int = sizes_of(model.config)["width"]
    fitting = _CPU_FLOATS // (beams * width)
    return min(max_tokens, max(_LEAST_TOKENS, fitting))


def _batches(sizes: Sequence[int], max_tokens: int) -> TokenBatchSampler:
    lengths = np.array([[size, size] for size in sizes])
    return TokenBatchSampler(lengths, max(max_tokens, *sizes), shuffle=False)


@contextmanager
def searching(model: PreTrainedModel) -> Iterator[GenerationConfig]:
    """Set a model's generation settings to `search_settings` inside a `with` block.

    The model itself is changed, because `generate` completes other settings from the model's.
    """
    original = model.generation_config
    model.generation_config = search_settings(original)
    try:
        yield model.generation_config
    finally:
        model.generation_config = original


@dataclass(frozen=True)
class _Search:
    """Beam search with one model and one beam width."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    count: int
    beams: int
    scored: bool

    def run(
        self, sources: Sequence[list[int]], limits: Sequence[int], max_limit: int | None
    ) -> list[tuple[list[Hypothesis], bool]]:
        """Translate a batch.

        Args:
            sources: token ids of each sentence.
            limits: largest number of tokens of each translation.
            max_limit: the model's limit, by which some searches weigh beams.

        Returns:
            For each sentence, its hypotheses, and True if the search ended before the sentence's
            limit, so that a higher limit would change nothing.
        """
        device = self.model.device
        inputs = self.tokenizer.pad({"input_ids": list(sources)}, return_tensors="pt").to(device)
        row_limits = torch.tensor(limits, device=device)
        output = self.model.generate(
            **inputs,
            num_beams=self.beams,
            num_return_sequences=max(self.beams, self.count),
            max_length=1 + (max_limit or max(limits)),
            stopping_criteria=StoppingCriteriaList([_SentenceLimits(row_limits)]),
        )
        hypotheses = output.unflatten(0, (len(sources), self.beams))
        ended = self._ended(hypotheses[..., 1:], row_limits)
        best = hypotheses[:, : self.count]
        texts = self.tokenizer.batch_decode(best.flatten(0, 1), skip_special_tokens=True)
        lengths = count_tokens(best[..., 1:], self._end_tokens(best), row_limits[:, None])
        sums = torch.full(lengths.shape, torch.nan)
        if self.scored:
            sums = log_probabilities(self.model, inputs, best, lengths)
        if self.model.generation_config.forced_bos_token_id is not None:
            lengths = lengths - 1
        flat = map(
            Hypothesis, map(str.strip, texts), lengths.flatten().tolist(), sums.flatten().tolist()
        )
        lists = zip(*[flat] * self.count, strict=True)
        return [(list(each), whole) for each, whole in zip(lists, ended, strict=True)]

    def _ended(self, hypotheses: Tensor, limits: Tensor) -> list[bool]:
        """For each sentence, check whether all beams have ended, so that no other can win.

        Args:
            hypotheses: token ids (B, beams, T), without the decoder's start token.
            limits: largest number of tokens of each sentence's translation (B,).
        """
        device, ids = hypotheses.device, self._end_tokens(hypotheses)
        within = torch.arange(hypotheses.shape[-1], device=device) < limits[:, None, None]
        ended: list[bool] = (torch.isin(hypotheses, ids) & within).any(-1).all(-1).tolist()
        return ended

    def _end_tokens(self, like: Tensor) -> Tensor:
        """Tokens that end a translation, with the device and dtype of another tensor."""
        end = self.model.generation_config.eos_token_id
        return torch.tensor([] if end is None else end, device=like.device, dtype=like.dtype)


class _SentenceLimits(StoppingCriteria):
    """Stop each translation at its sentence's limit, so that it does not depend on its batch."""

    def __init__(self, limits: Tensor) -> None:
        self.limits = limits

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Mark the finished rows (sentences x beams). The decoder's start token does not count."""
        beams = input_ids.shape[0] // len(self.limits)
        done: Tensor = input_ids.shape[1] - 1 >= self.limits.repeat_interleave(beams)
        return done
