"""Unicode encodings of files: detect and decode."""

from __future__ import annotations

import codecs
from typing import IO

UNREADABLE = "\udcff"
"""Lone surrogate that replaces bytes which are not valid in their encoding; no text contains it."""

ERROR_HANDLER = "a2d.mark"
"""Name of the decoding error handler that puts `UNREADABLE` in place of invalid bytes."""

codecs.register_error(ERROR_HANDLER, lambda error: (UNREADABLE, error.end))  # type: ignore[attr-defined]

_NO_CHARSETS = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7"}
"""Text codecs of Python that are no encodings of files, or that let lone surrogates pass."""

_START_BYTES = 4096
_BYTE_ORDER_MARKS = (  # UTF-32's little-endian mark begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MIN_ZEROS = 0.02
"""Share of zero bytes above which a file is UTF-16; its line ends and spaces alone exceed it."""


def is_charset(name: str) -> bool:
    """Return whether a name that a file declares is a known text encoding.

    Example:
        >>> is_charset("latin-1"), is_charset("rot13"), is_charset("klingon")
        (True, False, False)
    """
    try:
        b"a".decode(name, ERROR_HANDLER)  # fails for codecs of bytes to bytes and of text to text
        return codecs.lookup(name).name.replace("_", "-") not in _NO_CHARSETS
    except (LookupError, ValueError):
        return False


def encoding_of(start: bytes, default: str = "utf-8-sig") -> str:
    """Detect a file's encoding from its first bytes.

    UTF-16 and UTF-32 are recognised by their byte-order mark, UTF-16 also without a mark.

    Example:
        >>> encoding_of("ja".encode("utf-16")), encoding_of("ja nein".encode("utf-16-le"))
        ('utf-16', 'utf-16-le')
    """
    for byte_order_mark, name in _BYTE_ORDER_MARKS:
        if start.startswith(byte_order_mark):
            return name
    start = start[:_START_BYTES]
    zeros = start.count(0)
    if zeros > _MIN_ZEROS * len(start):
        high = start[::2].count(0)
        if high > 0.9 * zeros:
            return "utf-16-be"
        if high < 0.1 * zeros:
            return "utf-16-le"
    return default


def decode(content: bytes, default: str = "utf-8") -> str:
    """Decode a file; `UNREADABLE` replaces bytes that are not valid in the encoding.

    Args:
        content: bytes of the file.
        default: encoding of a file that is not in UTF-16 or UTF-32.

    Returns:
        The text without its byte-order mark.
    """
    return content.decode(encoding_of(content, default), ERROR_HANDLER).removeprefix("\ufeff")


def peek_start(file: IO[bytes]) -> bytes:
    """Return the first bytes of a file without consuming them."""
    peek = getattr(file, "peek", None)
    return bytes(peek(_START_BYTES)[:_START_BYTES]) if peek else b""
