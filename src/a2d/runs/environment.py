"""Settings that depend on the machine; a run resolves them when it begins, and keeps the values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from a2d import plain_yaml
from a2d.errors import UserError
from a2d.models.export import can_replace_transformers, export_obstacle
from a2d.models.exported import require_ctranslate2
from a2d.runs.parts import DISTILLED, MONOLINGUAL
from a2d.runs.recipe import Recipe
from a2d.runs.settings import ExportSettings, Training
from a2d.training.config import bf16_is_fast
from a2d.training.frozen import require_bitsandbytes

RECIPE = "recipe.yaml"
"""File of the resolved recipe, in the run's folder."""


def resolve(recipe: Recipe, folder: Path) -> Recipe:
    """Replace `auto` and `bf16: null` by values for this machine.

    The engine is resolved only for a teacher that translates training data. Values of an earlier
    run in the folder take precedence, so that another machine continues it in the same way.

    Args:
        recipe: the recipe.
        folder: folder of the run.

    Raises:
        UserError: the run needs CTranslate2 or bitsandbytes, and it is not installed.
    """
    earlier = _load_earlier(folder)
    sequences, teacher = recipe.sequences, recipe.teacher
    if any(method.definition.sequences for method in recipe.methods) and not teacher.foreign:
        if sequences.engine == "auto":
            engine: str = "auto" if earlier is None else earlier.sequences.engine
            if engine == "auto":
                engine = _choose_engine(recipe)
            sequences = sequences.model_copy(update={"engine": engine})
        parts = [DISTILLED] if recipe.corpus.monolingual is None else [DISTILLED, MONOLINGUAL]
        translated = all((folder / part).is_dir() for part in parts)
        if sequences.engine == "ctranslate2" and not translated:
            require_ctranslate2()
    if teacher.precision == "int8":
        require_bitsandbytes()
    if teacher.training is not None:
        before = None if earlier is None else earlier.teacher.training
        teacher = teacher.model_copy(update={"training": _resolve_bf16(teacher.training, before)})
    training = _resolve_bf16(recipe.training, None if earlier is None else earlier.training)
    exports = _resolve_exports(recipe, None if earlier is None else earlier.export)
    values = {
        "sequences": sequences,
        "teacher": teacher,
        "training": training,
        "export": exports,
    }
    return recipe.model_copy(update=values)


def _resolve_exports(recipe: Recipe, earlier: ExportSettings | None) -> ExportSettings:
    settings, obstacle = recipe.export, export_obstacle_of(recipe)
    if settings.quantizations == "auto":
        chosen: Any = "auto" if earlier is None else earlier.quantizations
        if chosen == "auto" and obstacle:
            chosen = []
        return settings.model_copy(update={"quantizations": chosen})
    if settings.quantizations and obstacle:
        raise UserError(f"the students cannot be exported: {obstacle}. Leave `export` out.")
    return settings


def export_obstacle_of(recipe: Recipe) -> str | None:
    """Describe why a recipe's students cannot be exported to CTranslate2; None if they can."""
    if not all(shape.equal_heads for shape in recipe.students):
        return "students have different numbers of heads in encoder and decoder"
    return export_obstacle(recipe.teacher.path)


def _choose_engine(recipe: Recipe) -> str:
    path, shape = recipe.teacher.path, recipe.teacher.shape
    equal_heads = shape is None or shape.equal_heads
    return "ctranslate2" if equal_heads and can_replace_transformers(path) else "transformers"


def _resolve_bf16(training: Training, earlier: Training | None) -> Training:
    if training.bf16 is not None:
        return training
    bf16 = None if earlier is None else earlier.bf16
    return replace(training, bf16=bf16_is_fast() if bf16 is None else bf16)


def _load_earlier(folder: Path) -> Recipe | None:
    """Read the resolved recipe of an earlier run; None if there is none, or it is damaged."""
    if not (folder / RECIPE).is_file():  # reading a pipe may never end
        return None
    try:
        return Recipe.model_validate(plain_yaml.parse((folder / RECIPE).read_text("utf-8")))
    except (OSError, ValueError, UserError):
        return None
