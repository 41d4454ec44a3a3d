"""Measure the seconds of a run that checksums take.

    python benchmarks/checksums.py [RECIPE [KEY=VALUE …]]

The default recipe is `methods`. The run is carried out in a temporary folder, and then repeated,
which compares all files with their manifests.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from a2d import stage
from a2d.runs import shards
from a2d.runs.execution import carry_out
from a2d.runs.recipe import load_recipe
from a2d.training import checkpoints, teacher_cache

SECONDS: list[float] = []


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its seconds are added to `SECONDS`."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            SECONDS.append(time.perf_counter() - start)

    return call


def main() -> None:
    """Carry out a run twice, and print the share of checksums."""
    name, *overrides = sys.argv[1:] or ["methods"]
    recipe = load_recipe(name, [*overrides, "compute.parallel=1"])  # all in this process
    for module in (stage, checkpoints, shards, teacher_cache):
        for function in ("seal", "damage"):
            setattr(module, function, timed(getattr(module, function)))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for title in ("a run", "the finished run, repeated"):
            SECONDS.clear()
            start = time.perf_counter()
            carry_out(recipe, Path(folder) / "run", Console())
            total, checksums = time.perf_counter() - start, sum(SECONDS)
            lines.append(
                f"{title}: {total:.1f} s, of which {checksums:.2f} s for {len(SECONDS)} manifests "
                f"({checksums / total:.2%})"
            )
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
