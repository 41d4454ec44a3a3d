"""What manifests cost: seconds that a run spends on checksums, of all that it takes.

    python benchmarks/checksums.py [RECIPE [KEY=VALUE …]]

The recipe is `demo` by default. The run goes to a temporary folder, twice: once from the beginning,
and once more when it is finished, which compares every file with its manifest.
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
from a2d.runs.recipe import load_recipe
from a2d.runs.run import carry_out
from a2d.training import checkpoints

SECONDS: list[float] = []


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its seconds kept."""

    def call(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            SECONDS.append(time.perf_counter() - started)

    return call


def main() -> None:
    """Run twice, and print both shares."""
    name, *overrides = sys.argv[1:] or ["demo"]
    recipe = load_recipe(name, [*overrides, "compute.parallel=1"])
    for module in (stage, checkpoints):
        for function in ("seal", "damage"):
            setattr(module, function, timed(getattr(module, function)))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for what in ("a run", "the finished run, once more"):
            SECONDS.clear()
            started = time.perf_counter()
            carry_out(recipe, Path(folder) / "run", Console())
            total, sums = time.perf_counter() - started, sum(SECONDS)
            lines.append(
                f"{what}: {total:.1f} s, of which {sums:.2f} s for {len(SECONDS)} manifests "
                f"({sums / total:.2%})"
            )
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
