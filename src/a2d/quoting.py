"""Quotation of input in messages: on one line, short, without terminal control characters."""

from __future__ import annotations

from collections.abc import Iterable
from reprlib import Repr

WIDTH = 80
"""Longest quotation of one input, in characters."""

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = WIDTH


def escaped(text: str) -> str:
    """Escape line breaks, control characters, bidirectional marks and lone surrogates.

    Example:
        >>> escaped("red:\\x1b[31m")
        'red:\\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, width: int = 40) -> str:
    """Shorten a text to one line of `width` characters, with control characters escaped.

    Example:
        >>> shorten("a\\tb\\x1b[31m red and more", width=16)
        'a\\\\tb\\\\x1b[31m re…'
    """
    plain = escaped(text[: width + 1])
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def quoted(value: object) -> str:
    """Quote a value from a file or a setting: strings in quotes, other values as in Python.

    Example:
        >>> quoted("de"), quoted({"de": [1, 2]})
        ("'de'", "{'de': [1, 2]}")
    """
    if isinstance(value, str):
        return repr(value) if len(value) < WIDTH - 20 and value.isprintable() else _cut(value)
    return shorten(_REPR.repr(value), WIDTH)


def _cut(text: str) -> str:
    return f"'{shorten(text, WIDTH - 20)}'"


def counted(count: int, noun: str) -> str:
    """Return a number and its noun, which gets an s unless the number is 1.

    Example:
        >>> counted(1, "pair"), counted(2000, "pair")
        ('1 pair', '2,000 pairs')
    """
    return f"{count:,} {noun}" + "s" * (count != 1)


def listed(values: Iterable[object]) -> str:
    """List quoted values up to `WIDTH` characters; "nothing" if there are none.

    Example:
        >>> listed(["de", "en"]), listed(range(1000))[-8:]
        ("'de', 'en'", '1, 22, …')
    """
    text = ""
    for value in values:
        longer = f"{text}, {quoted(value)}" if text else quoted(value)
        if len(longer) > WIDTH:
            return f"{text}, …"
        text = longer
    return text or "nothing"
