"""The schedule that fits a corpus and a student: batch size, updates, warm-up, learning rate.

`docs/schedule.md` has the experiments behind every number here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from a2d.errors import UserError
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.recipe import Recipe
from a2d.runs.splits import Splits
from a2d.text.batching import encode_sources
from a2d.text.pairs import Pair

SAMPLE = 2000
"""Pairs whose tokens are counted; the rest is estimated."""

BATCHES = (512, 1024)
"""Tokens of a batch: the first for corpora of fewer than `SMALL` tokens, the second for others."""
SMALL = 100_000

RATE, WIDTH = 2e-3, 128
"""Peak learning rate of a model of that width. Up to `WIDEST` others take it times the square root
of the inverse ratio; still wider ones, which were not measured, less: in inverse proportion."""
WIDEST = 256

UPDATES, BASE_TOKENS = 1000, 12_000
"""Planned updates for a corpus of that many tokens. Others have more or fewer with the cube root of
their size, and always `LEAST_EPOCHS`."""
LEAST_EPOCHS = 3
RANDOM_START = 2
"""Times as many updates for a student that starts from random weights."""

VALIDATIONS = 15

PATIENCE = 4


def sized(recipe: Recipe, splits: Splits) -> Recipe:
    """Fill in the schedule of a recipe with `training.sized`; what the recipe names stays.

    Several students share one schedule: that of the widest, from random weights if any starts so.

    Args:
        recipe: the recipe.
        splits: its corpus.

    Raises:
        UserError: there is no tokenizer yet to count tokens with.
    """
    if not recipe.training.sized:
        return recipe
    teacher = recipe.teacher
    if teacher.path is None:
        raise UserError(
            f"{recipe.name}: training.sized needs a pretrained teacher, whose tokenizer counts the "
            "corpus' tokens: give teacher.path, or training's settings."
        )
    tokenizer = load_tokenizer(teacher.path, teacher.languages, teacher.source_prefix)
    methods = [method.definition for method in recipe.methods]
    tokens = count_tokens(splits.train, tokenizer) * (1 + any(m.references for m in methods))
    if any(m.sequences and s.monolingual for m, s in zip(methods, recipe.methods, strict=True)):
        tokens += count_tokens(splits.monolingual, tokenizer)
    starts = {method.student_start for method in recipe.methods}
    start = "teacher" if starts == {"teacher"} else "random"
    width = max(student.width for student in recipe.students)
    chosen = {
        "training": schedule_for(tokens, width, start),
        "distillation": imitation_for(tokens, start),
    }
    return recipe.filled(chosen)


def count_tokens(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> int:
    """Estimate the corpus' tokens, of the longer side of each pair, from a sample."""
    count = min(SAMPLE, len(pairs))
    numbers = sorted(random.Random(0).sample(range(len(pairs)), count))
    sample = [pairs[number] for number in numbers]
    sources = encode_sources(tokenizer, [pair.source for pair in sample])
    targets = tokenizer(text_target=[pair.target for pair in sample], truncation=True)["input_ids"]
    longer = (max(len(s), len(t)) for s, t in zip(sources, targets, strict=True))
    return round(sum(longer) * len(pairs) / max(1, count))


def schedule_for(tokens: int, width: int, start: str) -> dict[str, Any]:
    """Choose the settings of a student's training (`a2d.runs.settings.Training`).

    The learning rate decays linearly over the planned updates, or faster once validation stops
    improving (`a2d.training.schedule`).

    Args:
        tokens: of the training corpus, longer side of each pair.
        width: of the student.
        start: `teacher`: from the teacher's layers; otherwise at random.

    Example:
        >>> schedule_for(12_000, 128, "teacher")["max_tokens"]
        512
    """
    batch = BATCHES[0] if tokens < SMALL else BATCHES[1]
    per_epoch = max(1.0, tokens / batch)
    updates = max(UPDATES * (tokens / BASE_TOKENS) ** (1 / 3), LEAST_EPOCHS * per_epoch)
    if start != "teacher":
        updates *= RANDOM_START
    return {
        "max_tokens": batch,
        "learning_rate": rate_for(width),
        "warmup_steps": 50 if start == "teacher" else 200,
        "max_steps": round(updates),
        "evaluate_every": round(updates / per_epoch / VALIDATIONS, 3),
        "plateau_patience": PATIENCE,
    }


def rate_for(width: int) -> float:
    """Choose the peak learning rate.

    Example:
        >>> [round(rate_for(width), 5) for width in (64, 128, 256, 512)]
        [0.00283, 0.002, 0.00141, 0.00071]
    """
    measured = min(width, WIDEST)
    return float(RATE * (WIDTH / measured) ** 0.5 * measured / width)


def imitation_for(tokens: int, start: str) -> dict[str, float]:
    """Choose the weights of the objective (`a2d.runs.settings.MethodSettings`).

    From a small corpus, a student that starts from its teacher's layers learns the teacher's
    distributions alone: it would soon know the references by heart.

    Args:
        tokens: of the training corpus, longer side of each pair.
        start: `teacher`: from the teacher's layers; otherwise at random.
    """
    if start != "teacher":
        return {"alpha": 0.5, "beta": 3.0}
    return {"alpha": 1.0 if tokens < SMALL else 0.5, "beta": 1.0}
