"""Suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, valid: Iterable[str]) -> str:
    """Write the end of an error message: the nearest valid name, if any is near, and all of them.

    Example:
        >>> nearest("kdd", ["baseline", "kd", "a2d"])
        ": did you mean 'kd'? Valid are baseline, kd, a2d."
    """
    names = list(valid)
    if not names:
        return ": there are none."
    matches = get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names)
    if not matches:
        return f": valid are {listed}."
    return f": did you mean {matches[0]!r}? Valid are {listed}."
