"""Character references of HTML that were left in texts."""

from __future__ import annotations

import re
from html import unescape
from html.entities import html5

_REFERENCE = re.compile(r"&(?:#(?:\d{1,7}|[xX][0-9a-fA-F]{1,6})|[A-Za-z][A-Za-z0-9]*);")


def unescaped(text: str) -> str:
    """A text whose references (`&quot;`, `&#39;`, `&amp;amp;`) have become their characters.

    References are replaced until none is left: those of a text that was escaped several times
    too. Only complete references that HTML knows count, so that `&File`, `&copyright` and
    `&brandName;` stay. What becomes white space becomes a space, or one that does not break.

    Example:
        >>> unescaped("Tom &amp;amp; Jerry: &quot;R&D&quot;")
        'Tom & Jerry: "R&D"'
    """
    while (plain := _REFERENCE.sub(_character, text)) != text:
        text = plain
    return text


def _character(reference: re.Match[str]) -> str:
    whole = reference[0]
    if whole[1] != "#" and whole[1:] not in html5:
        return whole
    character = unescape(whole)
    return " " if character.isspace() and character != "\u00a0" else character
