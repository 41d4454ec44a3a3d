"""Summaries and tables of figures, and a description of the machine."""

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

import a2d
from a2d.machine import cpu_name

RESULTS = Path(__file__).parent / "results"

BUSY = 0.25
"""CPU time of other processes, in cores, above which nothing is measured."""


def spread(values: list[float]) -> dict[str, float]:
    """Return median, lowest and highest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write figures to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def add(name: str, figures: dict[str, Any]) -> None:
    """Write figures to results/NAME.json, in which other figures stay."""
    path = RESULTS / f"{name}.json"
    write(name, {**(json.loads(path.read_text("utf-8")) if path.exists() else {}), **figures})


def show(title: str, figures: dict[str, Any], console: Console) -> None:
    """Print a small table."""
    table = Table(title=title, title_justify="left", box=None)
    for column in ("", "median", "low", "high"):
        table.add_column(column, justify="left" if not column else "right")
    for name, figure in figures.items():
        values = figure.values() if isinstance(figure, dict) else [figure]
        table.add_row(name, *(f"{value:.4g}" for value in values))
    console.print(table)


def require_idle(busy: bool) -> float:
    """Return the cores that other processes keep busy; exit if they are too many.

    Args:
        busy: measure on a busy machine, too.
    """
    cores = busy_cores()
    if cores > BUSY and not busy:
        sys.exit(
            f"other processes keep {cores:.1f} cores busy, so that ratios would say little. Wait, "
            "or measure nevertheless with --busy."
        )
    return cores


def busy_cores(seconds: float = 2.0) -> float:
    """Measure for some seconds how many cores are busy; 0 if the system does not tell."""
    try:
        start = _busy_ticks()
        time.sleep(seconds)
        return (_busy_ticks() - start) / os.sysconf("SC_CLK_TCK") / seconds
    except OSError:
        return 0.0


def _busy_ticks() -> int:
    """Read the ticks that all cores have been busy for."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return user + nice + system


def machine(threads: int, rounds: int, busy: float) -> dict[str, Any]:
    """Describe the machine and the circumstances of a measurement."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: version(name) for name in ("torch", "transformers")}
    return {
        "cpu": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "threads": threads,
        "rounds": rounds,
        "cores busy with other things": round(busy, 2),
        "versions": {**versions, "align-to-distill": a2d.__version__},
    }
