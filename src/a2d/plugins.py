"""Plugins: Python files of users that add methods, formulas, families, formats or stages.

A recipe names plugin files under `plugins`, and `a2d --plugin FILE` names one for any command.
Installed packages register plugin modules in the entry point group `a2d.plugins`. A stage of a run
depends on the plugins that it uses: `Registry.plugin` looks up the plugin of an entry, `plugin_of`
that of a class.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from a2d.errors import UserError, first_line
from a2d.files import MAX_NAME, NAME, digest
from a2d.plugin_errors import PREFIX, defined_at, import_error, packages
from a2d.quoting import quoted

GROUP = "a2d.plugins"

Entry = TypeVar("Entry")

named: list[str] = []
"""Plugin files that the command line names."""

_digests: dict[Path, str] = {}
_importing: str | None = None
"""Module of the plugin that is being imported."""


class Registry(dict[str, Entry]):
    """Entries by name; it remembers the plugin that added each."""

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, str | None] = {}

    def __setitem__(self, name: str, entry: Entry) -> None:
        super().__setitem__(name, entry)
        self._modules[name] = _importing

    def plugin(self, name: str) -> dict[str, str]:
        """Name and content of the plugin that added an entry, as `plugin_of`."""
        return plugin_of(self._modules.get(name))


_TYPES: dict[str, Any] = {
    "str": str,
    "str | None": str | None,
    "bool": bool,
    "float": float | int,
    "tuple[str, ...]": tuple,
}
"""Annotations of attributes that `check_entry` compares with the values."""


def check_entry(entry: Any, kind: Any, names: str = NAME) -> None:
    """Check what is registered: its class, its name (the first attribute), and its types.

    Args:
        entry: the object.
        kind: the dataclass that it belongs to.
        names: regular expression of valid names.

    Raises:
        UserError: it is something else.
    """
    if isinstance(entry, type) and issubclass(entry, kind):
        raise UserError(f"{defined_at(entry)} is a class: register an object, {entry.__name__}(…).")
    if not isinstance(entry, kind):
        raise UserError(f"{quoted(entry)} is no {kind.__name__}: register {kind.__name__}(…).")
    values = {field: getattr(entry, field.name, None) for field in fields(entry)}
    name: Any = next(iter(values.values()))
    for field, value in values.items():
        if not isinstance(value, _TYPES.get(str(field.type), object)):
            raise UserError(
                f"{field.name} of the {kind.__name__} {quoted(name)} is {value!r}, but its type is "
                f"{field.type}."
            )
    if not re.fullmatch(names, name) or len(name.encode()) > MAX_NAME:
        raise UserError(
            f"{quoted(name)} cannot be the name of a {kind.__name__}: write up to {MAX_NAME} "
            "letters, digits and . + - _, without spaces."
        )


def plugin_of(module: str | None) -> dict[str, str]:
    """Name and content of the plugin that a module belongs to.

    Returns:
        The file's name and the SHA-256 of its content, or an installed plugin's package and
        version; empty for other modules.
    """
    package = (module or "").partition(".")[0]
    if package in packages:
        return {package: packages[package]}
    return {path.name: content for path, content in _digests.items() if _module(path) == module}


def load_plugins(paths: Sequence[str] = ()) -> None:
    """Import installed plugins, those of the command line, and `paths`, each once in a process.

    Args:
        paths: paths of Python files.

    Raises:
        UserError: a plugin fails, or a file is missing, has changed since it was imported, or has
            the name of another plugin.
    """
    _load_installed()
    for path in (*named, *paths):
        _load(_resolve(path))


def _resolve(path: str) -> Path:
    """Resolve a path, so that every spelling of it names the same plugin."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: an unknown user
        raise UserError(f"plugins: {quoted(path)} is not a path ({first_line(error)}).") from error


def loaded_files() -> dict[Path, str]:
    """SHA-256 of the plugin files that this process has imported, by their paths."""
    return dict(_digests)


def load_same(files: Mapping[Path, str]) -> None:
    """Import the plugins that another process has imported.

    Args:
        files: the other process's `loaded_files`.

    Raises:
        UserError: as `load_plugins`, or a file has changed since the other process imported it.
    """
    _load_installed()
    for path, content in files.items():
        if path.is_file() and digest(path) != content:
            raise _changed(path)
        _load(path)


def _changed(path: Path) -> UserError:
    return UserError(f"plugins: {path} has changed since it was imported: repeat the command.")


@cache
def _load_installed() -> None:
    """Import the plugins of installed packages."""
    global _importing
    for entry in entry_points(group=GROUP):
        _importing = entry.value.partition(":")[0]
        packages[_importing.partition(".")[0]] = entry.dist.version if entry.dist else "unknown"
        try:
            with _report_errors(f"the installed plugin {entry.name!r} ({entry.value})"):
                entry.load()
        finally:
            _importing = None


def _module(path: Path) -> str:
    """Name of the module that a plugin file is imported as."""
    return f"{PREFIX}{path.stem}"


def _load(path: Path) -> None:
    global _importing
    if not path.exists():
        raise UserError(
            f"plugins: there is no {path}: check the path (relative ones start at the working "
            "directory)."
        )
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"plugins: {path} is not a Python file: give the path of a .py file.")
    content = digest(path)
    if path in _digests:
        if _digests[path] != content:
            raise _changed(path)
        return
    name = _module(path)
    if name in sys.modules:
        raise UserError(f"plugins: another plugin is called {path.name}: rename one of them.")
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # so that workers can unpickle objects of its classes
    _importing = name
    try:
        with _report_errors(str(path), path.parent):
            specification.loader.exec_module(module)
    except UserError:
        sys.modules.pop(name, None)
        raise
    finally:
        _importing = None
    _digests[path] = content


@contextmanager
def _report_errors(plugin: str, folder: Path | None = None) -> Iterator[None]:
    """Turn an error of a plugin's code into a sentence that names the plugin.

    Args:
        plugin: name or path of the plugin.
        folder: folder of a plugin that is one file.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if folder is not None and missing and (folder / f"{missing}.py").exists():
            raise UserError(
                f"plugins: {plugin} imports {missing}.py, which lies beside it: a plugin is one "
                "file. Put both into one file or into an installed package."
            ) from error
        raise import_error(plugin, error) from error
