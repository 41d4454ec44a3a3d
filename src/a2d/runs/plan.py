"""What a recipe amounts to: its corpus, and the stages that lead from it to scores."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from a2d.errors import UserError
from a2d.models.loading import load_config
from a2d.runs.recipe import Distillation, Recipe, Shape, Training
from a2d.stage import Stage
from a2d.text.cleaning import CleaningReport, clean, hold_out
from a2d.text.corpus import iterate_corpus, read_corpus
from a2d.text.identification import asked_for
from a2d.text.pairs import Pair
from a2d.text.storage import StoredPairs
from a2d.training.distillation import METHODS

logger = logging.getLogger(__name__)

TEACHER = "teacher"

_FEWEST = 20
"""Pairs that a score is worth computing on."""


class Splits(NamedTuple):
    """A corpus, cleaned where models learn from it, and the warnings of its reading."""

    train: Sequence[Pair]
    valid: list[Pair]
    test: list[Pair]
    cleaning: CleaningReport
    warnings: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of all the text."""
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test):
            for pair in split:
                digest.update(f"{pair.source}\t{pair.target}\n".encode())
            digest.update(b"\0")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Model:
    """A model that a run trains, or the pretrained teacher it loads.

    `shape` and `training` are None for a pretrained model, whose folder or hub name is `path`.
    `size` is a student's in short; `speed` is the stage that measures it, one for all students of
    a shape.
    """

    name: str
    path: str
    shape: Shape | None
    training: Training | None
    method: Distillation
    seed: int
    stage: Stage
    translations: Stage
    taught_by: str | None = None
    size: str | None = None
    speed: Stage | None = None

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher runs beside its training, or starts it."""
        return METHODS[self.method.method].distribution or self.method.student_start == "teacher"


@dataclass(frozen=True)
class Plan:
    """All stages of a run.

    `prepared` is the pretrained teacher set to the corpus's languages or trimmed to it, if asked
    for. `yardstick` holds the teacher's validation scores. `distilled` is the training data with
    the teacher's translations as references; `caches` hold what the teacher says of the data, by
    whether that is `distilled`, where students read it.
    """

    corpus: Stage
    prepared: Stage | None
    vocabulary: Stage
    tokens: Stage
    distilled: Stage
    caches: dict[bool, Stage]
    yardstick: Stage
    teacher: Model
    students: list[Model]

    @property
    def models(self) -> list[Model]:
        """The teacher, then the students."""
        return [self.teacher, *self.students]

    @property
    def needs_distilled(self) -> bool:
        """Whether any student has the teacher's translations as references."""
        return any(METHODS[student.method.method].sequences for student in self.students)

    def needs_cache(self, sequences: bool) -> bool:
        """Whether any student that is not trained yet reads the cache of that data."""
        kinds = [METHODS[s.method.method] for s in self.students if not s.stage.done]
        return any(kind.distribution and kind.sequences == sequences for kind in kinds)

    @property
    def trained(self) -> list[Model]:
        """The models that the run trains."""
        return [model for model in self.models if model.shape is not None]

    @property
    def stages(self) -> list[Stage]:
        """Every stage, in order."""
        training = [model.stage for model in self.trained]
        translations = [model.translations for model in self.models]
        speeds = {model.speed.folder: model.speed for model in self.students if model.speed}
        early = [self.corpus, *([self.prepared] if self.prepared else [])]
        early += [self.vocabulary, self.tokens]
        early += [self.distilled] * self.needs_distilled + [self.yardstick]
        return [*early, *self.caches.values(), *training, *translations, *speeds.values()]


def read_splits(recipe: Recipe) -> Splits:
    """Read the recipe's corpus and clean its training part.

    Raises:
        UserError: a part is missing, malformed, or empty after cleaning.
    """
    corpus = recipe.corpus
    languages = corpus.source_language, corpus.target_language
    parts = {
        name: _whole(read_corpus(spec, name, languages), name)
        for name in ("valid", "test")
        if (spec := getattr(corpus, name)) is not None
    }
    rules = corpus.cleaning.model_dump(exclude={"language"})
    rules["languages"] = asked_for(corpus.cleaning.language, languages)
    raw = StoredPairs(iterate_corpus(corpus.train, "train", languages))
    train, cleaning = clean(raw, **rules, into=StoredPairs)
    for name in [name for name in ("test", "valid") if name not in parts]:
        parts[name], train = _held_out(name, train)
    if corpus.limit is not None and corpus.limit < len(train):
        chosen = random.Random(0).sample(range(len(train)), corpus.limit)
        train = StoredPairs(train[index] for index in chosen)
    if not train:
        raise UserError(f"train: cleaning leaves no pair ({cleaning.as_dict()}): loosen its rules.")
    return Splits(train, parts["valid"], parts["test"], cleaning)


