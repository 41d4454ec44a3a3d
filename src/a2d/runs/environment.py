"""What a run's results take from the machine that it begins on: settled once, and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from a2d import plain_yaml
from a2d.errors import UserError
from a2d.models.export import can_replace_transformers, require_ctranslate2
from a2d.runs.parts import DISTILLED, MONOLINGUAL
from a2d.runs.recipe import Recipe
from a2d.runs.settings import Training
from a2d.training.config import bf16_is_fast

RECIPE = "recipe.yaml"
"""The settled recipe of a run, in its folder."""


def settle(recipe: Recipe, folder: Path) -> Recipe:
    """Replace settings that depend on the machine by what they mean on this one.

    These are `sequences.engine: auto`, where the teacher translates, and `bf16: null`. A run that
    was begun in the folder keeps what it began with, so that another machine goes on as this one
    would have.

    Raises:
        UserError: the run is to translate by CTranslate2, which is not installed here.
    """
    begun = _begun(folder)
    sequences, teacher = recipe.sequences, recipe.teacher
    if any(method.definition.sequences for method in recipe.methods) and not teacher.foreign:
        if sequences.engine == "auto":
            known = None if begun is None else begun.sequences.engine
            engine = _engine(recipe) if known in (None, "auto") else known
            sequences = sequences.model_copy(update={"engine": engine})
        parts = [DISTILLED] if recipe.corpus.monolingual is None else [DISTILLED, MONOLINGUAL]
        translated = all((folder / part).is_dir() for part in parts)
        if sequences.engine == "ctranslate2" and not translated:
            require_ctranslate2()
    if teacher.training is not None:
        own = None if begun is None else begun.teacher.training
        teacher = teacher.model_copy(update={"training": _precise(teacher.training, own)})
    training = _precise(recipe.training, None if begun is None else begun.training)
    settled = {"sequences": sequences, "teacher": teacher, "training": training}
    return recipe.model_copy(update=settled)


def _engine(recipe: Recipe) -> str:
    path, shape = recipe.teacher.path, recipe.teacher.shape
    alike = shape is None or shape.decoder_heads in (None, shape.heads)
    return "ctranslate2" if alike and can_replace_transformers(path) else "transformers"


def _precise(training: Training, begun: Training | None) -> Training:
    if training.bf16 is not None:
        return training
    known = None if begun is None else begun.bf16
    return replace(training, bf16=bf16_is_fast() if known is None else known)


def _begun(folder: Path) -> Recipe | None:
    """The settled recipe of a run in a folder; None if there is none, or it is damaged."""
    if not (folder / RECIPE).is_file():  # reading a pipe may have no end
        return None
    try:
        return Recipe.model_validate(plain_yaml.parse((folder / RECIPE).read_text("utf-8")))
    except (OSError, ValueError, UserError):
        return None
