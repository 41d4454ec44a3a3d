"""Sections of recipes: how they inherit from one another, and what is said of mistakes in them."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from a2d.plain_yaml import check_number
from a2d.suggestions import nearest

_T = TypeVar("_T")

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Configuration of sections that are dataclasses, as `A2DConfig` embeds their parents."""

AnySection = type[Any]
"""A `Section`, or a pydantic dataclass with `CONFIG`."""


def check_numbers(section: _T) -> _T:
    """Refuse numbers that make no sense anywhere (`a2d.plain_yaml.check_number`).

    Raises:
        ValueError: a value of the section is not finite, or huge.
    """
    for name, value in vars(section).items():
        if isinstance(value, int | float):
            try:
                check_number(value)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{name} is {value:g}: {error}") from None
    return section


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values stay as they were read.

    Attributes:
        replaces: key → keys of the section that have no meaning beside it. A recipe that extends
            another and sets the key drops them from the other's section; so does an override.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {}

    _bounded = model_validator(mode="after")(check_numbers)


def extended(
    base: dict[str, Any], own: dict[str, Any], section: AnySection | None
) -> dict[str, Any]:
    """A section (None: a mapping that is none) as a recipe that extends another changes it."""
    dropped = replaced_by(own, section)
    merged = {key: value for key, value in base.items() if key not in dropped} | own
    for key in merged.keys() & base.keys() & own.keys():
        if isinstance(base[key], dict) and isinstance(own[key], dict):
            merged[key] = extended(base[key], own[key], section_at(section, key))
    return merged


def replaced_by(own: dict[str, Any], section: AnySection | None) -> set[str]:
    """The keys of a section (None: a mapping that is none) that others, once set, replace."""
    replaces = getattr(section, "replaces", {})
    return {key for name in own if own[name] is not None for key in replaces.get(name, ())}


_BRANCHES = ("str", "list[str]", "dict[str,any]", "bool")
"""Parts of a key's place that tell which of several types a value was tried as."""


def explain(error: ValidationError, root: AnySection) -> str:
    """One sentence on the first thing wrong, with its dotted key and the mend."""
    first, *others = error.errors()
    path = [part for part in first["loc"] if part not in _BRANCHES]
    key = ".".join(str(part) for part in path)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
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


def section_at(section: AnySection | None, key: str) -> AnySection | None:
    """The section that is a section's value, or an item of it; None where that is none."""
    if section is None or key not in section.__pydantic_fields__:
        return None
    annotation = section.__pydantic_fields__[key].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and hasattr(candidate, "__pydantic_fields__"):
            return candidate
    return None


def _keys_beside(path: list[int | str], section: AnySection) -> list[str]:
    for part in path[:-1]:
        if isinstance(part, str):
            section = section_at(section, part) or section
    return list(section.__pydantic_fields__)
