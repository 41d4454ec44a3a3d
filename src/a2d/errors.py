"""`UserError`, the exception for messages to the user, and short descriptions of other errors."""

import errno
from collections.abc import Iterator

from a2d.quoting import escaped

MAX_MESSAGE = 2000
"""Longest message, in characters. A longer message, which quotes a long value, loses its middle."""

DISK_FULL = "no disk space is left: free some, then repeat the command, which continues."

_WORDS_OF_FULL_DISKS = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
    "inline_container.cc",
    "basic_ios::clear: iostream error",
)
"""Parts of messages from libraries that do not pass on the system's error number. The last three
are from PyTorch's writer and from C++ streams, which have no other reason to fail where files have
just been written."""


class UserError(Exception):
    """Bad input, described in one clear sentence that names the problem and the remedy.

    The command line prints the message without a traceback and exits with code 2. The message is
    one line without control characters, even if it quotes some. A message longer than `MAX_MESSAGE`
    loses its middle.

    Example:
        >>> try:
        ...     raise UserError("train.tsv is empty: give a file with at least one pair")
        ... except UserError as error:
        ...     print(error)
        train.tsv is empty: give a file with at least one pair
    """

    def __init__(self, message: str) -> None:
        super().__init__(shorten_message(message))


def missing_library(extra: str, error: ImportError) -> UserError:
    """Return the error for a library of an extra that is not installed."""
    return UserError(f"{error.name} is not installed: run {install_command(extra)}.")


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package, for messages."""
    return f"pip install '.[{extra}]' in a clone of align-to-distill"


def shorten_message(message: str) -> str:
    """Put a message on one line of at most `MAX_MESSAGE` characters."""
    plain, half = escaped(message), MAX_MESSAGE // 2
    return plain if len(plain) <= MAX_MESSAGE else f"{plain[:half]} … {plain[3 - half :]}"


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the error's class if the message is empty."""
    return message_of(error).strip().split("\n")[0].rstrip(".:") or type(error).__name__


def message_of(error: BaseException) -> str:
    """Return an error's message; nothing if its `__str__` fails, as that of a plugin's may."""
    try:
        return str(error)
    except Exception:
        return ""


def memory_is_full(error: BaseException) -> bool:
    """Check whether an error came from a lack of memory, of the machine or of the GPU."""
    phrases = ("not enough memory", "allocate memory", "CUDA out of memory")
    return isinstance(error, MemoryError) or any(phrase in message_of(error) for phrase in phrases)


def disk_is_full(error: BaseException) -> bool:
    """Check whether an error, or any of its causes, came from a lack of disk space."""
    return any(
        getattr(each, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or any(words in message_of(each) for words in _WORDS_OF_FULL_DISKS)
        for each in causes(error)
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
