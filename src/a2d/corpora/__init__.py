"""Corpora that come with the package: one folder each, with its licence and provenance."""

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

_DOCUMENTS = ("LICENSE", "README.md")
"""Files of the folders that are not corpora."""


def names() -> list[str]:
    """Return the names of all packaged corpora, sorted.

    Example:
        >>> names()
        ['de-dsb/test', 'de-dsb/train', 'de-dsb/valid', 'en-pt/memory', 'en-pt/test', 'en-pt/valid']
    """
    return sorted(_files())


def _files() -> dict[str, Traversable]:
    return {
        f"{folder.name}/{file.name.partition('.')[0]}": file
        for folder in files(__name__).iterdir()
        if folder.is_dir() and not folder.name.startswith("_")
        for file in folder.iterdir()
        if file.name not in _DOCUMENTS
    }


def locate(name: str) -> AbstractContextManager[Path]:
    """Return a context manager that gives the path of a packaged corpus.

    Raises:
        KeyError: `name` is not one of `names()`.

    Example:
        >>> with locate("de-dsb/valid") as path:
        ...     path.name
        'valid.tsv.gz'
    """
    return as_file(_files()[name])
