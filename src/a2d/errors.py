"""The one exception meant for the user's eyes, and others in short."""

import errno
from collections.abc import Iterator

from a2d.quoting import escaped

LONGEST = 2000
"""Characters of a message: a longer one, which quotes a long value, is cut in its middle."""

DISK_FULL = "no disk space is left: free some; the same command continues."

_WORDS_OF_FULL_DISKS = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
    "inline_container.cc",
)
"""In messages of libraries that do not pass the system's error number on. The last two are of
PyTorch's writer, which has no other reason to fail where files have just been written."""


class UserError(Exception):
    """Bad input, told in one clear sentence that names the thing and the mend.

    The command line prints it without a traceback and exits with status 2. Its message is one line
    without control characters, whatever is quoted in it; of one that is longer than `LONGEST` the
    middle is left out.

    Example:
        >>> try:
        ...     raise UserError("train.tsv is empty: give a file with at least one pair")
        ... except UserError as error:
        ...     print(error)
        train.tsv is empty: give a file with at least one pair
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """A message on one line of `LONGEST` characters at most."""
    plain, half = escaped(message), LONGEST // 2
    return plain if len(plain) <= LONGEST else f"{plain[:half]} … {plain[3 - half :]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its kind, if it has none."""
    return str(error).strip().split("\n")[0].rstrip(".:") or type(error).__name__


def memory_is_full(error: BaseException) -> bool:
    """Whether an error was for want of memory, of the machine or of its GPU."""
    words = ("not enough memory", "allocate memory", "CUDA out of memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, was for want of disk space."""
    return any(
        getattr(each, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or any(words in str(each) for words in _WORDS_OF_FULL_DISKS)
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
