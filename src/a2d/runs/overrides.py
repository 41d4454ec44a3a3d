"""Overrides: changes to a recipe from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from a2d.errors import UserError
from a2d.plain_yaml import MAX_DEPTH, parse
from a2d.runs.sections import AnySection, replaced_keys, section_at


def assign(raw: dict[str, Any], assignment: str, section: AnySection) -> None:
    """Change a recipe in place by an assignment `dotted.key=value`.

    Args:
        raw: the recipe as parsed from YAML. Missing mappings are created. Keys that the assigned
            key replaces are dropped (`Section.replaces`).
        assignment: the key with its value in YAML. List items are numbered from 0.
        section: section that defines the keys of `raw`.

    Raises:
        UserError: it is no assignment, or the recipe has no such key.
    """
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise UserError(
            f"{assignment!r} is not an override: write key=value, e.g. training.num_train_epochs=3."
        )
    try:
        value = parse(text)
    except UserError as error:
        raise UserError(f"the value of the override {assignment!r} {error}.") from error
    parts = key.split(".")
    if len(parts) > MAX_DEPTH:
        raise UserError(f"the override {assignment!r} has more than {MAX_DEPTH} keys.")
    node: Any = raw
    node_section: AnySection | None = section
    for depth, part in enumerate(parts):
        index = _index(node, part, parts[:depth], assignment)
        last = depth == len(parts) - 1
        if isinstance(node, dict):
            if not last and node.get(index) is None:
                node[index] = {}
            for other in replaced_keys({part: value if last else node[index]}, node_section):
                node.pop(other, None)
        if last:
            node[index] = value
        node = node[index]
        if isinstance(index, str):
            node_section = section_at(node_section, part)


def _index(node: Any, part: str, parents: Sequence[str], assignment: str) -> str | int:
    """Convert a part of a dotted key to the key of a mapping or the index into a list.

    Args:
        node: the mapping or list.
        part: the part.
        parents: the parts before it, which lead to `node`.
        assignment: the override, for the error message.

    Raises:
        UserError: `node` has no such item.
    """
    name = ".".join(parents)
    if isinstance(node, dict):
        return part
    if isinstance(node, list):
        if part.isdecimal() and int(part) < len(node):
            return int(part)
        count = {0: "is empty", 1: "has only item 0"}.get(
            len(node), f"has items 0 to {len(node) - 1}"
        )
        problem = f"{name} is a list, numbered from 0, and {count}"
    elif parents[0] == "methods" and isinstance(node, str):
        problem = f"{name} is {node!r} alone: write {name}={{method: {node}, {part}: …}}"
    else:
        problem = f"{name} is {node!r} and has no keys"
    raise UserError(f"the override {assignment!r} does not fit the recipe: {problem}.")
