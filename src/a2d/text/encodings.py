"""Which encoding of Unicode a file is in, and its text."""

from __future__ import annotations

import codecs
from typing import IO

UNREADABLE = "\udcff"
"""Half a character, which no text holds: in the place of bytes that are not in their encoding."""

MARK = "a2d.mark"
"""What to do with such bytes when decoding: put `UNREADABLE` there."""

codecs.register_error(MARK, lambda error: (UNREADABLE, error.end))  # type: ignore[attr-defined]

_NO_CHARSETS = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7"}
"""Python's text codecs that are no encodings of files, or that let halves of characters in."""

_START = 4096
_MARKS = (  # UTF-32's little-endian mark begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ZEROS = 0.02
"""Share of zero bytes from which on a file is UTF-16: lines and spaces alone give it more."""


def is_charset(name: str) -> bool:
    """Whether a name that a file declares is an encoding of text that is known.

    Example:
        >>> is_charset("latin-1"), is_charset("rot13"), is_charset("klingon")
        (True, False, False)
    """
    try:
        b"a".decode(name, MARK)  # raises for codecs from bytes to bytes, and from text to text
        return codecs.lookup(name).name.replace("_", "-") not in _NO_CHARSETS
    except (LookupError, ValueError):
        return False


def encoding_of(start: bytes, otherwise: str = "utf-8-sig") -> str:
    """Tell a file's encoding from its first bytes: UTF-16 and UTF-32 show, with a mark or without.

    Example:
        >>> encoding_of("ja".encode("utf-16")), encoding_of("ja nein".encode("utf-16-le"))
        ('utf-16', 'utf-16-le')
    """
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    start = start[:_START]
    zeros = start.count(0)
    if zeros > _ZEROS * len(start):
        high = start[::2].count(0)
        if high > 0.9 * zeros:
            return "utf-16-be"
        if high < 0.1 * zeros:
            return "utf-16-le"
    return otherwise


def decoded(content: bytes, otherwise: str = "utf-8") -> str:
    """A file's text without its byte-order mark, with `UNREADABLE` for what is not in its encoding.

    Args:
        content: the file.
        otherwise: its encoding, if it is not UTF-16 or UTF-32.
    """
    return content.decode(encoding_of(content, otherwise), MARK).removeprefix("\ufeff")


def start_of(file: IO[bytes]) -> bytes:
    """The first bytes of a file, which stay to be read."""
    peek = getattr(file, "peek", None)
    return bytes(peek(_START)[:_START]) if peek else b""
