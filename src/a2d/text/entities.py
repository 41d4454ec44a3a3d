"""Repair of texts: HTML character references and control characters that were left in them."""

from __future__ import annotations

import re
from html import unescape
from html.entities import html5

from a2d.text.bounds import MAX_ESCAPES

_CHARACTER_REFERENCE = re.compile(r"&(?:#(?:\d{1,7}|[xX][0-9a-fA-F]{1,6})|[A-Za-z][A-Za-z0-9]*);")

_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_WINDOWS_1252 = re.compile("[\x80-\x84\x86-\x9f]")
"""Without U+0085, a line break, which is white space."""


def unescape_entities(text: str) -> str:
    """Replace HTML character references (`&quot;`, `&#39;`, `&amp;amp;`) by their characters.

    The replacement is repeated, because some texts were escaped several times. Only complete
    references that HTML defines are replaced; `&File`, `&copyright` and `&brandName;` stay. White
    space becomes a space; a no-break space stays one.

    Example:
        >>> unescape_entities("Tom &amp;amp; Jerry: &quot;R&D&quot;")
        'Tom & Jerry: "R&D"'
    """
    for _ in range(MAX_ESCAPES):
        plain = _CHARACTER_REFERENCE.sub(_character, text)
        if plain == text:
            break
        text = plain
    return text


def printable(text: str) -> str:
    """Remove control characters except white space (tab, line breaks).

    Characters U+0080 to U+009F are Windows letters and punctuation (code page 1252) that were read
    as Latin-1. They are converted back, as browsers do.

    Example:
        >>> printable("it\x92s\x07 on")
        'it’s on'
    """
    windows = _WINDOWS_1252.sub(lambda c: c[0].encode("latin-1").decode("cp1252", "ignore"), text)
    return _CONTROL.sub("", windows)


def _character(reference: re.Match[str]) -> str:
    text = reference[0]
    if text[1] != "#" and text[1:] not in html5:
        return text
    character = unescape(text)
    return " " if character.isspace() and character != "\u00a0" else character
