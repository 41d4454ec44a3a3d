"""The campaign of faults: how much of it runs, and what came of every fault.

`make faults` runs all of it; the tests of every day are a part of it. `FAULTS=full` asks for all,
`FAULTS_SEED=7` for other random moments, bytes and inputs than those of seed 0.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

FULL = os.environ.get("FAULTS") == "full"
SEED = int(os.environ.get("FAULTS_SEED", "0"))

SURVIVED = ("as undisturbed", "refused in a sentence", "made again", "accepted")
LOST = ("results changed", "results lost", "code run", "traceback", "no end", "memory")

counts: Counter[tuple[str, str]] = Counter()


class Ledger:
    """Counts what came of every fault."""

    def __init__(self) -> None:
        self._losses: list[str] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Fail once, at the end, with all that is lost meanwhile."""
        self._losses = losses = []
        try:
            yield
        finally:
            self._losses = None
        if losses:
            pytest.fail("\n".join(losses), pytrace=False)

    def record(self, kind: str, outcome: str, what: object = "") -> None:
        """Count a fault; fail the test if something was lost.

        Args:
            kind: of the fault, as the table calls it: `kills`, `damaged checkpoints`, …
            outcome: one of `SURVIVED` or `LOST`.
            what: the fault itself, for the message of the failure.
        """
        assert outcome in SURVIVED + LOST
        counts[kind, outcome] += 1
        if outcome in SURVIVED:
            return
        loss = f"{kind}: {outcome}: {what}"
        if self._losses is None:
            pytest.fail(loss, pytrace=False)
        self._losses.append(loss)


def sentence(errors: str) -> bool:
    """Whether a command's standard error ends in one sentence of ours, and holds no traceback."""
    last = errors.strip().split("\n")[-1]
    return "Traceback" not in errors and bool(re.match(r"(Error|Interrupted)", last))
