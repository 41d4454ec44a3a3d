"""Parts of training data, by the names of the stages that make them."""

from __future__ import annotations

from a2d.runs.settings import MethodEntry

PARALLEL = "tokens"
"""The corpus: sources with their references."""
DISTILLED = "distilled"
"""The corpus with the teacher's translations as references."""
MONOLINGUAL = "monolingual"
"""Text without references, with the teacher's translations."""


def parts_for(method: MethodEntry, monolingual: bool) -> tuple[str, ...]:
    """List the parts that a method learns from.

    Args:
        method: the method and its settings.
        monolingual: whether the run has monolingual text.
    """
    needs = method.definition
    if not needs.sequences:
        return (PARALLEL,)
    more = (MONOLINGUAL,) if monolingual and method.monolingual else ()
    return (PARALLEL, DISTILLED, *more) if needs.references else (DISTILLED, *more)
