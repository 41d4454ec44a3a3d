"""Translation with any encoder-decoder model, in batches of like length.

This is the home of how we decode: beams, limits and other generation settings. They stand in a
student's `generation_config.json`, so that plain transformers decodes as we do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from a2d.models.folders import GENERATION, reading
from a2d.models.tokenizer import mark_languages
from a2d.text.batching import TokenBatchSampler, encode_sources

BEAMS = 5
"""Width of the beam where neither the caller nor the model's generation settings name one."""

MOST_BEAMS = 1000
"""A wider search is taken for a mistake: its memory grows with its width."""

LONGEST = 10_000
"""Tokens of a translation at most, whatever limit a model has."""

LEAST_LIMIT = 128
"""Tokens that a student may always write, however short the sentences are that it learns from."""


_LISTS = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")


def token_settings(config: Any) -> dict[str, Any]:
    """Settings of a configuration that are token ids, or lists of them."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if value is not None and (key.endswith("_token_id") or key in _LISTS)
    }


def token_ids(config: Any) -> set[int]:
    """All tokens that a configuration names.

    Raises:
        TypeError: a setting is no whole number, nor a list of such where there may be several.
    """
    settings = token_settings(config)
    for name, value in settings.items():
        if isinstance(value, list) and not name.endswith(("eos_token_id", *_LISTS)):
            raise TypeError(f"{name} is {value!r}: it is one token's number")
    return {token for value in settings.values() for token in _flat(value)}


def _flat(value: Any) -> Iterable[int]:
    if type(value) is int:
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    else:
        raise TypeError(f"{value!r} is no token's number")


def check_beams(beams: object, whose: str) -> None:
    """Refuse a width of the beam that is none.

    Raises:
        UserError: it is no whole number from 1 to `MOST_BEAMS`; `whose` begins the sentence.
    """
    if type(beams) is not int or not 1 <= beams <= MOST_BEAMS:
        raise UserError(f"{whose} is {beams!r}: beams are 1 to {MOST_BEAMS:,}.")


def check_search(settings: GenerationConfig, vocabulary: int | None, place: str | Path) -> None:
    """Refuse settings that no search can have, or that it would not end with.

    Args:
        settings: of a model.
        vocabulary: its number of tokens; None: unknown.
        place: its folder or hub name.

    Raises:
        UserError: a width of the beam, a limit or a token that is none.
    """
    beams, longest = settings.num_beams, settings.max_length
    with reading(place, f"the {GENERATION} of {place} says nothing sensible: mend or delete it"):
        if beams is not None:
            check_beams(beams, f"the num_beams of {place}")
        if longest is not None and (type(longest) is not int or longest < 2):
            raise ValueError(f"max_length is {longest!r}: it leaves no token to a translation")
        if settings.eos_token_id is None or settings.eos_token_id == []:
            raise ValueError("no token ends a translation: eos_token_id is missing")
        for token in token_ids(settings):
            if token < 0 or (vocabulary is not None and token >= vocabulary):
                raise ValueError(f"the token {token} is outside its vocabulary")


def generation_limit(source_tokens: int, positions: int | None = None) -> int:
    """Longest usual translation, in tokens, of a source of n tokens: 1.2·n + 10 (the paper's rule).

    Args:
        source_tokens: n.
        positions: how many the model has (`positions_of`); the last token is never read.
    """
    limit = int(1.2 * source_tokens) + 10
    return limit if positions is None else min(limit, positions)


def search_settings(model: GenerationConfig) -> GenerationConfig:
    """Copy a model's generation settings without those that do not serve its best translation.

    Nothing is drawn at random, no end is forced at a limit, `max_length` is the only limit, and
    one hypothesis is returned, as plain token ids.
    """
    settings = copy.deepcopy(model)
    settings.update(do_sample=False, temperature=None, top_p=None, top_k=None, num_beam_groups=None)
    settings.update(diversity_penalty=None, penalty_alpha=None, forced_eos_token_id=None)
    settings.update(max_new_tokens=None, max_time=None, num_return_sequences=None)
    settings.return_dict_in_generate = None
    return settings


def inherited_settings(teacher: GenerationConfig) -> GenerationConfig:
    """Copy a teacher's generation settings for a student; its limit follows from its own corpus."""
    settings = search_settings(teacher)
    settings.max_length = None
    return settings


def own_limit(settings: GenerationConfig, positions: int | None = None) -> int | None:
    """Longest translation, in tokens, by a model's `max_length`, which counts the first input too.

    None if the settings have none. It is never more than the model's positions, or `LONGEST`.
    """
    longest: int | None = settings.max_length
    return None if longest is None else min(longest - 1, LONGEST, positions or LONGEST)


def settle_search(model: PreTrainedModel, source_tokens: int, target_tokens: int) -> None:
    """Complete a student's generation settings: plain `generate` then decodes as `translate` does.

    A file cannot state a limit by each source's length, so `max_length` follows from the longest
    sentences of the corpus.

    Args:
        model: the student; `num_beams` and `max_length` are kept where its settings name them.
        source_tokens, target_tokens: of the longest source and target that the student learns from.
    """
    settings = search_settings(model.generation_config)
    set_beams(settings, settings.num_beams or BEAMS)
    if settings.max_length is None:
        limit = max(LEAST_LIMIT, generation_limit(source_tokens), target_tokens)
        settings.max_length = min(limit, positions_of(model.config) or limit)
    model.generation_config = settings


def set_beams(settings: GenerationConfig, beams: int) -> None:
    """Set the width of the beam; greedy search has no settings of beams, and none are saved."""
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
    beams: int | None = None,
    max_tokens: int = 4096,
    cut: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[list[str]]:
    """Several translations of every sentence by beam search, the best first.

    They are what plain `generate` finds for each sentence alone by the model's `search_settings`.
    If those have no `max_length`, translations end at `generation_limit`.

    Args:
        model: an encoder-decoder; it is put into evaluation mode.
        tokenizer: its tokenizer; its language codes become special tokens (`mark_languages`).
        sentences: plain text, one sentence each; an empty one is translated as empty.
        count: how many translations, at most `beams`.
        beams: width of the beam, 1 is greedy search; None: the model's own, or `BEAMS`.
        max_tokens: padded source tokens per batch.
        cut: end translations at `generation_limit` in any case, as a guard against teachers that
            run on and on.
        progress: called now and then with the number of sentences done so far.

    Returns:
        Plain, detokenised translations, in the order of `sentences`.
    """
    mark_languages(tokenizer)
    model.eval()
    positions = positions_of(model.config)
    encoded = encode_sources(tokenizer, sentences, positions)
    usual = [generation_limit(len(ids), positions) for ids in encoded]
    found: dict[int, list[str]] = {}
    with searching(model) as settings:
        search = _Search(model, tokenizer, count, beams or settings.num_beams or BEAMS)
        longest = None if cut else own_limit(settings, positions)
        limits = usual
        if longest is not None:
            far = settings.early_stopping == "never"  # goes on for what may come up to `longest`
            limits = [longest if far else min(limit, longest) for limit in usual]
        waiting = list(range(len(sentences)))
        sizes = [len(ids) for ids in encoded]
        while waiting:
            for batch in _batches([sizes[index] for index in waiting], max_tokens):
                indices = [waiting[place] for place in batch]
                results = search.run(
                    [encoded[i] for i in indices], [limits[i] for i in indices], longest
                )
                before = len(found)
                for index, (hypotheses, ended) in zip(indices, results, strict=True):
                    if ended or longest in (None, limits[index]):
                        found[index] = hypotheses if sentences[index].strip() else [""] * count
                if progress is not None and len(found) > before:
                    progress(len(found))
            # Longer translations than usual are rare, but their whole batch would wait for them.
            waiting = [index for index in waiting if index not in found]
            for index in waiting:
                assert longest is not None
                limits[index] = sizes[index] = longest
    return [found[index] for index in range(len(sentences))]


def _batches(sizes: Sequence[int], max_tokens: int) -> TokenBatchSampler:
    lengths = np.array([[size, size] for size in sizes])
    return TokenBatchSampler(lengths, max(max_tokens, *sizes), shuffle=False)


@contextmanager
def searching(model: PreTrainedModel) -> Iterator[GenerationConfig]:
    """Give a model `search_settings` for a while; `generate` fills in what others lack from its."""
    own = model.generation_config
    model.generation_config = search_settings(own)
    try:
        yield model.generation_config
    finally:
        model.generation_config = own


@dataclass(frozen=True)
class _Search:
    """A beam search."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    count: int
    beams: int

    def run(
        self, sources: Sequence[list[int]], limits: Sequence[int], longest: int | None
    ) -> list[tuple[list[str], bool]]:
        """Translate a batch.

        Args:
            sources: token ids of each sentence.
            limits: most tokens of each translation.
            longest: the model's own limit, which some searches weigh beams by.

        Returns:
            For each sentence its hypotheses, and whether its search ended by itself, so that a
            higher limit would change nothing.
        """
        device = self.model.device
        inputs = self.tokenizer.pad({"input_ids": list(sources)}, return_tensors="pt").to(device)
        ends = torch.tensor(limits, device=device)
        output = self.model.generate(
            **inputs,
            num_beams=self.beams,
            num_return_sequences=max(self.beams, self.count),
            max_length=1 + (longest or max(limits)),
            stopping_criteria=StoppingCriteriaList([_OwnLimits(ends)]),
        )
        found = output.unflatten(0, (len(sources), self.beams))
        ended = self._ended(found[..., 1:], ends)
        texts = self.tokenizer.batch_decode(
            found[:, : self.count].flatten(0, 1), skip_special_tokens=True
        )
        return [
            ([text.strip() for text in texts[place * self.count :][: self.count]], whole)
            for place, whole in enumerate(ended)
        ]

    def _ended(self, found: Tensor, limits: Tensor) -> list[bool]:
        """Whether all beams (B, beams, T) have come to their end: only then no other can win."""
        end = self.model.generation_config.eos_token_id
        ids = torch.tensor([] if end is None else end, device=found.device, dtype=found.dtype)
        within = torch.arange(found.shape[-1], device=found.device) < limits[:, None, None]
        ended: list[bool] = (torch.isin(found, ids) & within).any(-1).all(-1).tolist()
        return ended


class _OwnLimits(StoppingCriteria):
    """Stops each translation at its own limit, so that it does not depend on its batch."""

    def __init__(self, limits: Tensor) -> None:
        self.limits = limits

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Which rows (sentences × beams) are done; the decoder's start is no token of theirs."""
        beams = input_ids.shape[0] // len(self.limits)
        done: Tensor = input_ids.shape[1] - 1 >= self.limits.repeat_interleave(beams)
        return done
