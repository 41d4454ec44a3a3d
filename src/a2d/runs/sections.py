"""Sections of recipes: how they inherit from one another, and what is said of mistakes in them."""

from __future__ import annotations

from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from a2d.plain_yaml import check_number
from a2d.suggestions import nearest


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values stay as they were read.

    Attributes:
        replaces: key → keys of the section that have no meaning beside it. A recipe that extends
            another and sets the key drops them from the other's section; so does an override.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {}

    @model_validator(mode="after")
    def _numbers_are_bounded(self) -> Self:
        for name, value in self:
            if isinstance(value, int | float):
                try:
                    check_number(value)
                except (ValueError, OverflowError) as error:
                    raise ValueError(f"{name} is {value:g}: {error}") from None
        return self


def extended(
    base: dict[str, Any], own: dict[str, Any], section: type[Section] | None
) -> dict[str, Any]:
    """A section (None: a mapping that is none) as a recipe that extends another changes it."""
    dropped = replaced_by(own, section)
    merged = {key: value for key, value in base.items() if key not in dropped} | own
    for key in merged.keys() & base.keys() & own.keys():
        if isinstance(base[key], dict) and isinstance(own[key], dict):
            merged[key] = extended(base[key], own[key], section_at(section, key))
    return merged


def replaced_by(own: dict[str, Any], section: type[Section] | None) -> set[str]:
    """The keys of a section (None: a mapping that is none) that others, once set, replace."""
    replaces = {} if section is None else section.replaces
    return {key for name in own if own[name] is not None for key in replaces.get(name, ())}


_BRANCHES = ("str", "list[str]", "dict[str,any]", "bool")
"""Parts of a key's place that tell which of several types a value was tried as."""


def explain(error: ValidationError, root: type[Section]) -> str:
    """One sentence on the first thing wrong, with its dotted key and the mend."""
    first, *others = error.errors()
    path = [part for part in first["loc"] if part not in _BRANCHES]
    key = ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(path[-1]), _keys_beside(path, root))}"
    if first["type"] == "missing":
        why = (
            ": students inherit sizes from a teacher's shape only" if path[0] == "students" else ""
        )
        return f"{key!r} is missing{why}."
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    message = message.replace("Input should be", "it must be")
    if first["type"].startswith("bool_"):  # it may take a word, too
        words = [e["ctx"]["expected"] for e in others if e["type"] == "literal_error"]
        *most, last = ["true", "false", *words]
        message = f"it must be {', '.join(most)} or {last}"
    if first["type"] == "value_error":
        return f"{key}: {message}." if key else f"{message}."
    return f"{key!r} is {first['input']!r}: {message}."


def section_at(section: type[Section] | None, key: str) -> type[Section] | None:
    """The section that is a section's value, or an item of it; None where that is none."""
    if section is None or key not in section.model_fields:
        return None
    annotation = section.model_fields[key].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _keys_beside(path: list[int | str], section: type[Section]) -> list[str]:
    for part in path[:-1]:
        if isinstance(part, str):
            section = section_at(section, part) or section
    return list(section.model_fields)
