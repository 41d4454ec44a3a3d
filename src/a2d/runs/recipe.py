"""Recipes: the YAML description of an experiment, validated before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from itertools import combinations, product
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from a2d.errors import UserError
from a2d.method.methods import METHODS
from a2d.plain_yaml import MAX_SIZE, parse
from a2d.plugins import load_plugins
from a2d.runs.overrides import assign
from a2d.runs.sections import Section, explain, extended
from a2d.runs.settings import (
    Cleaning,
    Compute,
    Corpus,
    Evaluation,
    MethodEntry,
    MethodSettings,
    Name,
    Sequences,
    Shape,
    Teacher,
    Training,
    Vocabulary,
)

MAX_TRAININGS = 1000
"""Students of a recipe: shapes × methods × seeds."""
MAX_EXTENDED = 20
"""Recipes that extend one another, one after the other."""


class Recipe(Section):
    """An experiment: every student shape is trained with every method and seed.

    Attributes:
        name: name of the run's folder in `runs/`.
        plugins: Python files that register methods, formulas, model families or stages
            (`a2d.plugins`).
        corpus: where the parallel text is.
        vocabulary: the joint subword vocabulary.
        training: how students are trained.
        teacher: the teacher.
        students: shapes of the students.
        distillation: settings that all methods share unless they name their own.
        methods: names of methods, or mappings of a method and its settings.
        seeds: seeds of everything that is random; each gives a student of its own.
        sequences: how the teacher translates the training data.
        evaluation: how translations are made and shown.
        compute: how the machine is used.
    """

    # Sections that others inherit from come first: their mistakes are told as theirs.
    name: Name
    plugins: list[str] = Field(default=[])
    corpus: Corpus
    vocabulary: Vocabulary = Vocabulary()
    training: Training
    teacher: Teacher
    students: list[Shape] = Field(min_length=1)
    distillation: MethodSettings = MethodSettings()
    methods: list[MethodEntry] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[1], min_length=1)
    sequences: Sequences = Sequences()
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()

    _source: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Compare settings, whether written out or left to their defaults."""
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()

    def filled(self, settings: dict[str, Any]) -> Recipe:
        """Build the recipe anew with `settings` where it names nothing, no longer `sized`.

        Args:
            settings: sections and their keys, as in a file.

        Raises:
            UserError: what the recipe names does not fit the settings.
        """
        raw = extended(settings, self._source, Recipe)
        raw = extended(raw, {"training": {"sized": False}}, Recipe)
        return make_recipe(raw, (), self.name)

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
    def _few_enough(self) -> Recipe:
        """Checked first: others compare all with all."""
        counts = len(self.students), len(self.methods), len(self.seeds)
        if prod(counts) > MAX_TRAININGS:
            raise ValueError(
                "{:,} students, {:,} methods and {:,} seeds are {:,} trainings, and a recipe has "
                "{:,} at most: split it".format(*counts, prod(counts), MAX_TRAININGS)
            )
        return self

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
        kinds = [method.definition for method in self.methods]
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
            if kind.uses_signals:
                known = ", ".join(name for name, k in METHODS.items() if not k.uses_signals)
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
            if replace(first, name=second.name) == second:
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
    count = prod(map(len, varied.values()))
    if count > MAX_TRAININGS:
        raise ValueError(
            f"the lists of a method's settings have {count:,} combinations, and a recipe has "
            f"{MAX_TRAININGS:,} trainings at most: shorten them"
        )
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


def load_recipe(
    name_or_path: str, overrides: Iterable[str] = (), changes: dict[str, Any] | None = None
) -> Recipe:
    """Read a recipe, by a packaged one's name or by its path, and validate it.

    Args:
        name_or_path: `demo`, or the path of a YAML file.
            A recipe may begin with `extends: NAME`, a packaged recipe or a file beside it: it then
            names only what differs. Its lists replace the other's, and so does its teacher's path
            the other's shape and training, or the reverse.
        overrides: assignments `dotted.key=value`; values are YAML, list items are numbered from 0.
        changes: what differs, as a recipe that extends this one would say it.

    Raises:
        UserError: no such recipe, malformed YAML, an unknown or ill-typed key.

    Example:
        >>> load_recipe("demo", ["training.num_train_epochs=2"]).training.num_train_epochs
        2.0
    """
    raw = extended(_raw(name_or_path, ()), changes or {}, Recipe)
    return make_recipe(raw, overrides, name_or_path)


def make_recipe(raw: dict[str, Any], overrides: Iterable[str], name: str) -> Recipe:
    """Validate what a recipe says once overridden; `name` begins what is said of mistakes.

    Raises:
        UserError: an unknown or ill-typed key.
    """
    for assignment in overrides:
        assign(raw, assignment, Recipe)
    plugins = raw.get("plugins") or []
    # First, since they define names that the recipe uses; malformed lists are refused below.
    load_plugins([p for p in plugins if isinstance(p, str)] if isinstance(plugins, list) else [])
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{name}: {explain(error, Recipe)}") from error
    recipe._source = raw
    return recipe


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
    """A recipe as it was read, with what it extends.

    Args:
        name_or_path: of the recipe.
        extenders: names or real paths of those that extend it.
    """
    known = builtin_recipes()
    if name_or_path not in known and not os.path.isfile(name_or_path):
        raise UserError(
            f"no recipe {name_or_path!r}: give the path of a YAML file or one of "
            f"{', '.join(known)}."
        )
    try:
        raw = parse(_read(name_or_path))
    except UserError as error:
        raise UserError(f"{name_or_path} {error}.") from error
    if not isinstance(raw, dict):
        raise UserError(f"{name_or_path} holds no recipe: it must be a YAML mapping.")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise UserError(f"{name_or_path}: 'extends' is {base!r}: name a recipe or a YAML file.")
    if base not in known:
        base = str(Path(name_or_path).parent / base)
    extenders = (*extenders, _identity(name_or_path))
    if _identity(base) in extenders:
        raise UserError(f"{name_or_path} extends {base}, which extends it: drop one of the two.")
    if len(extenders) > MAX_EXTENDED:
        raise UserError(
            f"{name_or_path} is the {len(extenders)}th recipe of those that extend one another: "
            f"extend {MAX_EXTENDED} at most."
        )
    return extended(_raw(base, extenders), raw, Recipe)


def _identity(name_or_path: str) -> str:
    return name_or_path if name_or_path in builtin_recipes() else os.path.realpath(name_or_path)


def _read(name_or_path: str) -> str:
    """The text of a recipe.

    Raises:
        UserError: it is no text, or too long for a recipe, as the rest of a sentence.
    """
    if name_or_path in builtin_recipes():
        return resources.files("a2d.recipes").joinpath(f"{name_or_path}.yaml").read_text("utf-8")
    with open(name_or_path, "rb") as file:
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise UserError(f"is larger than {MAX_SIZE:,} bytes, which no recipe is")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("is not valid UTF-8: save it as UTF-8") from error
