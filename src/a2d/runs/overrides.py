"""Overrides: changes to a recipe from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from a2d.errors import UserError
from a2d.plain_yaml import MAX_DEPTH, parse
from a2d.runs.sections import AnySection, replaced_by, section_at


def assign(raw: dict[str, Any], assignment: str, section: AnySection) -> None:
    """Change a recipe by an assignment `dotted.key=value`.

    Args:
        raw: the recipe as it was read; mappings that are missing are made. Keys that have no
            meaning beside the assigned one are dropped (`Section.replaces`).
        assignment: its value is YAML, items of lists are numbered from 0.
        section: of which `raw` holds the keys.

    Raises:
        UserError: no assignment, or no such place.
    """
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise UserError(
            f"{assignment!r} is no override: write key=value, e.g. training.num_train_epochs=3."
        )
    try:
        value = parse(text)
    except UserError as error:
        raise UserError(f"the value of the override {assignment!r} {error}.") from error
    place: Any = raw
    inside: AnySection | None = section
    parts = key.split(".")
    if len(parts) > MAX_DEPTH:
        raise UserError(f"the override {assignment!r} names a place more than {MAX_DEPTH} deep.")
    for number, part in enumerate(parts):
        where = _where(place, part, parts[:number], assignment)
        last = number == len(parts) - 1
        if isinstance(place, dict):
            if not last and place.get(where) is None:
                place[where] = {}
            for other in replaced_by({part: value if last else place[where]}, inside):
                place.pop(other, None)
        if last:
            place[where] = value
        place = place[where]
        inside = section_at(inside, part) if isinstance(where, str) else inside


def _where(place: Any, part: str, above: Sequence[str], assignment: str) -> str | int:
    """The key or the number by which a mapping or a list, found at `above`, has an override's part.

    Raises:
        UserError: it has no such part.
    """
    name = ".".join(above)
    if isinstance(place, dict):
        return part
    if isinstance(place, list):
        if part.isdecimal() and int(part) < len(place):
            return int(part)
        count = {0: "is empty", 1: "has only item 0"}.get(
            len(place), f"has items 0 to {len(place) - 1}"
        )
        problem = f"{name} is a list, numbered from 0, and {count}"
    elif above[0] == "methods" and isinstance(place, str):
        problem = f"{name} is {place!r} alone: write {name}={{method: {place}, {part}: …}}"
    else:
        problem = f"{name} is {place!r} and has no keys"
    raise UserError(f"the override {assignment!r} names no place in the recipe: {problem}.")
