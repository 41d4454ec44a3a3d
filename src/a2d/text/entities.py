"""Character references of HTML and control characters that were left in texts."""

from __future__ import annotations

import re
from html import unescape
from html.entities import html5

from a2d.text.bounds import LAYERS

_REFERENCE = re.compile(r"&(?:#(?:\d{1,7}|[xX][0-9a-fA-F]{1,6})|[A-Za-z][A-Za-z0-9]*);")

_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_WINDOWS = re.compile("[\x80-\x84\x86-\x9f]")
"""Without U+0085, which is white space: it breaks lines."""


def unescaped(text: str) -> str:
    """A text whose references (`&quot;`, `&#39;`, `&amp;amp;`) have become their characters.

    References are replaced again and again: those of a text that was escaped several times too.
    Only complete references that HTML knows count, so that `&File`, `&copyright` and `&brandName;`
    stay. What becomes white space becomes a space, or one that does not break.

    Example:
        >>> unescaped("Tom &amp;amp; Jerry: &quot;R&D&quot;")
        'Tom & Jerry: "R&D"'
    """
    for _ in range(LAYERS):
        plain = _REFERENCE.sub(_character, text)
        if plain == text:
            break
        text = plain
    return text


def printable(text: str) -> str:
    """A text without control characters but those of white space (tab, line breaks).

    Those from U+0080 on are letters and punctuation of Windows (code page 1252) that were read as
    Latin-1, and become these again, as browsers have it.

    Example:
        >>> printable("it\x92s\x07 on")
        'it’s on'
    """
    windows = _WINDOWS.sub(lambda c: c[0].encode("latin-1").decode("cp1252", "ignore"), text)
    return _CONTROL.sub("", windows)


def _character(reference: re.Match[str]) -> str:
    whole = reference[0]
    if whole[1] != "#" and whole[1:] not in html5:
        return whole
    character = unescape(whole)
    return " " if character.isspace() and character != "\u00a0" else character
