"""The campaign of faults: how much of it runs, and what came of every fault.

`make faults` runs all of it; the tests of every day are a part of it. `FAULTS=full` asks for all,
`FAULTS_SEED=7` for other random moments, bytes and inputs than those of seed 0.
"""

import os
import re
from collections import Counter

import pytest

FULL = os.environ.get("FAULTS") == "full"
SEED = int(os.environ.get("FAULTS_SEED", "0"))

SURVIVED = ("as undisturbed", "refused in a sentence", "made again", "accepted")
LOST = ("results changed", "results lost", "code run", "traceback", "no end", "memory")

counts: Counter[tuple[str, str]] = Counter()


class Ledger:
    """Counts what came of every fault."""

    def record(self, kind: str, outcome: str, what: object = "") -> None:
        """Count a fault; fail the test if something was lost.

        Args:
            kind: of the fault, as the table calls it: `kills`, `damaged checkpoints`, …
            outcome: one of `SURVIVED` or `LOST`.
            what: the fault itself, for the message of the failure.
        """
        assert outcome in SURVIVED + LOST
        counts[kind, outcome] += 1
        if outcome not in SURVIVED:
            pytest.fail(f"{kind}: {outcome}: {what}", pytrace=False)


def sentence(errors: str) -> bool:
    """Whether a command's standard error ends in one sentence of ours, and holds no traceback."""
    last = errors.strip().split("\n")[-1]
    return "Traceback" not in errors and bool(re.match(r"(Error|Interrupted)", last))
