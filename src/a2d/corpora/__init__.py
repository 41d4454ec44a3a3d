"""The corpora that come with the package: one folder each, with its licence and provenance."""

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

_ENDING = ".tsv.gz"


def names() -> list[str]:
    """Name every packaged file, sorted.

    Example:
        >>> names()
        ['de-dsb/test', 'de-dsb/train', 'de-dsb/valid']
    """
    return sorted(
        f"{folder.name}/{file.name.removesuffix(_ENDING)}"
        for folder in files(__name__).iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(_ENDING)
    )


def locate(name: str) -> AbstractContextManager[Path]:
    """Give the packaged file called `name` a path for the length of a `with` block.

    Raises:
        KeyError: `name` is not one of `names()`.

    Example:
        >>> with locate("de-dsb/valid") as path:
        ...     path.name
        'valid.tsv.gz'
    """
    if name not in names():
        raise KeyError(name)
    folder, part = name.split("/")
    return as_file(files(__name__) / folder / f"{part}{_ENDING}")
