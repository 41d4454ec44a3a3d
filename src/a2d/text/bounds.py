"""Limits of what corpus readers accept; larger input is damaged or an attack, not a corpus.

Every reader keeps to these limits, so that no file exhausts memory or takes for ever.
"""

MAX_LINE = 2**20
"""Bytes of a line (characters in UTF-16 and UTF-32); characters of a record of several lines."""

MAX_SKIPPED = 64 * 2**20
"""A longer line is malformed and skipped; beyond this many bytes, its file is refused."""

MAX_COLUMNS = 1000
"""Columns of a table, keys of a record."""

MAX_ELEMENT = 8 * 2**20
"""Bytes of an XML element that holds a translation unit, and of the text between two of them."""

MAX_CATALOGUE = 16 * 2**20
"""Bytes of a gettext file, which is read as a whole."""

MAX_MESSAGE_LINES = 10_000
"""Lines of a gettext message."""

MAX_FLUENT_FILE = 2 * 2**20
"""Bytes of a Fluent file, whose parser is slow."""

MAX_NAMESPACES = 2**16
"""Characters of XML namespace declarations that the reader of a broken file remembers."""

MAX_COMBINING = 30
"""Combining characters in a row, as in Unicode's stream-safe text format; more are cut off."""

MAX_ESCAPES = 16
"""Passes that unescape a text which was escaped several times."""

MAX_IDENTIFIED = 2000
"""Characters of a text that the language identifier reads."""

MAX_BUFFERED = 16 * 2**20
"""Characters of pairs held in memory before they are written to a temporary file."""

MAX_MALFORMED = 100_000
"""A file that begins with this many malformed entries and no pair is refused."""


def format_size(bound: int) -> str:
    """Format a limit in bytes or characters for messages.

    Example:
        >>> format_size(MAX_LINE)
        '1 MB'
    """
    return f"{bound // 2**20} MB"
