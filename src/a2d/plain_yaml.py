"""Safe YAML: texts, numbers, lists and mappings, within bounds.

PyYAML alone builds any type that a tag names, nests until Python's stack overflows, and expands ten
lines of aliases into a billion values.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from a2d.errors import UserError, first_line

MAX_NUMBER = 2**32
"""Largest absolute value of a number. Seeds reach it; no other setting comes near it."""
MAX_SIZE = 1_000_000
"""Largest size of a text, in characters, or of its file, in bytes."""
MAX_VALUES = 50_000
"""Largest number of values in a file, with the values that aliases repeat."""
MAX_DEPTH = 30
"""Deepest nesting of lists and mappings."""

_MAX_DIGITS = 50

_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")


def parse(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        UserError: the text is not valid, or exceeds a bound. The message is the predicate of a
            sentence: "is not valid YAML at line 3: …".
    """
    if len(text) > MAX_SIZE:
        raise UserError(f"is longer than {MAX_SIZE:,} characters")
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML's constructors of numbers raise various errors
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        if not isinstance(error, yaml.YAMLError | ValueError):
            problem = "it cannot be read"
        verdict = "cannot be used" if isinstance(error, _Refusal) else "is not valid YAML"
        raise UserError(f"{verdict}{where}: {problem}") from error


def check_number(value: float) -> None:
    """Check that a number is in range.

    Raises:
        ValueError: the number is not finite, or its absolute value exceeds `MAX_NUMBER`.
    """
    if not math.isfinite(value) or abs(value) > MAX_NUMBER:
        raise ValueError(f"numbers are finite and go up to {MAX_NUMBER:,}")


class _Loader(yaml.SafeLoader):
    """Loader of plain data within bounds.

    It refuses repeated keys, of which PyYAML silently takes the last.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[yaml.Node, int] = {}
        """Number of values in each complete node, including itself."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node within the bounds."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        before, self._depth = self._values, self._depth + 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"values are nested more than {MAX_DEPTH} deep", mark)
        alias = isinstance(event, yaml.AliasEvent)
        node: Any = super().compose_node(parent, index)
        if alias and node not in self._sizes:
            raise _refusal("an alias stands for a value that contains the alias", mark)
        self._values += self._sizes[node] if alias else 1
        if self._values > MAX_VALUES:
            raise _refusal(f"there are more than {MAX_VALUES:,} values, aliases counted", mark)
        self._sizes[node] = self._values - before
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping without repeated keys."""
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
        """Construct a mapping whose keys are strings."""
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        for key, _ in node.value:
            if not isinstance(name := self.construct_object(key), str):
                raise _refusal(f"the key {name!r} is not text: write it in quotes", key.start_mark)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """Construct an integer or a float."""
        integer = node.tag.endswith(":int")
        try:
            if len(node.value) > _MAX_DIGITS:  # the time to parse a number grows quadratically
                raise ValueError
            value = self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)
            check_number(value)
        except (ValueError, OverflowError, IndexError):
            start = node.value[:_MAX_DIGITS]
            problem = f"{start!r} is not a number: numbers are finite and go up to {MAX_NUMBER:,}"
            raise _refusal(problem, node.start_mark) from None
        return value

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Construct a string that can be a file's name and content."""
        text = str(self.construct_scalar(node))
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
            raise _refusal("a text holds NUL or half a character", node.start_mark)
        return text


class _Refusal(yaml.MarkedYAMLError):
    """Error for valid YAML that exceeds a bound or cannot be data of a recipe."""


def _refusal(problem: str, mark: Any) -> _Refusal:
    return _Refusal(problem=problem, problem_mark=mark)


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    **{_TAG + kind: _Loader.yaml_constructors[_TAG + kind] for kind in _KINDS},
    **dict.fromkeys((_TAG + "int", _TAG + "float"), _Loader.construct_number),
    _TAG + "str": _Loader.construct_text,
    None: _Loader.yaml_constructors[None],
}
# Dates stay strings.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
