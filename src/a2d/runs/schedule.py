"""The schedule that fits a corpus and a student: batch size, updates, warm-up, learning rate.

`docs/schedule.md` has the experiments behind every number here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from a2d.text.batching import encode_sources
from a2d.text.pairs import Pair

_SAMPLE = 2000
"""Pairs whose tokens are counted."""


def count_tokens(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> int:
    """Estimate the corpus' tokens, of the longer side of each pair, from a sample."""
    count = min(_SAMPLE, len(pairs))
    numbers = sorted(random.Random(0).sample(range(len(pairs)), count))
    sample = [pairs[number] for number in numbers]
    sources = encode_sources(tokenizer, [pair.source for pair in sample])
    targets = tokenizer(text_target=[pair.target for pair in sample], truncation=True)["input_ids"]
    longer = (max(len(s), len(t)) for s, t in zip(sources, targets, strict=True))
    return round(sum(longer) * len(pairs) / max(1, count))


def schedule_for(tokens: int, start: str) -> dict[str, Any]:
    """Settings of `a2d.runs.recipe.Training` for a student.

    Args:
        tokens: of the training corpus, longer side of each pair.
        start: of the student: `teacher`, or at random.
    """
    batch = 512
    updates = 600
    per_epoch = max(1.0, tokens / batch)
    return {
        "schedule": "plateau",
        "max_tokens": batch,
        "epochs": updates / per_epoch,
        "evaluate_every": 100 / per_epoch,
        "learning_rate": 1e-3,
        "warmup_steps": 50,
        "patience": 3,
        "clip_norm": 1.0,
    }
