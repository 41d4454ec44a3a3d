"""The nearest valid name for a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, valid: Iterable[str]) -> str:
    """End of an error message: the nearest valid name, or all of them where none is near.

    Example:
        >>> nearest("kdd", ["baseline", "kd", "a2d"])
        ": did you mean 'kd'? Valid: baseline, kd, a2d."
    """
    names = list(valid)
    if not names:
        return ": there are none."
    found = get_close_matches(name, names, n=1, cutoff=0.5)
    question = f" did you mean {found[0]!r}?" if found else ""
    return f":{question} Valid: {', '.join(names)}."
