"""Choice of a training's schedule by the sizes of corpus and student.

The schedule consists of batch size, updates, warm-up and learning rate. `docs/schedule.md` has the
experiments behind every number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from a2d.errors import UserError
from a2d.families import sizes_of
from a2d.models.loading import load_config
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.recipe import Recipe
from a2d.runs.settings import Training
from a2d.runs.splits import Splits
from a2d.text.pairs import Pair
from a2d.text.sources import encode_sources

SAMPLE_SIZE = 2000
"""Number of pairs whose tokens are counted, to estimate those of the corpus."""

SMALL_CORPUS = 100_000
"""A corpus of fewer tokens is small."""
BATCH_TOKENS = (512, 1024)
"""Tokens per batch for small corpora and for others."""

LEARNING_RATE, WIDTH = 2e-3, 128
"""Peak learning rate of a model of this width. Up to `MAX_MEASURED_WIDTH` the rate is proportional
to the inverse square root of the width. For wider models, which were not measured, it is inversely
proportional to the width, which is more careful."""
MAX_MEASURED_WIDTH = 256
SAME_WIDTH_FACTOR = 0.5
"""Factor of the rate for a student that starts from layers of its teacher at their whole width: it
has much to lose."""

UPDATES, BASE_TOKENS = 1000, 12_000
"""Planned updates for a corpus of this many tokens. They grow with the cube root of the number of
tokens, and are never fewer than `MIN_EPOCHS` passes over the corpus."""
MIN_EPOCHS = 3
RANDOM_START_FACTOR = 2
"""Factor of the updates for a student that starts from random weights."""

VALIDATIONS = 15
"""Planned validations."""
MAX_WARMUP_SHARE = 0.25
"""Largest share of the updates that are warm-up, where a recipe or `--epochs` allows only a few."""
PATIENCE = 4
"""Validations without improvement after which the learning rate decays faster."""


def fill_schedule(recipe: Recipe, splits: Splits) -> Recipe:
    """Fill in the schedule of a recipe with `training.sized`.

    Settings that the recipe names keep their values. Several students share one schedule: that of
    the widest one, from random weights if any student starts from them.

    Args:
        recipe: the recipe.
        splits: its corpus.

    Raises:
        UserError: the teacher is not pretrained, so that no tokenizer exists to count tokens with.
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
    tokens = estimate_tokens(splits.train, tokenizer) * (1 + any(m.references for m in methods))
    if any(m.sequences and s.monolingual for m, s in zip(methods, recipe.methods, strict=True)):
        tokens += estimate_tokens(splits.monolingual, tokenizer)
    starts = {method.student_start for method in recipe.methods}
    start = "teacher" if starts == {"teacher"} else "random"
    widths = {student.width for student in recipe.students}
    narrower = widths != {sizes_of(load_config(teacher.path))["width"]}
    schedule = schedule_for(tokens, max(widths), start, narrower=narrower)
    if (count := recipe.compute.gpus_per_training) > 1:  # they share the tokens of an update
        schedule["gradient_accumulation_steps"] = count
        schedule["max_tokens"] //= count
    warmup = schedule.pop("warmup_steps")
    filled = recipe.with_defaults(
        {"training": schedule, "distillation": objective_for(tokens, start)}
    )
    longest = max(1, round(MAX_WARMUP_SHARE * _updates_of(filled.training, tokens)))
    return filled.with_defaults({"training": {"warmup_steps": min(warmup, longest)}})


def _updates_of(training: Training, tokens: int) -> float:
    """Estimate the updates of a training on a corpus with this many tokens."""
    if training.max_steps is not None:
        return training.max_steps
    assert training.num_train_epochs is not None
    per_update = training.max_tokens * training.gradient_accumulation_steps
    return tokens / per_update * training.num_train_epochs


def estimate_tokens(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> int:
    """Estimate from a sample how many tokens the longer sides of all pairs have."""
    if not pairs:
        return 0
    count = min(SAMPLE_SIZE, len(pairs))
    numbers = sorted(random.Random(0).sample(range(len(pairs)), count))
    sample = [pairs[number] for number in numbers]
    sources = encode_sources(tokenizer, [pair.source for pair in sample])
    targets = tokenizer(text_target=[pair.target for pair in sample], truncation=True)["input_ids"]
    longer = (max(len(s), len(t)) for s, t in zip(sources, targets, strict=True))
    return round(sum(longer) * len(pairs) / count)


def schedule_for(tokens: int, width: int, start: str, *, narrower: bool) -> dict[str, Any]:
    """Choose settings of a student's training (`a2d.runs.settings.Training`).

    The learning rate decays linearly over the planned updates, and faster once validation scores
    stop improving (`a2d.training.schedule`).

    Args:
        tokens: tokens of the training corpus, longer side of each pair.
        width: width of the student.
        start: `teacher` for a student that starts from the teacher's layers; any other value means
            random weights.
        narrower: whether the student is narrower than its teacher.

    Example:
        >>> schedule_for(12_000, 128, "teacher", narrower=False)["max_tokens"]
        512
    """
    batch = BATCH_TOKENS[0] if tokens < SMALL_CORPUS else BATCH_TOKENS[1]
    per_epoch = max(1.0, tokens / batch)
    updates = max(UPDATES * (tokens / BASE_TOKENS) ** (1 / 3), MIN_EPOCHS * per_epoch)
    if start != "teacher":
        updates *= RANDOM_START_FACTOR
    keeps_width = start == "teacher" and not narrower
    return {
        "max_tokens": batch,
        "learning_rate": learning_rate_for(width) * (SAME_WIDTH_FACTOR if keeps_width else 1),
        "warmup_steps": 50 if start == "teacher" else 200,
        "max_steps": round(updates),
        "evaluate_every": round(updates / per_epoch / VALIDATIONS, 3),
        "plateau_patience": PATIENCE,
    }


def learning_rate_for(width: int) -> float:
    """Choose the peak learning rate of a student by its width.

    Example:
        >>> [round(learning_rate_for(width), 5) for width in (64, 128, 256, 512)]
        [0.00283, 0.002, 0.00141, 0.00071]
    """
    measured = min(width, MAX_MEASURED_WIDTH)
    return float(LEARNING_RATE * (WIDTH / measured) ** 0.5 * measured / width)


def objective_for(tokens: int, start: str) -> dict[str, float]:
    """Choose the weights of the objective (`a2d.runs.settings.MethodSettings`).

    With a small corpus, a student that starts from its teacher's layers learns from the teacher's
    distributions only, because it would soon memorise the references.

    Args:
        tokens: tokens of the training corpus, longer side of each pair.
        start: as in `schedule_for`.
    """
    if start != "teacher":
        return {"alpha": 0.5, "beta": 3.0}
    return {"alpha": 1.0 if tokens < SMALL_CORPUS else 0.5, "beta": 1.0}
