"""What comes of hostile input in this process: it works, or one sentence refuses it."""

import signal
from contextlib import contextmanager

from a2d.endings import DEFECT, ending_of
from a2d.errors import MAX_MESSAGE

SECONDS = 20
"""Of processor time, for one input."""


class NoEnd(BaseException):
    """An input kept the command busy."""


@contextmanager
def limited(seconds=SECONDS):
    """Raise `NoEnd` after some seconds of computing."""

    def stop(*_):
        raise NoEnd

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome_of(work):
    """Do work; give its outcome, as the ledger names it, and what was said."""
    try:
        with limited():
            work()
    except NoEnd:
        return "no end", ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        said, code = ending_of(error)
        plain = said.isprintable() and len(said) <= MAX_MESSAGE + 10
        return ("refused in a sentence" if code != DEFECT and plain else "traceback"), said
    return "accepted", ""
