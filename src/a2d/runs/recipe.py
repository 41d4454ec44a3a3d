"""Recipes: the YAML description of an experiment, validated before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib import resources
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from a2d.errors import UserError
from a2d.method.attention import GROUPS
from a2d.method.transfer import FORMULAS, STARTS
from a2d.models.students import Rule, Start
from a2d.runs.overrides import assign
from a2d.runs.sections import Section, explain, extended
from a2d.suggestions import nearest
from a2d.training.distillation import METHODS

NAME = r"^\w[\w.+-]*$"
"""What names a folder."""

CorpusSpec = str | dict[str, Any] | list[str | dict[str, Any] | list[str]]


class Cleaning(Section):
    """Rules that training pairs must pass (`a2d.text.cleaning.clean`); null switches one off.

    `language`: no side is clearly in another language than the corpus's; `auto`: where the
    identifier of languages is installed (`a2d.text.identification`).
    """

    max_words: int | None = Field(default=250, ge=1)
    max_ratio: float | None = Field(default=3.0, ge=1)
    min_letters: float | None = Field(default=None, ge=0, le=1)
    drop_copies: bool = False
    consistent: bool = False
    language: bool | Literal["auto"] = False
    deduplicate: bool | Literal["near"] = True


class Corpus(Section):
    """Where the parallel text is (`a2d.text.corpus.read_corpus` lists the forms).

    Without `valid` or `test`, a twentieth of the training pairs, 1,000 at most, is held out for it.
    `monolingual`: plain text files in the source language, one sentence a line, for methods that
    learn from the teacher's translations (`a2d.text.monolingual`).
    """

    source_language: str
    target_language: str
    train: CorpusSpec
    valid: CorpusSpec | None = None
    test: CorpusSpec | None = None
    monolingual: str | list[str] | None = None
    cleaning: Cleaning = Cleaning()
    limit: int | None = Field(default=None, ge=1)


class Vocabulary(Section):
    """Joint subword vocabulary: its size, or the folder of one to use."""

    replaces: ClassVar = {"size": ("path",)}

    size: int = Field(default=8000, ge=300)
    path: str | None = None


class Training(Section):
    """How a model is trained: for so many `epochs`, or for so many `updates`.

    `schedule: plateau` decays linearly over the whole training, and faster, to an early end, once
    `patience` validations (null: 4) brought no improvement, or `hours` are nearly over
    (`a2d.training.schedule`). With other schedules `patience` ends the training.
    `evaluate_every`: epochs between two validations.
    """

    replaces: ClassVar = {"epochs": ("updates",), "updates": ("epochs",)}

    epochs: float | None = Field(default=None, gt=0)
    updates: int | None = Field(default=None, ge=1)
    max_tokens: int = Field(default=4096, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    schedule: Literal["linear", "cosine", "inverse_sqrt", "constant_with_warmup", "plateau"] = (
        "inverse_sqrt"
    )
    warmup_steps: float = Field(default=4000, ge=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float = Field(default=0.0, ge=0)
    evaluate_every: float = Field(default=1.0, gt=0)
    patience: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    bf16: bool | None = None

    @model_validator(mode="after")
    def _limited(self) -> Training:
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("give its length, as either epochs or updates")
        if self.hours is not None and self.schedule != "plateau":
            raise ValueError(
                "hours is a limit of the schedule 'plateau': leave it out, or set that"
            )
        return self


class Shape(Section):
    """Size of a model.

    `decoder_heads`, `decoder_feed_forward`: those of its decoder, if they are not the encoder's.
    """

    encoder_layers: int = Field(ge=1)
    decoder_layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    decoder_heads: int | None = Field(default=None, ge=1)
    width: int = Field(ge=2)
    feed_forward: int = Field(ge=1)
    decoder_feed_forward: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    activation_dropout: float = Field(default=0.0, ge=0, lt=1)


_FOREIGN = ("command", "translations")
_TRAINED = ("languages", "source_prefix", "trim")
_KINDS = ("path", "shape", *_FOREIGN)


class Teacher(Section):
    """The teacher, in one of four forms.

    `shape`: train one from scratch. `path`: the folder or hub name of a trained one. `command`: a
    program that translates standard input line by line. `translations`: a corpus of sources and
    the translations that some system made of them. Of the last two, students get to know
    translations alone.

    `languages`: codes of source and target as its tokenizer has them, if it knows many.
    `source_prefix`: what it expects before every source (T5: "translate German to English: "); the
    students' tokenizer keeps it. `trim`: reduce its vocabulary, and so the students', to the tokens
    of the training data. `cache`: run it over the training data once, and let all students read
    from disk what it said.
    """

    replaces: ClassVar = {
        "path": ("shape", "training", *_FOREIGN),
        "shape": ("path", *_TRAINED, *_FOREIGN),
        "command": ("shape", "training", "path", *_TRAINED, "cache", "translations"),
        "translations": ("shape", "training", "path", *_TRAINED, "cache", "command"),
    }

    path: str | None = None
    languages: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    source_prefix: str = ""
    trim: bool = False
    shape: Shape | None = None
    training: Training | None = None
    cache: bool = False
    command: str | None = None
    translations: CorpusSpec | None = None

    @property
    def foreign(self) -> bool:
        """Whether nothing is known of it but translations."""
        return self.command is not None or self.translations is not None

    @model_validator(mode="after")
    def _one_of(self) -> Teacher:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            message = (
                "give one of path (pretrained), shape (trained from scratch), command and "
                "translations (a system elsewhere)"
            )
            if given:
                message += f", not both {' and '.join(given)}"
            raise ValueError(message)
        if self.path is None and (self.languages or self.source_prefix or self.trim):
            raise ValueError(
                "languages, source_prefix and trim are for a pretrained teacher: give its path"
            )
        if self.foreign and self.cache:
            raise ValueError(
                f"cache is for a teacher that a2d runs: leave it out beside {given[0]}"
            )
        return self


def _one_of(what: str, known: Collection[str]) -> Any:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}{nearest(value, known)}")
        return value

    return AfterValidator(check)


def _groups(value: str) -> str:
    for group in value.split("+"):
        if group not in GROUPS:
            raise ValueError(f"unknown group {group!r}{nearest(group, GROUPS)}")
    return value


class Objective(Section):
    """Settings that methods share unless they name their own (`a2d.A2DConfig` explains them).

    `student_start`: a student starts at `random`, or from its `teacher`'s layers and embeddings;
    then `copied_layers` says from which layers (`a2d.models.students.RULES`). `marian`: at random,
    as a plain Transformer in the Marian class, of whatever family the teacher is.
    `monolingual`: methods with `seqkd` learn from `corpus.monolingual`, too, where there is one.
    """

    formula: Annotated[str, _one_of("formula", FORMULAS)] = "geometric"
    alpha: float = Field(default=0.5, ge=0, le=1)
    beta: float = Field(default=3.0, ge=0)
    decay: float = Field(default=1.0, ge=0, le=1)
    temperature: float = Field(default=1.0, ge=1e-3)
    groups: Annotated[str, AfterValidator(_groups)] = "+".join(GROUPS)
    alignment_start: Annotated[str, _one_of("start", STARTS)] = "uniform"
    alignment_learning_rate: float | None = Field(default=0.01, gt=0)
    student_start: Start = "random"
    copied_layers: Rule = "spread"
    monolingual: bool = True


class Distillation(Objective):
    """A method and its settings."""

    method: Annotated[str, _one_of("method", METHODS)]
    name: str = Field(pattern=NAME)


class Sequences(Section):
    """How the teacher translates the training data for methods with `seqkd`.

    `engine`: CTranslate2 is faster, and finds the same in all but one or two of a hundred sentences
    (its beams end by a rule of its own; more, for models that are released with penalties on
    repetition, which it weighs otherwise). `auto`: that, where it is installed and converts the
    teacher, which has no such penalties; otherwise transformers.
    `n_best`: of so many hypotheses, take the one closest to the reference by chrF.
    """

    engine: Literal["auto", "transformers", "ctranslate2"] = "auto"
    n_best: int = Field(default=1, ge=1)


class Compute(Section):
    """How the machine is used; but for rounding, what a run finds does not depend on it."""

    parallel: int = Field(default=1, ge=1)


class Evaluation(Section):
    """How translations are made and shown; settings are chosen by those of `valid`."""

    split: Literal["valid", "test"] = "test"
    beams: int = Field(default=5, ge=1)
    max_tokens: int = Field(default=4096, ge=1)
    samples: int = Field(default=3, ge=0)


class Recipe(Section):
    """An experiment: every student shape is trained with every method and seed."""

    # Sections that others inherit from come first: their mistakes are told as theirs.
    name: str = Field(pattern=NAME)
    corpus: Corpus
    vocabulary: Vocabulary = Vocabulary()
    training: Training
    teacher: Teacher
    students: list[Shape] = Field(min_length=1)
    distillation: Objective = Objective()
    methods: list[Distillation] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[1], min_length=1)
    sequences: Sequences = Sequences()
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, raw: Any) -> Any:
        """Students inherit the teacher's widths, its training the students', methods share."""
        if not isinstance(raw, dict):
            return raw
        raw = dict(raw)
        teacher, training = raw.get("teacher"), raw.get("training")
        if isinstance(teacher, dict) and isinstance(training, dict):
            own = teacher.get("training") or {}
            if isinstance(own, dict):
                raw["teacher"] = teacher | {"training": extended(training, own, Training)}
        shape = teacher.get("shape") if isinstance(teacher, dict) else None
        if isinstance(shape, dict) and isinstance(raw.get("students"), list):
            raw["students"] = [shape | s if isinstance(s, dict) else s for s in raw["students"]]
        if raw.get("distillation") is None:
            raw["distillation"] = {}
        shared = raw["distillation"]
        if isinstance(raw.get("methods"), list) and isinstance(shared, dict):
            cells = [cell for entry in raw["methods"] for cell in _cells(entry)]
            raw["methods"] = [shared | c if isinstance(c, dict) else c for c in cells]
        return raw

    @model_validator(mode="after")
    def _heads_fit(self) -> Recipe:
        """Marian's do, which are trained from scratch; a pretrained teacher's family has others."""
        if self.teacher.path is not None:
            return self
        shapes = {f"students.{number}": shape for number, shape in enumerate(self.students)}
        if self.teacher.shape is not None:
            shapes = {"teacher.shape": self.teacher.shape, **shapes}
        for place, shape in shapes.items():
            for heads in (shape.heads, shape.decoder_heads or shape.heads):
                if shape.width % (2 * heads):
                    raise ValueError(
                        f"{place}: width {shape.width} cannot be split into {heads} heads of an "
                        "even size"
                    )
        return self

    @model_validator(mode="after")
    def _enough_beams(self) -> Recipe:
        if self.sequences.n_best > self.evaluation.beams:
            raise ValueError(
                f"sequences.n_best is {self.sequences.n_best}: a search with "
                f"{self.evaluation.beams} beams does not find as many"
            )
        return self

    @model_validator(mode="after")
    def _translations_suffice(self) -> Recipe:
        """Of a system elsewhere there is nothing else, and monolingual text needs them."""
        kinds = [METHODS[method.method] for method in self.methods]
        if self.corpus.monolingual is not None and not any(kind.sequences for kind in kinds):
            known = ", ".join(name for name, kind in METHODS.items() if kind.sequences)
            raise ValueError(
                "corpus.monolingual is for methods that learn from the teacher's translations "
                f"({known}): name one, or leave it out"
            )
        if not self.teacher.foreign:
            return self
        door = "command" if self.teacher.command is not None else "translations"
        for method, kind in zip(self.methods, kinds, strict=True):
            if kind.distribution:
                known = ", ".join(name for name, k in METHODS.items() if not k.distribution)
                raise ValueError(
                    f"method {method.method!r} compares student and teacher token by token, and of "
                    f"a teacher.{door} only translations are known: choose among {known}"
                )
            if method.student_start == "teacher":
                raise ValueError(
                    f"student_start: teacher needs the teacher's layers, and of a teacher.{door} "
                    "only translations are known: leave it out"
                )
        if self.sequences != Sequences():
            raise ValueError(
                "sequences says how a2d translates with a teacher: leave it out beside "
                f"teacher.{door}"
            )
        return self

    @model_validator(mode="after")
    def _no_training_twice(self) -> Recipe:
        names = [method.name for method in self.methods]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two methods are called {name!r}: give each a name of its own")
        for first, second in combinations(self.methods, 2):
            if first.model_copy(update={"name": second.name}) == second:
                raise ValueError(f"methods {first.name!r} and {second.name!r} are the same")
        for seed in self.seeds:
            if self.seeds.count(seed) > 1:
                raise ValueError(f"seed {seed} occurs twice: the same training would run twice")
        return self


def _cells(entry: Any) -> list[Any]:
    """A method once for every combination of settings that it gives as lists, each with a name."""
    if isinstance(entry, str):
        entry = {"method": entry}
    if not isinstance(entry, dict):
        return [entry]
    varied = {key: values for key, values in entry.items() if isinstance(values, list) and values}
    cells = []
    for values in product(*varied.values()):
        chosen = dict(zip(varied, values, strict=True))
        name = entry.get("name", entry.get("method"))
        if chosen and isinstance(name, str):  # any other is refused as it stands
            name = "-".join([name, *(f"{key}_{value}" for key, value in chosen.items())])
        cells.append(entry | chosen | {"name": name})
    return cells


def builtin_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("a2d.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if ".yaml" in f.name)


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, by a packaged one's name or by its path, and validate it.

    Args:
        name_or_path: `demo`, or the path of a YAML file.
            A recipe may begin with `extends: NAME`, a packaged recipe or a file beside it: it then
            names only what differs. Its lists replace the other's, and so does its teacher's path
            the other's shape and training, or the reverse.
        overrides: assignments `dotted.key=value`; values are YAML, list items are numbered from 0.

    Raises:
        UserError: no such recipe, malformed YAML, an unknown or ill-typed key.

    Example:
        >>> load_recipe("demo", ["training.epochs=2"]).training.epochs
        2.0
    """
    return make_recipe(_raw(name_or_path, ()), overrides, name_or_path)