def _whole(pairs: list[Pair], name: str) -> list[Pair]:
    """Those with two sides, which scores need."""
    whole = [pair for pair in pairs if all(pair)]
    if not whole:
        raise UserError(f"{name}: every pair has an empty side: give a corpus with both.")
    if len(whole) < len(pairs):
        first = next(number for number, pair in enumerate(pairs, 1) if not all(pair))
        logger.warning(
            "%s: %s of %s pairs have an empty side and were left out: the first is pair %s.",
            name,
            f"{len(pairs) - len(whole):,}",
            f"{len(pairs):,}",
            f"{first:,}",
        )
    return whole


def _held_out(name: str, train: StoredPairs) -> tuple[list[Pair], StoredPairs]:
    count = min(1000, len(train) // 20)
    if count < _FEWEST:
        raise UserError(
            f"{name}: the {len(train):,} training pairs are too few to hold out some of them for "
            f"it ({20 * _FEWEST:,} would do): give corpus.{name} (`a2d distill --{name}`)."
        )
    return hold_out(train, count, into=StoredPairs)


def make_plan(recipe: Recipe, folder: Path, splits: Splits) -> Plan:
    """Lay out the stages of a run in `folder`, with the settings that each depends on."""
    corpus = Stage(folder / "corpus", {"text": splits.fingerprint})
    prepared = _prepared(recipe, folder, corpus)
    vocabulary = Stage(
        folder / "vocabulary",
        {
            "corpus": corpus.fingerprint,
            "teacher": prepared.fingerprint if prepared else recipe.teacher.path,
            **recipe.vocabulary.model_dump(),
        },
    )
    teacher = _teacher(recipe, folder, vocabulary, prepared)
    search = recipe.evaluation.model_dump(include={"beams", "max_tokens"})
    search |= recipe.sequences.model_dump(exclude_defaults=True)
    distilled = Stage(
        folder / "distilled",
        {
            "vocabulary": vocabulary.fingerprint,
            "teacher": teacher.stage.fingerprint,
            "longest": recipe.training.max_tokens,
            **search,
        },
    )
    students = [
        _student(recipe, folder, vocabulary, teacher, distilled, shape, method, seed)
        for shape in recipe.students
        for method in recipe.methods
        for seed in recipe.seeds
    ]
    names = [student.name for student in students]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two students would be called {name!r}: they differ in nothing but dropout, or "
                "not at all. Give each a recipe and a run of its own."
            )
    tokens = Stage(folder / "tokens", {"vocabulary": vocabulary.fingerprint})
    caches = {}
    if recipe.teacher.cache:
        kinds = [METHODS[method.method] for method in recipe.methods]
        for sequences in {kind.sequences for kind in kinds if kind.distribution}:
            data = distilled if sequences else tokens
            settings: dict[str, Any] = {
                "teacher": teacher.stage.fingerprint,
                "data": data.fingerprint,
            }
            name = data.folder.name
            if any(kind.states for kind in kinds if kind.sequences == sequences):
                settings["states"], name = True, f"{name}+states"
            caches[sequences] = Stage(folder / "cache" / name, settings)
    yardstick = Stage(folder / "yardstick", {"teacher": teacher.stage.fingerprint})
    return Plan(
        corpus, prepared, vocabulary, tokens, distilled, caches, yardstick, teacher, students
    )


def space_needed(plan: Plan, recipe: Recipe) -> int:
    """Bytes that a run has still to write: models, and the checkpoints of those under way."""
    given, vocabulary = recipe.teacher, recipe.vocabulary.size
    if given.path is not None and not given.trim:
        vocabulary = load_config(given.path).vocab_size
    shapes = [model.shape for model in plan.trained if not model.stage.done]
    sizes = sorted(_parameters(vocabulary, shape) for shape in shapes if shape is not None)
    # A checkpoint holds weights and two Adam moments; three exist while the oldest goes.
    return 4 * (sum(sizes) + 9 * sum(sizes[-recipe.compute.parallel :])) + 50_000_000


def _prepared(recipe: Recipe, folder: Path, corpus: Stage) -> Stage | None:
    teacher = recipe.teacher
    if not (teacher.languages or teacher.source_prefix or teacher.trim):
        return None
    settings: dict[str, Any] = {"path": teacher.path, "languages": teacher.languages}
    if teacher.source_prefix:
        settings["source prefix"] = teacher.source_prefix
    if teacher.trim:
        settings["trimmed to"] = corpus.fingerprint
    return Stage(folder / "teacher", settings)


