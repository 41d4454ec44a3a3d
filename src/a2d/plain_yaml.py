"""YAML as users write it: texts, numbers, lists and mappings, and no more of them than make sense.

The library builds any type that a tag names, nests until Python's stack ends, and lets ten lines
stand for a billion values.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from a2d.errors import UserError, first_line

LARGEST = 2**32
"""Numbers go so far, in both directions: seeds do, and nothing else comes near it."""
MOST_BYTES = 1_000_000
MOST_VALUES = 50_000
"""Values in a file, with those that aliases repeat."""
DEEPEST = 30
"""Lists and mappings inside one another."""

_LONGEST_NUMBER = 50

_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")


def parse(text: str) -> Any:
    """The data that a text in YAML stands for.

    Raises:
        UserError: what is wrong and where, as the rest of a sentence: "is no valid YAML at line …".
    """
    if len(text) > MOST_BYTES:
        raise UserError(f"is longer than {MOST_BYTES:,} characters")
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # constructors of numbers raise anything
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        if not isinstance(error, yaml.YAMLError | ValueError):
            problem = "it cannot be read"
        verdict = "cannot be used" if isinstance(error, _Refused) else "is no valid YAML"
        raise UserError(f"{verdict}{where}: {problem}") from error


def check_number(value: float) -> None:
    """Refuse a number that nothing can be meant by.

    Raises:
        ValueError: it is not finite, or beyond `LARGEST`.
    """
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ValueError(f"numbers are finite and go up to {LARGEST:,}")


class _Loader(yaml.SafeLoader):
    """Loads plain data only, within bounds.

    Refuses a key that occurs twice, where YAML would silently take the last.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[yaml.Node, int] = {}
        """Values in each node that is complete, itself among them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, or refuse it."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        before, self._depth = self._values, self._depth + 1
        if self._depth > DEEPEST:
            raise _refusal(f"nested more than {DEEPEST} deep", mark)
        alias = isinstance(event, yaml.AliasEvent)
        node: Any = super().compose_node(parent, index)
        if alias and node not in self._sizes:
            raise _refusal("an alias stands for what it is in", mark)
        self._values += self._sizes[node] if alias else 1
        if self._values > MOST_VALUES:
            raise _refusal(f"more than {MOST_VALUES:,} values, aliases counted", mark)
        self._sizes[node] = self._values - before
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping whose keys all differ."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("a key is a list or a mapping", key.start_mark)
            if key.value in seen:
                raise _refusal(f"the key {key.value!r} occurs twice", key.start_mark)
            seen.add(key.value)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys are texts."""
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        for key, _ in node.value:
            if not isinstance(name := self.construct_object(key), str):
                raise _refusal(f"the key {name!r} is no text: write it in quotes", key.start_mark)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """Construct an integer or a float."""
        integer = node.tag.endswith(":int")
        try:
            if len(node.value) > _LONGEST_NUMBER:  # the work grows with its square
                raise ValueError
            value = self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)
            check_number(value)
        except (ValueError, OverflowError, IndexError):
            said = node.value[:_LONGEST_NUMBER]
            problem = f"{said!r} is no number: they are finite and go up to {LARGEST:,}"
            raise _refusal(problem, node.start_mark) from None
        return value

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Construct a text that files can hold and be called."""
        text = str(self.construct_scalar(node))
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
            raise _refusal("a text holds NUL or half a character", node.start_mark)
        return text


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML, but no data for a recipe."""


def _refusal(problem: str, mark: Any) -> _Refused:
    return _Refused(problem=problem, problem_mark=mark)


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    **{_TAG + kind: _Loader.yaml_constructors[_TAG + kind] for kind in _KINDS},
    **dict.fromkeys((_TAG + "int", _TAG + "float"), _Loader.construct_number),
    _TAG + "str": _Loader.construct_text,
    None: _Loader.yaml_constructors[None],
}
# Dates stay texts.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _TAG + "timestamp"]
    for first, known in _Loader.yaml_implicit_resolvers.items()
}
