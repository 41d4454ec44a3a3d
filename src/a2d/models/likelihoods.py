"""Lengths and log-probabilities of hypotheses that transformers found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

_MAX_LOGITS = 2**26
"""Logits that are computed at once: 256 MB in float32."""


def count_tokens(outputs: Tensor, ends: Tensor, limits: Tensor) -> Tensor:
    """Count the tokens of hypotheses up to their end token, or their limit.

    Args:
        outputs: token ids (rows, T), without the decoder's start token.
        ends: ids of the end tokens.
        limits: largest number of tokens of each row (rows,).
    """
    is_end = torch.isin(outputs, ends)
    first = is_end.int().argmax(-1) + 1
    return torch.where(is_end.any(-1), first, outputs.shape[-1]).minimum(limits)


def log_probabilities(
    model: PreTrainedModel, inputs: dict[str, Tensor], outputs: Tensor, lengths: Tensor
) -> Tensor:
    """Compute the log-probability of hypotheses, with the model's decoder over whole hypotheses.

    The scores of `generate` would differ between greedy and beam search, and would need the logits
    of all steps in memory.

    Args:
        model: an encoder-decoder with its generation settings.
        inputs: `input_ids` and `attention_mask` of the sources (B, S).
        outputs: token ids (B, count, 1 + T), with the decoder's start token.
        lengths: number of tokens of each hypothesis (B, count), without the start token.

    Returns:
        Sums of log-probabilities (B, count). A forced first token does not count.
    """
    settings, count = model.generation_config, outputs.shape[1]
    states = model.get_encoder()(**inputs).last_hidden_state
    banned = torch.tensor(_banned(settings), device=outputs.device, dtype=torch.long)
    positions = torch.arange(outputs.shape[2] - 1, device=outputs.device)
    counted = positions < lengths[..., None]
    if settings.forced_bos_token_id is not None:
        counted = counted & (positions > 0)
    sums = []
    size = max(1, _MAX_LOGITS // (count * len(positions) * model.config.vocab_size))
    for rows in torch.arange(len(outputs), device=outputs.device).split(size):
        hypotheses = outputs[rows].flatten(0, 1)
        logits = model(
            encoder_outputs=(states[rows].repeat_interleave(count, 0),),
            attention_mask=inputs["attention_mask"][rows].repeat_interleave(count, 0),
            decoder_input_ids=hypotheses[:, :-1],
        ).logits.float()
        logits[..., banned] = -math.inf
        chosen = logits.gather(-1, hypotheses[:, 1:, None]).squeeze(-1)
        values = (chosen - logits.logsumexp(-1)).unflatten(0, (-1, count))
        sums.append(values.masked_fill(~counted[rows], 0).sum(-1))
    return torch.cat(sums)


def _banned(settings: GenerationConfig) -> list[int]:
    return [*_single(settings.bad_words_ids or ()), *(settings.suppress_tokens or ())]


def _single(sequences: Sequence[Sequence[int]]) -> Iterator[int]:
    return (sequence[0] for sequence in sequences if len(sequence) == 1)
