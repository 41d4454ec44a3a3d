"""Sections of recipes: inheritance, and messages about mistakes."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from a2d.plain_yaml import check_number
from a2d.suggestions import nearest
from a2d.training.settings import check_boolean

_T = TypeVar("_T")

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Configuration of sections that are dataclasses, because `A2DConfig` embeds their parents."""

AnySection = type[Any]
"""A `Section`, or a pydantic dataclass with `CONFIG`."""


def check_numbers(section: _T) -> _T:
    """Refuse numbers that are valid for no setting (`a2d.plain_yaml.check_number`).

    Raises:
        ValueError: a value of the section is not finite, or too large.
    """
    for name, value in vars(section).items():
        if isinstance(value, int | float):
            try:
                check_number(value)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{name} is {value:g}: {error}") from None
    return section


def keep_kind(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate a setting; booleans are no numbers, and numbers no booleans (`check_boolean`)."""
    valid = handler(value)
    check_boolean(value, valid)
    return valid


class Section(BaseModel):
    """Part of a recipe, such as `corpus`. Unknown keys are errors, and values are read-only.

    Attributes:
        replaces: key → keys of the same section that are meaningless beside it. If a recipe extends
            another recipe and sets the key, it does not inherit the values of these keys. If an
            override sets the key, the recipe's values of these keys are dropped.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    replaces: ClassVar[dict[str, tuple[str, ...]]] = {}

    _kinds = field_validator("*", mode="wrap")(keep_kind)
    _bounded = model_validator(mode="after")(check_numbers)


def merge(
    base: dict[str, Any], changes: dict[str, Any], section: AnySection | None
) -> dict[str, Any]:
    """Merge the settings of a recipe into those of the recipe that it extends.

    Args:
        base: settings of the extended recipe.
        changes: settings of the recipe that extends it; they take precedence.
        section: section that defines the settings; None for a mapping that is no section.
    """
    replaced = replaced_keys(changes, section)
    merged = {key: value for key, value in base.items() if key not in replaced} | changes
    for key in merged.keys() & base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = merge(base[key], changes[key], section_at(section, key))
    return merged


def replaced_keys(settings: dict[str, Any], section: AnySection | None) -> set[str]:
    """List the keys of a section that some settings replace (`Section.replaces`)."""
    replaces = getattr(section, "replaces", {})
    return {
        replaced
        for key, value in settings.items()
        if value is not None
        for replaced in replaces.get(key, ())
    }


_BRANCHES = ("str", "list[str]", "dict[str,any]", "bool")
"""Parts of pydantic's locations that are no keys but alternatives of a union type."""


def explain(error: ValidationError, root: AnySection) -> str:
    """Describe the first mistake in one sentence, with its dotted key and the remedy."""
    first, *others = error.errors()
    path = [part for part in first["loc"] if part not in _BRANCHES]
    key = ".".join(str(part) for part in path)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key!r}{nearest(str(path[-1]), _sibling_keys(path, root))}"
    if first["type"] == "missing":
        note = ": the teacher of this recipe has no sizes to take it from"
        return f"{key!r} is missing{note if path[0] == 'students' else ''}."
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    message = message.replace("Input should be", "it must be")
    if first["type"].startswith("bool_"):  # some settings accept a word, too
        words = [e["ctx"]["expected"] for e in others if e["type"] == "literal_error"]
        *most, last = ["true", "false", *words]
        message = f"it must be {', '.join(most)} or {last}"
    if first["type"] == "value_error":
        return f"{key}: {message}." if key else f"{message}."
    return f"{key!r} is {first['input']!r}: {message}."


def section_at(section: AnySection | None, key: str) -> AnySection | None:
    """Look up the section of a key's value, or of its list items; None if the value has none."""
    if section is None or key not in section.__pydantic_fields__:
        return None
    annotation = section.__pydantic_fields__[key].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and hasattr(candidate, "__pydantic_fields__"):
            return candidate
    return None


def _sibling_keys(path: list[int | str], section: AnySection) -> list[str]:
    for part in path[:-1]:
        if isinstance(part, str):
            section = section_at(section, part) or section
    return list(section.__pydantic_fields__)
