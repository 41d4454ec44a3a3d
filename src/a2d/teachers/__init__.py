"""Teachers packaged with a2d: one folder each, with its licence and provenance."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from a2d.errors import UserError
from a2d.suggestions import nearest

BUILTIN = "builtin:"


def names() -> list[str]:
    """Names of the packaged teachers, sorted.

    Example:
        >>> names()
        ['en-pt']
    """
    return sorted(
        folder.name
        for folder in files(__name__).iterdir()
        if folder.is_dir() and (folder / "config.json").is_file()
    )


def model_path(model: str | Path) -> str:
    """Resolve `builtin:NAME` to the folder of a packaged teacher; return other names unchanged.

    Raises:
        UserError: no packaged teacher has that name.

    Example:
        >>> model_path("Helsinki-NLP/opus-mt-en-de")
        'Helsinki-NLP/opus-mt-en-de'
    """
    path = str(model)
    if not path.startswith(BUILTIN):
        return path
    name = path.removeprefix(BUILTIN)
    if name not in names():
        raise UserError(f"no packaged teacher {name!r}{nearest(name, names())}")
    return str(files(__name__) / name)
