"""Labels of students: the settings in which they differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from a2d.runs.model import Model
from a2d.runs.settings import MethodSettings

_SETTINGS = [field.name for field in fields(MethodSettings) if field.name != "method"]


def distinctive_settings(students: Sequence[Model], shared: MethodSettings) -> dict[str, str]:
    """Describe the settings in which each student differs from other students, by its name.

    A setting with the recipe's shared value is left out, unless it is the only difference between
    students of one method.
    """
    different = {
        key
        for key in _SETTINGS
        if len({_effective(student, key) for student in students} - {None}) > 1
    }
    labels = {}
    for student in students:
        method = student.method
        siblings = [other.method for other in students if other.method.method == method.method]
        within = {key for key in _SETTINGS if len({getattr(m, key) for m in siblings}) > 1}
        labels[student.name] = " ".join(
            f"{key}={getattr(method, key)}"
            for key in _SETTINGS
            if key in within | different
            and (getattr(method, key) != getattr(shared, key) or within == {key})
            and (key in within or _effective(student, key) is not None)
        )
    return labels


def _effective(student: Model, key: str) -> Any:
    """Look up a setting of a student's method; None if its training does not depend on it."""
    return student.settings["method"].get(key, _DEFAULTS.get(key))


_DEFAULTS = {"student_start": "random"}
"""Values that a stage's settings omit."""
