"""How much of a corpus is read at once: what is larger is no corpus, but damage or an attack.

Every reader keeps to these bounds, so that no file makes it run out of memory, or run without end.
"""

LINE = 2**20
"""Bytes of a line (characters in UTF-16 and UTF-32), characters of a record of several lines."""

SKIPPED = 64 * 2**20
"""Bytes of a longer line after which its file is refused; before that, the line is malformed."""

COLUMNS = 1000
"""Columns of a table, keys of a record."""

ELEMENT = 8 * 2**20
"""Bytes of an XML element that holds a unit of translation, and of what is between two of them."""

CATALOGUE = 16 * 2**20
"""Bytes of a gettext file, which is read as a whole."""

MESSAGE = 10_000
"""Lines of a gettext message."""

FLUENT_FILE = 2 * 2**20
"""Bytes of a Fluent file, whose parser is slow."""

NAMESPACES = 2**16
"""Characters of declarations of XML namespaces that are remembered in a broken file."""

MARKS = 30
"""Combining characters in a row, as in Unicode's stream-safe text format; more are cut off."""

LAYERS = 16
"""How often a text that was escaped again and again is unescaped."""

IDENTIFIED = 2000
"""Characters by which a text's language is told."""

STORED = 16 * 2**20
"""Characters of pairs that are held in memory on their way to a temporary file."""

HOPELESS = 100_000
"""Malformed entries after which a file without a pair is read no further."""


def size(bound: int) -> str:
    """A bound in bytes or characters, as messages name it.

    Example:
        >>> size(LINE)
        '1 MB'
    """
    return f"{bound // 2**20} MB"
