"""The one exception meant for the user's eyes, and others in short."""


class UserError(Exception):
    """Bad input, told in one clear sentence that names the thing and the mend.

    The command line prints it without a traceback and exits with status 2.

    Example:
        >>> try:
        ...     raise UserError("train.tsv is empty: give a file with at least one pair")
        ... except UserError as error:
        ...     print(error)
        train.tsv is empty: give a file with at least one pair
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its kind, if it has none."""
    return str(error).strip().split("\n")[0].rstrip(".:") or type(error).__name__
