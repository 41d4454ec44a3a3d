"""Translation with encoder-decoder models, in batches of similar length.

This module defines all generation settings: beams, limits and others. A student's
`generation_config.json` holds them, so that plain transformers translates as a2d does.
"""

from __future__ import annotations

import copy
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

from a2d.errors import UserError
from a2d.families import positions_of
from a2d.models.folders import reading
from a2d.models.hypotheses import Hypothesis, count_tokens, log_probabilities
from a2d.models.model_settings import generation_file, naming_generation_setting
from a2d.models.tokenizer import mark_languages
from a2d.quoting import quoted
from a2d.text.batching import TokenBatchSampler, encode_sources

BEAMS = 5
"""Beam width if neither the caller nor the model's generation settings name a width."""

MAX_BEAMS = 1000
"""Largest beam width. A larger width is considered a mistake: memory grows with the width."""

MAX_TRANSLATION = 10_000
"""Longest translation, in tokens, even if a model's limit is higher."""

MIN_LIMIT = 128
"""Lowest `max_length` of a student, in tokens, even if its training sentences are all shorter."""

_MAX_VALUE = 10_000
"""Largest number in generation settings, but for `max_length`, because some searches with larger
ones never end: transformers raises lengths to the power of `length_penalty`."""

_LISTS = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")


