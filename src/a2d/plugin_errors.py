"""Errors in the code of plugins: one sentence with the plugin's file, the line and the error."""

from __future__ import annotations

import inspect
import traceback
from types import CellType, CodeType
from typing import Any

from a2d.errors import UserError, causes, disk_is_full, first_line, memory_is_full

PREFIX = "a2d_plugin_"
"""Start of the names of the modules that plugin files are imported as."""

packages: dict[str, str] = {}
"""Versions of the packages that hold installed plugins, by their names without subpackages."""


NAME_THE_FILE = "a2d --plugin FILE …, or `plugins` in a recipe (docs/extend.md)."
"""How a plugin is found, as the end of messages about names that a plugin may define."""


CODE = "a2d_code"
"""Name of an attribute of errors: the function whose result, such as an iterator, raised the error.
A plugin's is named where no frame of the traceback is a plugin's."""


class PluginError(UserError):
    """An error in a plugin's code. `a2d --debug` shows its traceback."""


def plugin_error(error: BaseException) -> PluginError | None:
    """Describe an error that was raised in a plugin's code, or in code that the plugin called.

    Returns:
        The description; None for errors of other code, for a `UserError`, and where memory or disk
        space ran out.
    """
    if isinstance(error, PluginError):
        return error
    if isinstance(error, UserError) or disk_is_full(error) or memory_is_full(error):
        return None
    place = _place(error) or _definition(getattr(error, CODE, None))
    if place is None or not isinstance(error, Exception | SystemExit):
        return None
    return PluginError(
        f"the plugin {place[0]} fails in line {place[1]:,} ({_kind(error)}): correct it; "
        "`a2d --debug …` shows the traceback."
    )


def import_error(plugin: str, error: BaseException) -> PluginError:
    """Describe an error that ended the import of a plugin.

    Args:
        plugin: path of its file, or name and module of an installed plugin.
        error: the error.
    """
    place = _place(error)
    if isinstance(error, UserError):
        where = "" if place is None else f", line {place[1]:,}"
        return PluginError(f"plugins: {plugin}{where}: {error}")
    where = "" if place is None else f" in line {place[1]:,}"
    return PluginError(f"plugins: {plugin} fails{where} ({_kind(error)}): correct it.")


def is_plugin(module: str) -> bool:
    """Check whether a module belongs to a plugin."""
    return module.startswith(PREFIX) or module.partition(".")[0] in packages


def defined_at(code: Any) -> str:
    """Name of a function or class, and where it is defined, for messages."""
    code = unwrapped(code)
    name = getattr(code, "__qualname__", repr(code))
    try:
        file = inspect.getsourcefile(code)
        line = inspect.getsourcelines(code)[1]
    except (TypeError, OSError):
        return str(name)
    return f"{name} ({file}, line {line:,})"


def unwrapped(code: Any) -> Any:
    """Return the function inside of partial functions, methods and `functools.wraps`."""
    for _ in range(_MAX_WRAPPERS):
        inner = next((getattr(code, name) for name in _WRAPPED if hasattr(code, name)), None)
        if inner is None:
            break
        code = inner
    return code


def may_use(function: Any, names: set[str]) -> bool:
    """Check whether a function's code, or that of functions inside of it, mentions a name.

    Args:
        function: function, which may be wrapped: partial, or decorated.
        names: names of attributes and variables.

    Returns:
        True also for callables without Python code, because nothing is known about them.
    """
    waiting, seen = [function], set()
    while waiting:
        function = unwrapped(waiting.pop())
        code = getattr(function, "__code__", None)
        if code is None:
            return True
        if code in seen:
            continue
        seen.add(code)
        if names & _names_in(code):
            return True
        cells = (c.cell_contents for c in function.__closure__ or () if c != CellType())
        waiting += [each for each in cells if callable(each) and not isinstance(each, type)]
    return False


def _names_in(code: CodeType) -> set[str]:
    """Names and strings in a function's code and in the functions that it defines."""
    inner = [_names_in(each) for each in code.co_consts if isinstance(each, CodeType)]
    strings = {each for each in code.co_consts if isinstance(each, str)}
    return strings.union(code.co_names, *inner)


_WRAPPED = ("__wrapped__", "__func__", "func")
"""Attributes with the inner function: of `functools.wraps`, of methods, of partial functions."""
_MAX_WRAPPERS = 100


def check_call(function: Any, arguments: tuple[str, ...], name: str | None = None) -> None:
    """Check that a function of a plugin takes the arguments that a2d calls it with.

    Args:
        function: a function, a bound method or a class.
        arguments: names of the positional arguments.
        name: what the message calls the function; None: its own name and place.

    Raises:
        UserError: it does not.
    """
    if not callable(function):
        problem = f"{function!r} is not a function: it gets {', '.join(arguments)}."
        raise UserError(problem if name is None else f"{name}: {problem}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some built-in functions, it is unknown
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise UserError(
            f"{name or defined_at(function)} takes {signature}, but it is called with "
            f"{len(arguments)} arguments: {', '.join(arguments)}."
        ) from error


def _place(error: BaseException) -> tuple[str, int] | None:
    """File and line of the innermost frame in a plugin; None if there is none.

    The frames of the error's causes count, too: Python replaces a StopIteration by another error. A
    SystemExit must come from the plugin itself: the handlers of signals raise it, too.
    """
    ended = isinstance(error, SystemExit)
    for each in [error] if ended else causes(error):
        frames = list(traceback.walk_tb(each.__traceback__))
        for frame, line in reversed(frames[-1:] if ended else frames):
            if is_plugin(str(frame.f_globals.get("__name__"))):
                return frame.f_code.co_filename, line
    return None


def _definition(code: Any) -> tuple[str, int] | None:
    """File and line of a plugin's function; None for other code."""
    code = unwrapped(code)
    if not inspect.isfunction(code) or not is_plugin(code.__module__):
        return None
    return code.__code__.co_filename, code.__code__.co_firstlineno


def _kind(error: BaseException) -> str:
    kind, message = type(error).__name__, first_line(error)
    return kind if message == kind else f"{kind}: {message}"
