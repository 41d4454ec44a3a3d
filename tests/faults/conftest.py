"""The campaign of faults: what is injected, what comes of it, and the table at its end.

`make faults` runs all of it; the tests of every day are a part of it. `FAULTS=full` asks for all,
`FAULTS_SEED=7` for other random moments, bytes and inputs than those of seed 0.
"""

import os
import random
import re
from collections import Counter

import pytest

FULL = os.environ.get("FAULTS") == "full"
SEED = int(os.environ.get("FAULTS_SEED", "0"))

SURVIVED = ("as undisturbed", "refused in a sentence", "made again", "accepted")
LOST = ("results changed", "results lost", "code run", "traceback", "no end", "memory")

_counts: Counter[tuple[str, str]] = Counter()


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
        _counts[kind, outcome] += 1
        assert outcome in SURVIVED, f"{kind}: {outcome}: {what}"


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """Where tests record what came of each fault."""
    return Ledger()


@pytest.fixture
def chance(request) -> random.Random:
    """Random numbers of this test alone, of the campaign's seed."""
    return random.Random(f"{SEED} {request.node.name}")


def sentence(output: str) -> bool:
    """Whether a command's standard error ends in one sentence of ours, and holds no traceback."""
    last = output.strip().split("\n")[-1]
    return "Traceback" not in output and bool(re.match(r"(Error|Interrupted)", last))


def pytest_terminal_summary(terminalreporter):
    """Print the table."""
    if not _counts:
        return
    terminalreporter.section(f"faults, seed {SEED}")
    header = ("fault", "injected", *SURVIVED, "lost")
    rows = []
    for kind in sorted({kind for kind, _ in _counts}):
        total = sum(n for (k, _), n in _counts.items() if k == kind)
        lost = sum(_counts[kind, outcome] for outcome in LOST)
        rows.append((kind, total, *(_counts[kind, outcome] for outcome in SURVIVED), lost))
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, len(header)))))
    for row in (header, *rows):
        first, *others = row
        cells = "".join(f"{cell!s:>23}" for cell in others)
        terminalreporter.write_line(f"{first!s:<28}{cells}")
