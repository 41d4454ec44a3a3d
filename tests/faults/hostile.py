"""Outcome of hostile input in this process: it is accepted, or refused in one sentence."""

import signal
from contextlib import contextmanager

from a2d.endings import DEFECT, ending_of
from a2d.errors import MAX_MESSAGE

SECONDS = 20
"""Limit of CPU time for one input."""


class NoEnd(BaseException):
    """The time limit was reached."""


@contextmanager
def limited(seconds=SECONDS):
    """Raise `NoEnd` after some seconds of CPU time."""

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
    """Call a function; return the outcome, as in `Ledger.record`, and the error message."""
    try:
        with limited():
            work()
    except NoEnd:
        return "no end", ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        message, code = ending_of(error)
        plain = message.isprintable() and len(message) <= MAX_MESSAGE + 10
        return ("refused in a sentence" if code != DEFECT and plain else "traceback"), message
    return "accepted", ""
