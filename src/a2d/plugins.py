"""Plugins: Python files of users that add methods, formulas, model families or stages.

A recipe names plugin files under `plugins`. Installed packages register plugin modules in the
entry point group `a2d.plugins`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from a2d.errors import UserError, first_line
from a2d.files import digest

GROUP = "a2d.plugins"

_loaded: dict[Path, str] = {}


def load_plugins(paths: Sequence[str] = ()) -> dict[str, str]:
    """Import the plugins of installed packages and the files `paths`, each once in a process.

    Args:
        paths: paths of Python files.

    Returns:
        SHA-256 of each file's content, by the file's name.

    Raises:
        UserError: a file is missing, has changed since it was imported, or fails.
    """
    for entry in entry_points(group=GROUP):
        entry.load()
    return {Path(path).name: _load(Path(path).expanduser().absolute()) for path in paths}


def _load(path: Path) -> str:
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"plugins: {path} is not a Python file: give the path of a .py file.")
    content = digest(path)
    if path in _loaded:
        if _loaded[path] != content:
            raise UserError(
                f"plugins: {path} has changed since it was imported: repeat the command."
            )
        return content
    name = f"a2d_plugin_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # so that workers can unpickle objects of its classes
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        kind = type(error).__name__
        raise UserError(
            f"plugins: {path} fails ({kind}: {first_line(error)}): correct the file."
        ) from error
    _loaded[path] = content
    return content
