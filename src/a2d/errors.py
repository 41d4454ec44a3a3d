"""The one exception meant for the user's eyes, and others in short."""

from a2d.quoting import escaped


class UserError(Exception):
    """Bad input, told in one clear sentence that names the thing and the mend.

    The command line prints it without a traceback and exits with status 2. Its message is one line
    without control characters, whatever names and texts are quoted in it.

    Example:
        >>> try:
        ...     raise UserError("train.tsv is empty: give a file with at least one pair")
        ... except UserError as error:
        ...     print(error)
        train.tsv is empty: give a file with at least one pair
    """

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its kind, if it has none."""
    return str(error).strip().split("\n")[0].rstrip(".:") or type(error).__name__