def token_settings(config: Any) -> dict[str, Any]:
    """Settings of a configuration whose values are token ids, or lists of token ids."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if value is not None and (key.endswith("_token_id") or key in _LISTS)
    }


def token_ids(config: Any) -> set[int]:
    """Collect all token ids in a configuration.

    Raises:
        ValueError: as `check_tokens`.
    """
    check_tokens(config, None)
    return {token for value in token_settings(config).values() for token in _flat(value)}


def check_tokens(config: Any, vocabulary: int | None) -> None:
    """Check the settings of a configuration whose values are token ids.

    Args:
        config: the configuration.
        vocabulary: the model's number of tokens; None if unknown.

    Raises:
        ValueError: a value is not a token id, or is a list where only one token is possible.
    """
    for name, value in token_settings(config).items():
        one = not name.endswith(("eos_token_id", *_LISTS))
        tokens = [value] if one else _flat(value)
        if wrong := [token for token in tokens if type(token) is not int]:
            raise ValueError(f"its {name} holds {quoted(wrong[0])}, which is not a token's number")
        for token in tokens:
            if token < 0 or (vocabulary is not None and token >= vocabulary):
                size = "" if vocabulary is None else f" of {vocabulary:,}"
                raise ValueError(
                    f"its {name} holds the token {token}, outside the vocabulary{size}"
                )


def _flat(value: Any) -> list[Any]:
    """Return the items of nested lists."""
    if isinstance(value, list | tuple):
        return [item for part in value for item in _flat(part)]
    return [value]


def check_beams(beams: object, setting: str) -> None:
    """Check a beam width.

    Args:
        beams: the width.
        setting: name of the setting, with which the error message begins.

    Raises:
        UserError: the width is not an integer from 1 to `MAX_BEAMS`.
    """
    if type(beams) is not int or not 1 <= beams <= MAX_BEAMS:
        raise UserError(f"{setting} is {beams!r}: give a number of beams from 1 to {MAX_BEAMS:,}.")


def check_search(settings: GenerationConfig, vocabulary: int | None, place: str | Path) -> None:
    """Check that a beam search can run, and can end, with a model's generation settings.

    Args:
        settings: the model's generation settings.
        vocabulary: the model's number of tokens; None if unknown.
        place: folder or hub name of the model, for error messages.

    Raises:
        UserError: the beam width, the limit or a token is invalid, or no token ends a translation.
    """
    name = generation_file(place)
    beams, max_length = settings.num_beams, settings.max_length
    if beams is not None:
        check_beams(beams, f"the num_beams in the {name} of {place}")
    try:
        if max_length is not None and (type(max_length) is not int or max_length < 2):
            value = quoted(max_length)
            raise ValueError(f"its max_length is {value}, which leaves no token to translations")
        if settings.eos_token_id is None or settings.eos_token_id == []:
            raise ValueError("its eos_token_id is missing, and no other token ends a translation")
        check_tokens(settings, vocabulary)
        for setting, number in _numbers(settings):
            if abs(number) > _MAX_VALUE:
                raise ValueError(f"its {setting} is {number:,}, and {_MAX_VALUE:,} is the limit")
    except ValueError as error:
        raise UserError(
            f"the {name} of {place} is not valid: {error}; correct or delete it."
        ) from None


def _numbers(settings: GenerationConfig) -> Iterator[tuple[str, float]]:
    """Yield the numbers among the settings of a search, but for its limit and tokens."""
    for name, value in vars(search_settings(settings)).items():
        other = name.startswith("_") or name.endswith(("max_length", "_token_id"))
        if isinstance(value, int | float) and not other:
            yield name, value


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


def generation_limit(source_tokens: int, positions: int | None = None) -> int:
    """Usual limit of a translation, in tokens: 1.2·n + 10 for n source tokens (Jin et al. 2024).

    Args:
        source_tokens: number of source tokens, n.
        positions: the model's number of positions (`positions_of`), which the limit never exceeds;
            None: unlimited. The last token needs no position, because the decoder never reads it.
    """
    limit = int(1.2 * source_tokens) + 10
    return limit if positions is None else min(limit, positions)


_STRATEGIES = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "num_beam_groups", "diversity_penalty", "penalty_alpha"),
    *("dola_layers", "low_memory", "custom_generate"),
)
"""Generation settings of other strategies than beam search."""
_LIMITS = ("max_new_tokens", "max_time", "forced_eos_token_id")
_OUTPUTS = (
    *("num_return_sequences", "return_dict_in_generate", "return_dict"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
)
_SPEED = (
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size"),
    *("compile_config", "disable_compile", "continuous_batching_config", "use_mtp"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
    *("assistant_ensemble_weight", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
    *("target_lookbehind", "speculation_type"),
)
"""Generation settings that change the time of a search, not its result."""


def search_settings(model: GenerationConfig) -> GenerationConfig:
    """Copy a model's generation settings for a beam search for the best translation.

    The copy has no settings of other strategies, such as sampling, and none that only change speed
    or the form of outputs. It forces no end-of-sentence token at the limit. `max_length` is its
    only limit, and `generate` returns one hypothesis, as plain token ids.
    """
    settings = copy.deepcopy(model)
    for name in (*_STRATEGIES, *_LIMITS, *_OUTPUTS, *_SPEED):
        if hasattr(settings, name):
            setattr(settings, name, None)
    settings.do_sample = False
    return settings


def inherited_settings(teacher: GenerationConfig) -> GenerationConfig:
    """Copy a teacher's generation settings for a student, without `max_length`.

    The student's limit follows from its training corpus (`set_generation_defaults`).
    """
    settings = search_settings(teacher)
    settings.max_length = None
    return settings


def max_length_limit(settings: GenerationConfig, positions: int | None = None) -> int | None:
    """Longest translation by a model's `max_length`, in tokens; None without `max_length`.

    `max_length` counts the decoder's start token too. The limit never exceeds the model's positions
    or `MAX_TRANSLATION`.
    """
    length: int | None = settings.max_length
    if length is None:
        return None
    return min(length - 1, MAX_TRANSLATION, positions or MAX_TRANSLATION)


def set_generation_defaults(model: PreTrainedModel, source_tokens: int, target_tokens: int) -> None:
    """Complete a student's generation settings, so that plain `generate` works like `translate`.

    A generation config cannot set a limit for each source length. `max_length` therefore follows
    from the longest sentences of the training corpus.

    Args:
        model: the student. A `num_beams` or `max_length` in its generation settings stays.
        source_tokens, target_tokens: lengths of the longest training source and target, in tokens.
    """
    settings = search_settings(model.generation_config)
    set_beams(settings, settings.num_beams or BEAMS)
    if settings.max_length is None:
        limit = max(MIN_LIMIT, generation_limit(source_tokens), target_tokens)
        settings.max_length = min(limit, positions_of(model.config) or limit)
    model.generation_config = settings


def set_beams(settings: GenerationConfig, beams: int) -> None:
    """Set the beam width. A width of 1, greedy search, removes the settings for wider beams."""
    settings.num_beams = beams
    if beams == 1:
        settings.update(early_stopping=None, length_penalty=None)


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    beams: int | None = None,
    max_tokens: int = 4096,
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
    max_tokens: int = 4096,
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
    max_tokens: int = 4096,
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
        max_tokens: padded source tokens per batch.
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
        batch_search = _Search(
            model, tokenizer, count, beams or settings.num_beams or BEAMS, scored
        )
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
