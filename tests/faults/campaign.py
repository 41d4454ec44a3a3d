"""Size, seed and results of the fault campaign.

`make faults` runs the whole campaign (`FAULTS=full`), `make test` a small part of it.
`FAULTS_SEED=7` draws other random moments, bytes and inputs than the default seed 0.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

FULL = os.environ.get("FAULTS") == "full"
SEED = int(os.environ.get("FAULTS_SEED", "0"))

SURVIVED = ("as undisturbed", "refused in a sentence", "done again", "accepted")
LOST = ("results changed", "results lost", "code run", "traceback", "no end", "memory")

counts: Counter[tuple[str, str]] = Counter()


class Ledger:
    """Counts the outcomes of faults."""

    def __init__(self) -> None:
        self._losses: list[str] | None = None

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Fail once, at the end of the block, with all losses in it."""
        self._losses = losses = []
        try:
            yield
        finally:
            self._losses = None
        if losses:
            pytest.fail("\n".join(losses), pytrace=False)

    def record(self, kind: str, outcome: str, fault: object = "") -> None:
        """Count a fault; fail the test if something was lost.

        Args:
            kind: row of the table: `kills and signals`, `damaged checkpoints`, …
            outcome: one of `SURVIVED` or `LOST`.
            fault: description of the fault, for the failure message.
        """
        assert outcome in SURVIVED + LOST
        counts[kind, outcome] += 1
        if outcome in SURVIVED:
            return
        loss = f"{kind}: {outcome}: {fault}"
        if self._losses is None:
            pytest.fail(loss, pytrace=False)
        self._losses.append(loss)


def ends_in_sentence(errors: str) -> bool:
    """Check that a command's standard error ends in an error sentence, without a traceback."""
    last = errors.strip().split("\n")[-1]
    return "Traceback" not in errors and bool(re.match(r"(Error|Interrupted)", last))
