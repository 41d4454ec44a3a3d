"""What a recipe amounts to: the stages that lead from its corpus to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from a2d.errors import UserError
from a2d.files import identity
from a2d.method.methods import METHODS
from a2d.models.loading import load_config
from a2d.runs.recipe import Recipe
from a2d.runs.settings import Distillation, Shape, Training
from a2d.runs.splits import Splits, text_hash
from a2d.stage import Stage
from a2d.teachers import model_path
from a2d.text.known import KnownTranslations

TEACHER = "teacher"

TOKENS, DISTILLED, MONOLINGUAL = "tokens", "distilled", "monolingual"
"""Parts that the training data of a student consists of: the corpus, the corpus with the teacher's
translations as references, and text without references with the teacher's translations."""


@dataclass(frozen=True)
class Model:
    """A model that a run trains, or the teacher that it is given.

    `shape` and `training` are None for a pretrained model, whose folder or hub name is `path`; that
    is empty for a teacher of whom only translations are known. `learns_from` names the parts of its
    training data. `size` is a student's in short; `speed` is the stage that measures it, one for
    all students of a shape.
    """

    name: str
    path: str
    shape: Shape | None
    training: Training | None
    method: Distillation
    seed: int
    stage: Stage
    translations: Stage
    learns_from: tuple[str, ...] = (TOKENS,)
    taught_by: str | None = None
    size: str | None = None
    speed: Stage | None = None

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher runs beside its training, or starts it."""
        return METHODS[self.method.method].asks_teacher or self.method.student_start == "teacher"

    @property
    def foreign(self) -> bool:
        """Whether it is a system elsewhere, which a2d cannot load."""
        return not self.path


@dataclass(frozen=True)
class Plan:
    """All stages of a run.

    `prepared` is the pretrained teacher set to the corpus's languages or trimmed to it, if asked
    for. `yardstick` holds the teacher's validation scores. `distilled` is the training data with
    the teacher's translations as references, `monolingual` that of text without references;
    `caches` hold what the teacher says of the data that students read, by the parts of that.
    """

    corpus: Stage
    prepared: Stage | None
    vocabulary: Stage
    tokens: Stage
    distilled: Stage
    monolingual: Stage | None
    caches: dict[tuple[str, ...], Stage]
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

    def needs_cache(self, parts: tuple[str, ...]) -> bool:
        """Whether any student that is not trained yet reads the cache of that data."""
        waiting = [student for student in self.students if not student.stage.done]
        return any(
            METHODS[student.method.method].asks_teacher and student.learns_from == parts
            for student in waiting
        )

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
        early += [self.distilled] * self.needs_distilled
        early += [self.monolingual] if self.monolingual else []
        early += [self.yardstick]
        return [*early, *self.caches.values(), *training, *translations, *speeds.values()]


def make_plan(recipe: Recipe, folder: Path, splits: Splits) -> Plan:
    """Lay out the stages of a run in `folder`, with the settings that each depends on."""
    corpus = Stage(folder / "corpus", {"text": splits.fingerprint})
    text = text_hash(splits.monolingual) if splits.monolingual else None
    pretrained = None if recipe.teacher.path is None else identity(model_path(recipe.teacher.path))
    prepared = _prepared(recipe, folder, pretrained, corpus, text)
    tokenizer = recipe.vocabulary.path
    vocabulary = Stage(
        folder / "vocabulary",
        {
            "corpus": corpus.fingerprint,
            "teacher": prepared.fingerprint if prepared else pretrained,
            "size": recipe.vocabulary.size,
            "path": None if tokenizer is None else identity(model_path(tokenizer)),
        },
    )
    if text is not None and recipe.teacher.path is None and recipe.vocabulary.path is None:
        vocabulary = replace(vocabulary, settings={**vocabulary.settings, "monolingual": text})
    teacher = _teacher(recipe, folder, vocabulary, pretrained, prepared, splits.known)
    parts = _parts(recipe, folder, vocabulary, teacher, text)
    students = [
        _student(recipe, folder, vocabulary, teacher, parts, shape, method, seed)
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
    caches = _caches(folder, teacher, parts, students) if recipe.teacher.cache else {}
    yardstick = Stage(folder / "yardstick", {"teacher": teacher.stage.fingerprint})
    tokens, distilled, monolingual = parts[TOKENS], parts[DISTILLED], parts.get(MONOLINGUAL)
    return Plan(
        corpus,
        prepared,
        vocabulary,
        tokens,
        distilled,
        monolingual,
        caches,
        yardstick,
        teacher,
        students,
    )


def _parts(
    recipe: Recipe, folder: Path, vocabulary: Stage, teacher: Model, text: str | None
) -> dict[str, Stage]:
    """The stages of the parts of training data; `text` is the monolingual text's hash."""
    settings = {
        "vocabulary": vocabulary.fingerprint,
        "teacher": teacher.stage.fingerprint,
        "longest": recipe.training.max_tokens,
    }
    if not teacher.foreign:
        settings |= recipe.evaluation.model_dump(include={"beams", "max_tokens"})
        settings |= recipe.sequences.model_dump(exclude_defaults=True)
    parts = {
        TOKENS: Stage(folder / TOKENS, {"vocabulary": vocabulary.fingerprint}),
        DISTILLED: Stage(folder / DISTILLED, settings),
    }
    if text is not None:
        parts[MONOLINGUAL] = Stage(folder / MONOLINGUAL, {**settings, "text": text})
    return parts