def make_recipe(raw: dict[str, Any], overrides: Iterable[str], name: str) -> Recipe:
    """Validate what a recipe says once overridden; `name` begins what is said of mistakes.

    Raises:
        UserError: an unknown or ill-typed key.
    """
    for assignment in overrides:
        assign(raw, assignment, Recipe)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{name}: {explain(error, Recipe)}") from error


def make_cleaning(overrides: Iterable[str]) -> Cleaning:
    """Rules of cleaning outside of a recipe, where `language` is `auto`.

    Args:
        overrides: assignments `key=value`, with or without `corpus.cleaning.` before the key.

    Raises:
        UserError: an unknown or ill-typed key.
    """
    raw: dict[str, Any] = {"language": "auto"}
    for assignment in overrides:
        assign(raw, assignment.removeprefix("corpus.cleaning."), Cleaning)
    try:
        return Cleaning.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"cleaning: {explain(error, Cleaning)}") from error


def _raw(name_or_path: str, extenders: tuple[str, ...]) -> dict[str, Any]:
    """A recipe as it was read, with what it extends."""
    raw = _parse(name_or_path, _read(name_or_path))
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise UserError(f"{name_or_path}: 'extends' is {base!r}: name a recipe or a YAML file.")
    if base not in builtin_recipes():
        base = str(Path(name_or_path).parent / base)
    if base in (name_or_path, *extenders):
        raise UserError(f"{name_or_path} extends {base}, which extends it: drop one of the two.")
    return extended(_raw(base, (*extenders, name_or_path)), raw, Recipe)


def _read(name_or_path: str) -> str:
    if name_or_path in builtin_recipes():
        return resources.files("a2d.recipes").joinpath(f"{name_or_path}.yaml").read_text("utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise UserError(
            f"no recipe {name_or_path!r}: give the path of a YAML file or one of "
            f"{', '.join(builtin_recipes())}."
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8: save it as UTF-8.") from error


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise UserError(f"{name} is no valid YAML{where}: {problem}.") from error
    if not isinstance(raw, dict):
        raise UserError(f"{name} holds no recipe: it must be a YAML mapping.")
    return raw


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, where YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys all differ."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
