"""Python files of the user's that add methods, formulas, model families or stages.

A recipe names such files under `plugins`. Installed packages are found by the entry point group
`a2d.plugins`, whose entries are modules.
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
    """Import the plugins of installed packages and those at `paths`, each once in a process.

    Args:
        paths: Python files.

    Returns:
        The SHA-256 of each file's content by its name.

    Raises:
        UserError: a file is missing, has changed since it was imported, or fails.
    """
    for entry in entry_points(group=GROUP):
        entry.load()
    return {Path(path).name: _load(Path(path).expanduser().absolute()) for path in paths}


def _load(path: Path) -> str:
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"plugins: {path} is no Python file: give the path of a .py file.")
    content = digest(path)
    if path in _loaded:
        if _loaded[path] != content:
            raise UserError(f"plugins: {path} has changed since it was imported: start again.")
        return content
    name = f"a2d_plugin_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # for objects of its classes, which workers receive
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        kind = type(error).__name__
        raise UserError(f"plugins: {path} fails ({kind}: {first_line(error)}): mend it.") from error
    _loaded[path] = content
    return content