def _caches(
    folder: Path, teacher: Model, parts: Mapping[str, Stage], students: Sequence[Model]
) -> dict[tuple[str, ...], Stage]:
    """The stages of what the teacher says of all the data that it is asked about."""
    kinds: dict[tuple[str, ...], bool] = {}
    for student in students:
        kind = METHODS[student.method.method]
        if kind.asks_teacher:
            kinds[student.learns_from] = kinds.get(student.learns_from, False) or kind.states
    caches = {}
    for names, states in kinds.items():
        data = [parts[name].fingerprint for name in names]
        settings: dict[str, Any] = {
            "teacher": teacher.stage.fingerprint,
            "data": data if len(data) > 1 else data[0],
        }
        if states:
            settings["states"] = True
        place = "+".join([*names, "states"] if states else names)
        caches[names] = Stage(folder / "cache" / place, settings)
    return caches


def space_needed(plan: Plan, recipe: Recipe) -> int:
    """Bytes that a run has still to write: models, and the checkpoints of those under way."""
    given, vocabulary = recipe.teacher, recipe.vocabulary.size
    if given.path is not None and not given.trim:
        vocabulary = load_config(given.path).vocab_size
    shapes = [model.shape for model in plan.trained if not model.stage.done]
    sizes = sorted(_parameters(vocabulary, shape) for shape in shapes if shape is not None)
    # A checkpoint holds weights and two Adam moments; three exist while the oldest goes.
    return 4 * (sum(sizes) + 9 * sum(sizes[-recipe.compute.parallel :])) + 50_000_000


def _prepared(
    recipe: Recipe, folder: Path, pretrained: str | None, corpus: Stage, text: str | None
) -> Stage | None:
    teacher = recipe.teacher
    if not (teacher.languages or teacher.source_prefix or teacher.trim):
        return None
    settings: dict[str, Any] = {"model": pretrained, "languages": teacher.languages}
    if teacher.source_prefix:
        settings["source prefix"] = teacher.source_prefix
    if teacher.trim:
        settings["trimmed to"] = corpus.fingerprint
        if text is not None:
            settings["monolingual"] = text
    return Stage(folder / "teacher", settings)


def _teacher(
    recipe: Recipe,
    folder: Path,
    vocabulary: Stage,
    pretrained: str | None,
    prepared: Stage | None,
    known: KnownTranslations | None,
) -> Model:
    given = recipe.teacher
    method = Distillation(method="baseline", name=TEACHER)
    settings: dict[str, Any] = {"vocabulary": vocabulary.fingerprint}
    if given.command is not None:
        settings["command"] = given.command
    elif known is not None:
        settings["translations"] = known.fingerprint
    elif given.shape is None or given.training is None:
        settings["model"] = pretrained
    else:
        settings |= _training_settings(given.shape, method, given.training, seed=1)
    stage = Stage(folder / "models" / TEACHER, settings)
    return Model(
        TEACHER,
        "" if given.foreign else str(prepared.folder if prepared else given.path or stage.folder),
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
    parts: Mapping[str, Stage],
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
    learns_from = _learns_from(method, MONOLINGUAL in parts)
    if kind.sequences:
        settings["references"] = parts[DISTILLED].fingerprint
    if MONOLINGUAL in learns_from:
        settings[MONOLINGUAL] = parts[MONOLINGUAL].fingerprint
    if kind.sequences and MONOLINGUAL in parts:
        settings["method"][MONOLINGUAL] = method.monolingual
    if kind.asks_teacher and recipe.teacher.cache:
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
        learns_from,
        taught_by=TEACHER if taught else None,
        size=size,
        speed=_speed(recipe, folder, teacher, shape, size, method.student_start == "marian"),
    )


def _learns_from(method: Distillation, monolingual: bool) -> tuple[str, ...]:
    """The parts of the data of a method, in a run with or without monolingual text."""
    kind = METHODS[method.method]
    if not kind.sequences:
        return (TOKENS,)
    more = (MONOLINGUAL,) if monolingual and method.monolingual else ()
    return (TOKENS, DISTILLED, *more) if kind.references else (DISTILLED, *more)


def _size(shape: Shape, others: Sequence[Shape]) -> str:
    """Layers and heads in short; widths too, where there are several."""
    size = f"{shape.encoder_layers}+{shape.decoder_layers}x{shape.heads}"
    if shape.decoder_heads not in (None, shape.heads):
        size += f"+{shape.decoder_heads}"
    widths = {(other.width, other.feed_forward) for other in others}
    return f"{size}-{shape.width}-{shape.feed_forward}" if len(widths) > 1 else size


def _taught(method: Distillation) -> bool:
    """Whether the teacher has a part in a student, be it only its start."""
    return METHODS[method.method].uses_teacher or method.student_start == "teacher"


def _training_settings(
    shape: Shape, method: Distillation, training: Training, seed: int
) -> dict[str, Any]:
    # Settings that a method does not use must not make a finished model look like another one.
    used = {"method", *METHODS[method.method].settings}
    if _taught(method) or method.student_start == "marian":
        used |= {"student_start"}
        if method.copied_layers != "spread":
            used |= {"copied_layers"}
    return {
        "shape": shape.model_dump(exclude_none=True),
        "method": {name: getattr(method, name) for name in sorted(used)},
        "training": {
            name: value
            for name, value in asdict(training).items()
            if value is not None and name != "sized"
        },
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