def _teacher(recipe: Recipe, folder: Path, vocabulary: Stage, prepared: Stage | None) -> Model:
    given = recipe.teacher
    method = Distillation(method="baseline", name=TEACHER)
    settings: dict[str, Any] = {"vocabulary": vocabulary.fingerprint}
    if given.shape is None or given.training is None:
        settings["path"] = given.path
    else:
        settings |= _training_settings(given.shape, method, given.training, seed=1)
    stage = Stage(folder / "models" / TEACHER, settings)
    return Model(
        TEACHER,
        str(prepared.folder if prepared else given.path or stage.folder),
        given.shape,
        given.training,
        method,
        1,
        stage,
        _translations(recipe, folder, TEACHER, stage),
    )


def _student(
    recipe: Recipe,
    folder: Path,
    vocabulary: Stage,
    teacher: Model,
    distilled: Stage,
    shape: Shape,
    method: Distillation,
    seed: int,
) -> Model:
    size = _size(shape, [other for other in (teacher.shape, *recipe.students) if other])
    name = f"{method.name}-{size}-seed{seed}"
    settings: dict[str, Any] = {"vocabulary": vocabulary.fingerprint}
    settings |= _training_settings(shape, method, recipe.training, seed)
    kind = METHODS[method.method]
    taught = _taught(method)
    if taught:
        settings["teacher"] = teacher.stage.fingerprint
    if kind.sequences:
        settings["references"] = distilled.fingerprint
    if kind.distribution and recipe.teacher.cache:
        settings["cache"] = True
    stage = Stage(folder / "models" / name, settings)
    return Model(
        name,
        str(stage.folder),
        shape,
        recipe.training,
        method,
        seed,
        stage,
        _translations(recipe, folder, name, stage),
        taught_by=TEACHER if taught else None,
        size=size,
        speed=_speed(recipe, folder, teacher, shape, size, method.student_start == "marian"),
    )


def _size(shape: Shape, others: Sequence[Shape]) -> str:
    """Layers and heads in short; widths too, where there are several."""
    size = f"{shape.encoder_layers}+{shape.decoder_layers}x{shape.heads}"
    if shape.decoder_heads not in (None, shape.heads):
        size += f"+{shape.decoder_heads}"
    widths = {(other.width, other.feed_forward) for other in others}
    return f"{size}-{shape.width}-{shape.feed_forward}" if len(widths) > 1 else size


def _taught(method: Distillation) -> bool:
    """Whether the teacher has a part in a student, be it only its start."""
    return METHODS[method.method].taught or method.student_start == "teacher"


def _training_settings(
    shape: Shape, method: Distillation, training: Training, seed: int
) -> dict[str, Any]:
    # Settings that a method does not use must not make a finished model look like another one.
    used, kind = {"method"}, METHODS[method.method]
    if _taught(method) or method.student_start == "marian":
        used |= {"student_start"}
        if method.copied_layers != "spread":
            used |= {"copied_layers"}
    if kind.distribution:
        used |= {"alpha", "temperature"}
    if kind.features:
        used |= {"beta", "decay", "groups", "alignment_learning_rate"}
    if kind.aligned:
        used |= {"formula", "alignment_start"}
    return {
        "shape": shape.model_dump(exclude_none=True),
        "method": method.model_dump(include=used),
        "training": training.model_dump(exclude={"hours"} if training.hours is None else None),
        "seed": seed,
    }


def _translations(recipe: Recipe, folder: Path, name: str, model: Stage) -> Stage:
    settings = recipe.evaluation.model_dump(exclude={"samples"})
    place = folder / "translations" / recipe.evaluation.split / name
    return Stage(place, {"model": model.fingerprint, **settings})


def _speed(
    recipe: Recipe, folder: Path, teacher: Model, shape: Shape, size: str, marian: bool
) -> Stage:
    """The stage that measures a shape: students of another family than others are another one."""
    settings = recipe.evaluation.model_dump(include={"beams", "max_tokens"})
    drawn = {"dropout", "attention_dropout", "activation_dropout"}
    settings["shape"] = shape.model_dump(exclude_none=True, exclude=drawn)
    settings["teacher"] = teacher.stage.fingerprint
    if marian and teacher.shape is None:
        settings["marian"], size = True, f"{size}-marian"
    return Stage(folder / "speed" / recipe.evaluation.split / size, settings)


def _parameters(vocabulary: int, shape: Shape) -> int:
    attention, inner = 4 * shape.width**2, 2 * shape.width
    encoder = shape.encoder_layers * (attention + inner * shape.feed_forward)
    widest = shape.decoder_feed_forward or shape.feed_forward
    decoder = shape.decoder_layers * (2 * attention + inner * widest)
    return vocabulary * shape.width + encoder + decoder
