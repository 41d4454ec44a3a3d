"""Fixtures of the fault campaign, and its table of results."""

import random

import pytest
from campaign import LOST, SEED, SURVIVED, Ledger, counts


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """Counter of outcomes, shared by all tests."""
    return Ledger()


@pytest.fixture
def rng(request) -> random.Random:
    """Random numbers that depend on the campaign's seed and the test's name only."""
    return random.Random(f"{SEED} {request.node.name}")


def pytest_terminal_summary(terminalreporter):
    """Print the table of results."""
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
        kind, *cells = row
        columns = "".join(f"{cell!s:>23}" for cell in cells)
        terminalreporter.write_line(f"{kind!s:<28}{columns}")
