"""Input quoted in messages: on one line, short, and without what a terminal takes for a command."""

from __future__ import annotations

from collections.abc import Iterable
from reprlib import Repr

WIDTH = 80
"""Characters of input that a message quotes at most."""

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = WIDTH


def escaped(text: str) -> str:
    """Escape line breaks, control characters, bidi marks and halves of characters.

    Example:
        >>> escaped("red:\\x1b[31m")
        'red:\\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(text: str, width: int = 40) -> str:
    """A text on one line that no terminal takes for a command, cut to a width.

    Example:
        >>> shown("a\\tb\\x1b[31m red and more", width=16)
        'a\\\\tb\\\\x1b[31m r…'
    """
    plain = escaped(text[: width + 1])
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def quoted(value: object) -> str:
    """A value of a file or a setting as messages name it: texts in quotes, all else as in Python.

    Example:
        >>> quoted("de"), quoted({"de": [1, 2]})
        ("'de'", "{'de': [1, 2]}")
    """
    if isinstance(value, str):
        return repr(value) if len(value) < WIDTH - 20 and value.isprintable() else _cut(value)
    return shown(_REPR.repr(value), WIDTH)


def _cut(text: str) -> str:
    return f"'{shown(text, WIDTH - 20)}'"


def listed(values: Iterable[object]) -> str:
    """Values in a row, as many as a message quotes; "nothing" if there are none.

    Example:
        >>> listed(["de", "en"]), listed(range(1000))[-8:]
        ("'de', 'en'", '24, 25, …')
    """
    row = ""
    for value in values:
        following = f"{row}, {quoted(value)}" if row else quoted(value)
        if len(following) > WIDTH:
            return f"{row}, …"
        row = following
    return row or "nothing"
