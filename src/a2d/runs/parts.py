"""Parts of the training data, named after the stages that make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from a2d.runs.settings import MethodEntry

PARALLEL = "tokens"
"""The training corpus: sources with their references."""
DISTILLED = "distilled"
"""Sources of the training corpus with the teacher's translations as references."""
MONOLINGUAL = "monolingual"
"""Monolingual text with the teacher's translations as references."""


def parts_for(method: MethodEntry, monolingual: bool) -> tuple[str, ...]:
    """List the parts of the training data that a method learns from.

    Args:
        method: the method with its settings.
        monolingual: whether the run has monolingual text.
    """
    definition = method.definition
    if not definition.sequences:
        return (PARALLEL,)
    extra = (MONOLINGUAL,) if monolingual and method.monolingual else ()
    return (PARALLEL, DISTILLED, *extra) if definition.references else (DISTILLED, *extra)


class CachedParts(NamedTuple):
    """Parts of the training data that the teacher's outputs are stored for, in one cache.

    Attributes:
        parts: names of the parts.
        states: store hidden states and value vectors too.
    """

    parts: tuple[str, ...]
    states: bool

    @property
    def name(self) -> str:
        """Name of the cache's folder."""
        return "+".join([*self.parts, "states"] if self.states else self.parts)


def caches_for(
    methods: Sequence[MethodEntry], monolingual: bool
) -> dict[tuple[str, ...], CachedParts]:
    """Find the caches that some methods need, by the parts that they cover.

    Args:
        methods: the methods with their settings.
        monolingual: whether the run has monolingual text.
    """
    states_of: dict[tuple[str, ...], bool] = {}
    for method in methods:
        needs = method.definition
        if needs.uses_outputs:
            parts = parts_for(method, monolingual)
            states_of[parts] = states_of.get(parts, False) or needs.states
    return {parts: CachedParts(parts, states) for parts, states in states_of.items()}
