"""Parts of the training data, named after the stages that make them."""

from __future__ import annotations

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
