"""Recipes: descriptions of experiments in YAML, validated before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import fields
from importlib import resources
from itertools import combinations, product
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from a2d.errors import UserError
from a2d.families import uneven_heads
from a2d.method.methods import METHODS
from a2d.plain_yaml import MAX_SIZE, parse
from a2d.plugins import load_plugins, named
from a2d.runs.overrides import assign
from a2d.runs.sections import Section, explain, merge
from a2d.runs.settings import (
    CleaningSettings,
    ComputeSettings,
    CorpusSettings,
    EvaluationSettings,
    ExportSettings,
    MethodEntry,
    MethodSettings,
    Name,
    SequenceSettings,
    Shape,
    TeacherSettings,
    Training,
    VocabularySettings,
)
from a2d.runs.student_shapes import complete_students

MAX_TRAININGS = 1000
"""Most students of a recipe: shapes × methods × seeds."""
MAX_EXTENDED = 20
"""Longest chain of recipes that extend one another."""


class Recipe(Section):
    """An experiment, which trains every student shape with every method and seed.

    Attributes:
        name: name of the run's folder in `runs/`.
        plugins: Python files that register methods, formulas, formats, model families or stages
            (`a2d.plugins`).
        corpus: the parallel text.
        vocabulary: the joint subword vocabulary.
        training: training of the students.
        teacher: the teacher.
        students: shapes of the students, as texts, such as `6x2-256`, or as mappings.
        distillation: settings that all methods inherit.
        methods: names of methods, or mappings of a method and its settings.
        seeds: random seeds; every seed makes a student.
        sequences: translation of the training data by the teacher.
        evaluation: translation, scoring and samples at the end.
        export: exports of the students.
        compute: use of the machine.
    """

    # Sections that others inherit from come first, because the first mistake is reported.
    name: Name
    plugins: list[str] = Field(default=[])
    corpus: CorpusSettings
    vocabulary: VocabularySettings = VocabularySettings()
    training: Training
    teacher: TeacherSettings
    students: list[Shape] = Field(min_length=1)
    distillation: MethodSettings = MethodSettings()
    methods: list[MethodEntry] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[1], min_length=1)
    sequences: SequenceSettings = SequenceSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    export: ExportSettings = ExportSettings()
    compute: ComputeSettings = ComputeSettings()

    _raw: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Compare settings; a setting that equals its default need not be written out."""
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()

    def with_defaults(self, settings: dict[str, Any]) -> Recipe:
        """Make a recipe, no longer `sized`, with other values for settings that it does not name.

        Args:
            settings: sections with their settings, as in a file.

        Raises:
            UserError: the recipe's settings contradict these.
        """
        raw = merge(settings, self._raw, Recipe)
        raw = merge(raw, {"training": {"sized": False}}, Recipe)
        return make_recipe(raw, (), self.name)

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, raw: Any) -> Any:
        """Copy inherited settings to the sections that inherit them.

        Students inherit the teacher's sizes (`a2d.runs.student_shapes`), the teacher's training
        that of the students, and methods `distillation`.
        """
        if not isinstance(raw, dict):
            return raw
        raw = dict(raw)
        teacher, training = raw.get("teacher"), raw.get("training")
        if isinstance(teacher, dict) and isinstance(training, dict):
            changes = teacher.get("training") or {}
            if isinstance(changes, dict):
                raw["teacher"] = teacher | {"training": merge(training, changes, Training)}
        if isinstance(raw.get("students"), list):
            raw["students"] = complete_students(raw["students"], teacher)
        if raw.get("distillation") is None:
            raw["distillation"] = {}
        shared = raw["distillation"]
        if isinstance(raw.get("methods"), list) and isinstance(shared, dict):
            methods = [method for entry in raw["methods"] for method in _expand(entry)]
            raw["methods"] = [shared | m if isinstance(m, dict) else m for m in methods]
        return raw

    @model_validator(mode="after")
    def _check_number_of_students(self) -> Recipe:
        """Refuse too many students; the first check, because others compare all pairs."""
        counts = len(self.students), len(self.methods), len(self.seeds)
        if prod(counts) > MAX_TRAININGS:
            raise ValueError(
                "{:,} students, {:,} methods and {:,} seeds are {:,} trainings, and a recipe has "
                "{:,} at most: split it".format(*counts, prod(counts), MAX_TRAININGS)
            )
        return self

    @model_validator(mode="after")
    def _check_distillation(self) -> Recipe:
        """Refuse a method in the section that all methods inherit, where it has no effect."""
        if self.distillation.method != MethodSettings().method:
            raise ValueError(
                f"distillation.method={self.distillation.method} has no effect: name the methods "
                "in the list 'methods'"
            )
        return self

    @model_validator(mode="after")
    def _check_heads(self) -> Recipe:
        """Check the heads of Marian models, which are trained from scratch.

        For a pretrained teacher, the rules of its family count, which are checked later.
        """
        if self.teacher.path is not None:
            return self
        shapes = {f"students.{number}": shape for number, shape in enumerate(self.students)}
        if self.teacher.shape is not None:
            shapes = {"teacher.shape": self.teacher.shape, **shapes}
        for place, shape in shapes.items():
            heads = shape.heads, shape.decoder_heads or shape.heads
            if problem := uneven_heads(shape.width, *heads):
                raise ValueError(f"{place}: {problem}")
        return self

    @model_validator(mode="after")
    def _check_beams(self) -> Recipe:
        if self.sequences.n_best > self.evaluation.beams:
            raise ValueError(
                f"sequences.n_best is {self.sequences.n_best}: a search with "
                f"{self.evaluation.beams} beams finds fewer translations"
            )
        return self

    @model_validator(mode="after")
    def _check_gpus(self) -> Recipe:
        """Refuse a number of GPUs that cannot share the batches of an update evenly."""
        count = self.compute.gpus_per_training
        if self.teacher.sharded and count == 1:
            raise ValueError(
                "teacher.sharded divides the teacher among the GPUs of a training: set "
                "compute.gpus_per_training to their number, or leave it out"
            )
        for place, training in (
            ("training", self.training),
            ("teacher.training", self.teacher.training),
        ):
            if training is None or training.sized:
                continue
            batches = training.gradient_accumulation_steps
            if batches % count:
                raise ValueError(
                    f"compute.gpus_per_training is {count}, and {batches} batches make an update: "
                    f"set {place}.gradient_accumulation_steps to a multiple of {count}, and "
                    f"{place}.max_tokens lower to keep the tokens of an update"
                )
        return self

    @model_validator(mode="after")
    def _check_monolingual(self) -> Recipe:
        """Refuse monolingual text if no method learns from the teacher's translations."""
        learners = any(method.definition.sequences for method in self.methods)
        if self.corpus.monolingual is not None and not learners:
            valid = ", ".join(name for name, method in METHODS.items() if method.sequences)
            raise ValueError(
                "corpus.monolingual is for methods that learn from the teacher's translations "
                f"({valid}): name one, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _check_foreign_teacher(self) -> Recipe:
        """Refuse settings that need more than translations of a teacher that a2d cannot load."""
        if not self.teacher.foreign:
            return self
        form = "command" if self.teacher.command is not None else "translations"
        for method in self.methods:
            if method.definition.uses_outputs:
                valid = ", ".join(name for name, m in METHODS.items() if not m.uses_outputs)
                raise ValueError(
                    f"method {method.method!r} compares student and teacher token by token, but a "
                    f"teacher.{form} gives only translations: choose among {valid}"
                )
            if method.student_start == "teacher":
                raise ValueError(
                    "student_start: teacher needs the teacher's layers, but a "
                    f"teacher.{form} gives only translations: leave it out"
                )
        if self.sequences != SequenceSettings():
            raise ValueError(
                "sequences says how a2d translates with a teacher: leave it out beside "
                f"teacher.{form}"
            )
        return self

    def _effect_of(self, method: MethodEntry) -> dict[str, Any]:
        """Settings of a method that its students depend on, without the order of groups."""
        settings = method.used(self.corpus.monolingual is not None)
        groups = set(method.groups.split("+")) & set(method.definition.groups)
        return settings | ({"groups": groups} if "groups" in settings else {})

    @model_validator(mode="after")
    def _check_duplicates(self) -> Recipe:
        """Refuse methods of one name, methods that train the same students, and equal seeds."""
        names = [method.name for method in self.methods]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two methods are called {name!r}: give each a name of its own")
        for first, second in combinations(self.methods, 2):
            if self._effect_of(first) == self._effect_of(second):
                raise ValueError(
                    f"methods {first.name!r} and {second.name!r} {_same(first, second)}"
                )
        for seed in self.seeds:
            if self.seeds.count(seed) > 1:
                raise ValueError(f"seed {seed} occurs twice: the same training would run twice")
        return self


def _same(first: MethodEntry, second: MethodEntry) -> str:
    """Say why two methods train the same students, as a predicate."""
    used = first.used(monolingual=False)
    names = (field.name for field in fields(first) if field.name not in (*used, "name"))
    unused = [name for name in names if getattr(first, name) != getattr(second, name)]
    if not unused:
        return "are the same"
    if unused[0] == "monolingual" and first.definition.sequences:
        return "differ only in monolingual, without corpus.monolingual: give it one value"
    return f"differ only in {unused[0]}, which {first.method} does not use: give it one value"


def _expand(entry: Any) -> list[Any]:
    """Expand settings that are lists: a method with a name for every combination of their values.

    Args:
        entry: item of `methods`, not validated yet.
    """
    if isinstance(entry, str):
        entry = {"method": entry}
    if not isinstance(entry, dict):
        return [entry]
    lists = {key: values for key, values in entry.items() if isinstance(values, list) and values}
    count = prod(map(len, lists.values()))
    if count > MAX_TRAININGS:
        raise ValueError(
            f"the lists of a method's settings have {count:,} combinations, and a recipe has "
            f"{MAX_TRAININGS:,} trainings at most: shorten them"
        )
    methods = []
    for values in product(*lists.values()):
        combination = dict(zip(lists, values, strict=True))
        name = entry.get("name", entry.get("method"))
        if combination and isinstance(name, str):  # pydantic refuses other names later
            name = "-".join([name, *(f"{key}_{value}" for key, value in combination.items())])
        methods.append(entry | combination | {"name": name})
    return methods


def builtin_recipes() -> list[str]:
    """List the names of the packaged recipes."""
    folder = resources.files("a2d.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if ".yaml" in f.name)


def load_recipe(
    name_or_path: str, overrides: Iterable[str] = (), changes: dict[str, Any] | None = None
) -> Recipe:
    """Read and validate a recipe.

    A recipe can begin with `extends: NAME`, where NAME is a packaged recipe or a file in the same
    folder. Then it names only settings that differ. Its lists replace those of the other recipe. A
    setting also replaces settings that contradict it: the path of a teacher its shape and training,
    for instance.

    Args:
        name_or_path: name of a packaged recipe, such as `demo`, or path of a YAML file.
        overrides: assignments `dotted.key=value`; values are YAML, list items are numbered from 0.
        changes: settings that differ, as in a recipe that extends this one.

    Raises:
        UserError: the recipe does not exist, is no valid YAML, or has an unknown or invalid
            setting.

    Example:
        >>> load_recipe("demo", ["training.num_train_epochs=2"]).training.num_train_epochs
        2.0
    """
    raw = merge(_load_raw(name_or_path, ()), changes or {}, Recipe)
    return make_recipe(raw, overrides, name_or_path)


def make_recipe(raw: dict[str, Any], overrides: Iterable[str], name: str) -> Recipe:
    """Apply overrides to the settings of a recipe, and validate them.

    Args:
        raw: the settings, as parsed from YAML; overrides change them in place.
        overrides: as in `load_recipe`.
        name: name of the recipe in error messages.

    Raises:
        UserError: an unknown or invalid setting.
    """
    for assignment in overrides:
        assign(raw, assignment, Recipe)
    # Plugins come first, because they define names that the recipe uses.
    _load_plugins(raw)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{name}: {explain(error, Recipe)}") from error
    recipe._raw = raw
    return recipe


def load_plugins_of(name_or_path: str, overrides: Iterable[str] = ()) -> None:
    """Import the plugins of a recipe alone, before the rest of it is known.

    Args:
        name_or_path: as in `load_recipe`.
        overrides: as in `load_recipe`; others than those of `plugins` are ignored.
    """
    raw = _load_raw(name_or_path, ())
    for assignment in overrides:
        if re.match(r"plugins\b", assignment):
            assign(raw, assignment, Recipe)
    _load_plugins(raw)


def _load_plugins(raw: dict[str, Any]) -> None:
    """Import a recipe's plugins, and add those of the command line to it.

    Validation refuses other values than lists of strings, which are ignored here.
    """
    plugins = raw.get("plugins") or []
    if isinstance(plugins, list):
        load_plugins([plugin for plugin in plugins if isinstance(plugin, str)])
        if named:
            raw["plugins"] = [*plugins, *(plugin for plugin in named if plugin not in plugins)]


def make_cleaning(overrides: Iterable[str]) -> CleaningSettings:
    """Make the cleaning rules of a corpus outside of a recipe; `language` defaults to `auto`.

    Args:
        overrides: assignments `key=value`, with or without `corpus.cleaning.` before the key.

    Raises:
        UserError: an unknown or invalid setting.
    """
    raw: dict[str, Any] = {"language": "auto"}
    for assignment in overrides:
        assign(raw, assignment.removeprefix("corpus.cleaning."), CleaningSettings)
    try:
        return CleaningSettings.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"cleaning: {explain(error, CleaningSettings)}") from error


def _load_raw(name_or_path: str, extending: tuple[str, ...]) -> dict[str, Any]:
    """Read the settings of a recipe, merged with those of the recipe that it extends.

    Args:
        name_or_path: the recipe.
        extending: names or real paths of the recipes that extend this one.
    """
    packaged = builtin_recipes()
    if name_or_path not in packaged and not os.path.isfile(name_or_path):
        raise UserError(
            f"no recipe {name_or_path!r}: give the path of a YAML file or one of "
            f"{', '.join(packaged)}."
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
    if base not in packaged:
        base = str(Path(name_or_path).parent / base)
    chain = (*extending, _identity(name_or_path))
    if _identity(base) in chain:
        raise UserError(f"{name_or_path} extends {base}, which extends it: drop one of the two.")
    if len(chain) > MAX_EXTENDED:
        raise UserError(
            f"{name_or_path} is the {len(chain)}th recipe of a chain of recipes that extend one "
            f"another: use {MAX_EXTENDED} at most."
        )
    return merge(_load_raw(base, chain), raw, Recipe)


def _identity(name_or_path: str) -> str:
    return name_or_path if name_or_path in builtin_recipes() else os.path.realpath(name_or_path)


def _read(name_or_path: str) -> str:
    """Read the text of a recipe.

    Raises:
        UserError: it is not UTF-8, or too long; the message is the rest of a sentence.
    """
    if name_or_path in builtin_recipes():
        return resources.files("a2d.recipes").joinpath(f"{name_or_path}.yaml").read_text("utf-8")
    with open(name_or_path, "rb") as file:
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise UserError(f"is larger than {MAX_SIZE:,} bytes, the limit of a recipe")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("is not valid UTF-8: save it as UTF-8") from error
