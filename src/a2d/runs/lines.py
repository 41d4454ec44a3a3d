"""Text files with one sentence per line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from a2d.files import write_text


def one_line(text: str) -> str:
    """Replace white space, line breaks included, by single spaces."""
    return " ".join(text.split())


def read_lines(path: Path) -> list[str]:
    """Read the lines of `write_lines`; only "\n" ends a line, as opposed to `str.splitlines`."""
    return path.read_text("utf-8").split("\n")[:-1]


def write_lines(path: Path, texts: Sequence[str]) -> None:
    """Write one sentence per line."""
    write_text(path, "".join(f"{one_line(text)}\n" for text in texts))
