"""Fixtures of the campaign of faults, and the table at its end."""

import random

import pytest
from campaign import LOST, SEED, SURVIVED, Ledger, counts


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """Where tests record what came of each fault."""
    return Ledger()


@pytest.fixture
def chance(request) -> random.Random:
    """Random numbers of this test alone, of the campaign's seed."""
    return random.Random(f"{SEED} {request.node.name}")


def pytest_terminal_summary(terminalreporter):
    """Print the table."""
    if not counts:
        return
    terminalreporter.section(f"faults, seed {SEED}")
    header = ("fault", "injected", *SURVIVED, "lost")
    rows = []
    for kind in sorted({kind for kind, _ in counts}):
        total = sum(n for (k, _), n in counts.items() if k == kind)
        lost = sum(counts[kind, outcome] for outcome in LOST)
        rows.append((kind, total, *(counts[kind, outcome] for outcome in SURVIVED), lost))
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, len(header)))))
    for row in (header, *rows):
        first, *others = row
        cells = "".join(f"{cell!s:>23}" for cell in others)
        terminalreporter.write_line(f"{first!s:<28}{cells}")
