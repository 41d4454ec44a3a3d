"""Shapes of a recipe's students: texts such as `6x2-256`, and sizes taken from the teacher."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from a2d.errors import UserError
from a2d.families import SIZES, sizes_of
from a2d.models.loading import load_config
from a2d.models.presets import complete_shape, parse_shape
from a2d.runs.settings import TeacherSettings

_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
_NEEDED = tuple(size for size in SIZES if size != "dropout")


def complete_students(students: list[Any], teacher: Any) -> list[Any]:
    """Read shapes that are texts, and take sizes that students do not name from their teacher.

    Args:
        students: items of a recipe's `students`, not validated yet.
        teacher: its `teacher`, not validated yet. The model at its `path` is read only if a
            student does not name all sizes.

    Returns:
        The students. An item that is not valid stays as it is, for the validation to refuse.

    Raises:
        ValueError: a text is no shape.
        UserError: there is no model at the teacher's path.
    """
    shapes = [_parse(number, student) for number, student in enumerate(students)]
    try:
        valid = TeacherSettings.model_validate(teacher)
    except ValidationError:
        return shapes  # the teacher's mistake is reported before those of its students
    if valid.shape is not None:
        sizes = valid.shape.model_dump(exclude_none=True)
        rates = {rate: sizes[rate] for rate in _DROPOUTS}
        return [rates | _complete(s, sizes) if isinstance(s, dict) else s for s in shapes]
    partial = any(isinstance(s, dict) and not s.keys() >= set(_NEEDED) for s in shapes)
    if partial and valid.path is not None:
        sizes = sizes_of(load_config(valid.path))
        return [_complete(s, sizes) if isinstance(s, dict) else s for s in shapes]
    return shapes


def _parse(number: int, student: Any) -> Any:
    if not isinstance(student, str):
        return student
    try:
        return parse_shape(student)
    except UserError as error:
        raise ValueError(f"students.{number}: {error}") from error


def _complete(shape: dict[str, Any], teacher: dict[str, Any]) -> dict[str, Any]:
    sizes = {size: teacher[size] for size in _NEEDED} | shape
    if all(type(sizes[size]) is int and sizes[size] > 0 for size in _NEEDED):
        return complete_shape(teacher, shape)
    return sizes
