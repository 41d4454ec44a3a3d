"""How figures are summed up and shown, and what machine they are from."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from a2d.runs.training import cpu_name

RESULTS = Path(__file__).parent / "results"

BUSY = 0.25
"""Processor time of others, in cores, above which nothing is judged."""


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write figures to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def show(title: str, figures: dict[str, Any], console: Console) -> None:
    """Print a small table."""
    table = Table(title=title, title_justify="left", box=None)
    for column in ("", "median", "low", "high"):
        table.add_column(column, justify="left" if not column else "right")
    for name, figure in figures.items():
        values = figure.values() if isinstance(figure, dict) else [figure]
        table.add_row(name, *(f"{value:.4g}" for value in values))
    console.print(table)


def alone(anyway: bool) -> float:
    """Cores that others keep busy; ends the program where they are too many to judge."""
    others = busy()
    if others > BUSY and not anyway:
        sys.exit(
            f"other processes keep {others:.1f} cores busy: ratios would say little. Wait, or "
            "measure all the same with --busy."
        )
    return others


def busy(seconds: float = 2.0) -> float:
    """Cores that other processes keep busy, watched for some seconds; 0 where it cannot be seen."""
    try:
        start = _working()
        time.sleep(seconds)
        return (_working() - start) / os.sysconf("SC_CLK_TCK") / seconds
    except OSError:
        return 0.0


def _working() -> int:
    """Ticks that all processors have spent working."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return user + nice + system


def machine(threads: int, rounds: int, others: float) -> dict[str, Any]:
    """What the figures were measured on."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "card": card,
        "threads": threads,
        "rounds": rounds,
        "cores busy with other things": round(others, 2),
        "versions": {name: version(name) for name in ("torch", "transformers", "align-to-distill")},
    }
