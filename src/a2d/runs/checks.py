"""Checks of a run's models, so that mistakes do not end it after hours of training."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import load_from_disk
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2d.errors import UserError
from a2d.families import family_of, uneven_heads
from a2d.models.loading import check_same_ids, check_weights, load_model, new_model
from a2d.models.students import check_start, student_config
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.model import Model
from a2d.runs.recipe import Recipe
from a2d.runs.training import TrainingInputs, make_config, random_student
from a2d.training.distillation import build_transfer


def check_shapes(recipe: Recipe) -> None:
    """Check the files of a pretrained teacher, and that its students can have their shapes.

    Raises:
        UserError: as `a2d.models.loading.check_weights`; or heads do not divide a width, or a
            student cannot start from the teacher.
    """
    if recipe.teacher.path is None:
        return
    teacher = check_weights(recipe.teacher.path)
    starts = {method.student_start for method in recipe.methods}
    for shape in recipe.students:
        heads = shape.heads, shape.decoder_heads or shape.heads
        scratch = "marian" in starts or ("random" in starts and family_of(teacher).scratch)
        if scratch and (problem := uneven_heads(shape.width, *heads)):
            raise UserError(f"{problem}.")
        if starts != {"marian"}:
            student = student_config(teacher, **shape.model_dump(exclude_none=True))
        if "teacher" in starts:
            check_start(student, teacher)


def check_models(models: Sequence[Model], inputs: TrainingInputs) -> None:
    """Check the settings of all models.

    Raises:
        UserError: the settings of a model do not fit the data, the teacher or its shape.
    """
    train = load_from_disk(str(inputs.tokens))["train"]
    tokenizer = load_tokenizer(inputs.vocabulary)
    teacher = None
    for model in models:
        if model.done:
            continue
        assert model.training is not None
        assert model.shape is not None
        config = make_config(model.method, model.training, model.seed, train, model.partial)
        if not model.uses_teacher or not inputs.teacher:
            continue
        if teacher is None:
            teacher = _teacher_for_checks(models, tokenizer, inputs)
        if model.start is not None:  # before a student that is too large is built
            sizes = model.shape.model_dump(exclude_none=True)
            check_start(student_config(teacher.config, **sizes), teacher.config)
        student = random_student(model, tokenizer, teacher)
        check_same_ids(teacher, student)
        build_transfer(config.objective, student.config, teacher.config)


def _teacher_for_checks(
    models: Sequence[Model], tokenizer: PreTrainedTokenizerBase, inputs: TrainingInputs
) -> PreTrainedModel:
    """Load the pretrained teacher, or make an untrained one of the recipe's shape."""
    teacher = next((model for model in models if model.size is None), None)
    if teacher is None:
        return load_model(inputs.teacher)
    assert teacher.shape is not None
    return new_model(tokenizer, **teacher.shape.model_dump())
