"""Fill the table and draw the picture of docs/shapes.md: speed and quality by shape.

Quality is from results/shapes, speed from benchmarks/results/decoding.json.

    python tools/shapes.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import regions

from a2d.runs import plots, results

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "shapes.md"
PICTURE = ROOT / "docs" / "results" / "shapes-speed.png"

ENGINES = ("PyTorch, beam 5", "CTranslate2 int8, beam 5")
"""Engines of the table; the picture shows the last one."""


def main() -> None:
    """Read the results, draw the picture and fill the table."""
    speeds = json.loads((ROOT / "benchmarks/results/decoding.json").read_text("utf-8"))
    teacher, *students = results.read(ROOT / "results/shapes")
    assert teacher.bleu is not None
    bleu: dict[str, dict[str, float]] = {}
    for row in students:
        assert row.bleu is not None
        bleu.setdefault(row.label, {})[row.student.split("x")[0]] = row.bleu
    shapes = {shape for scores in bleu.values() for shape in scores}
    speed_ups = {
        engine: {shape: speed_up(speeds, engine, shape) for shape in shapes} for engine in ENGINES
    }
    sorted_shapes = dict(sorted(speed_ups[ENGINES[-1]].items(), key=lambda item: item[1]))
    plots.trade_off(bleu, sorted_shapes, teacher.bleu, PICTURE)
    teacher_row = ["1.0×"] * len(ENGINES) + [f"{teacher.bleu:.1f}"] * len(bleu)
    rows = [["6+6: the teacher", *teacher_row]]
    for shape in sorted_shapes:
        times = [f"{speed_ups[engine][shape]:.1f}×" for engine in ENGINES]
        rows.append([shape, *times, *[f"{scores[shape]:.1f}" for scores in bleu.values()]])
    table = regions.table(["layers", *ENGINES, *bleu], rows)
    regions.fill(PAGE, {"shapes": table}.get)


def speed_up(speeds: dict[str, Any], engine: str, layers: str) -> float:
    """Speed of a shape, such as `6+2`, relative to 6+6 layers."""
    return float(speeds[f"{engine}: speed-up of {layers} over 6+6"]["median"])


if __name__ == "__main__":
    main()
