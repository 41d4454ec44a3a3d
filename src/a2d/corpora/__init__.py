"""The corpora that come with the package: one folder each, with its licence and provenance."""

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

_PAPERS = ("LICENSE", "README.md")
"""Files beside a corpus that are none."""


def names() -> list[str]:
    """Name every packaged file, sorted.

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
        if file.name not in _PAPERS
    }


def locate(name: str) -> AbstractContextManager[Path]:
    """Give the packaged file called `name` a path for the length of a `with` block.

    Raises:
        KeyError: `name` is not one of `names()`.

    Example:
        >>> with locate("de-dsb/valid") as path:
        ...     path.name
        'valid.tsv.gz'
    """
    return as_file(_files()[name])
