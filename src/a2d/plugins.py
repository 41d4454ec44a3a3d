"""Plugins: Python files of users that add methods, formulas, model families or stages.

A recipe names plugin files under `plugins`. Installed packages register plugin modules in the
entry point group `a2d.plugins`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from a2d.errors import UserError, first_line
from a2d.files import digest

GROUP = "a2d.plugins"

_digests: dict[Path, str] = {}


def load_plugins(paths: Sequence[str] = ()) -> dict[str, str]:
    """Import the plugins of installed packages and the files `paths`, each once in a process.

    Args:
        paths: paths of Python files.

    Returns:
        SHA-256 of each file's content, by the file's name.

    Raises:
        UserError: a plugin fails, or a file is missing, has changed since it was imported, or has
            the name of another plugin.
    """
    _load_installed()
    return {Path(path).name: _load(Path(path).expanduser().absolute()) for path in paths}


@cache
def _load_installed() -> None:
    """Import the plugins of installed packages."""
    for entry in entry_points(group=GROUP):
        with _report_errors(
            f"the installed plugin {entry.name!r} ({entry.value})", "uninstall or correct"
        ):
            entry.load()


def _load(path: Path) -> str:
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"plugins: {path} is not a Python file: give the path of a .py file.")
    content = digest(path)
    if path in _digests:
        if _digests[path] != content:
            raise UserError(
                f"plugins: {path} has changed since it was imported: repeat the command."
            )
        return content
    name = f"a2d_plugin_{path.stem}"
    if name in sys.modules:
        raise UserError(f"plugins: another plugin is called {path.name}: rename one of them.")
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # so that workers can unpickle objects of its classes
    try:
        with _report_errors(str(path), "correct"):
            specification.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    _digests[path] = content
    return content


@contextmanager
def _report_errors(plugin: str, remedy: str) -> Iterator[None]:
    """Turn an error of a plugin's code into a sentence that names the plugin."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        raise UserError(
            f"plugins: {plugin} fails ({kind}: {first_line(error)}): {remedy} it."
        ) from error
