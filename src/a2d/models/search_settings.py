"""Generation settings of a beam search: beams, limits, tokens.

This module defines all of them. A student's `generation_config.json` holds them, so that plain
transformers translates as a2d does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from a2d.errors import UserError
from a2d.families import positions_of
from a2d.models.model_settings import generation_file
from a2d.quoting import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
