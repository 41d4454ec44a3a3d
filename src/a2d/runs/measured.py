"""Students that were measured: what they kept of their teachers' quality, to choose a shape by.

`tools/shapes.py` writes the file from the results that docs/shapes.md shows.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table

FILE = Path(__file__).with_name("measured.csv")


class MeasuredStudent(NamedTuple):
    """A student, or several that differ in the seed only.

    Attributes:
        languages: language codes of source and target, such as `en-pt`.
        pairs: number of training pairs.
        teacher: number of the teacher's parameters.
        shape: the student's shape, as `a2d.models.presets.parse_shape` reads it.
        share: share of the teacher's parameters.
        kept: share of the teacher's chrF on the test set.
    """

    languages: str
    pairs: int
    teacher: int
    shape: str
    share: float
    kept: float


def measured_students() -> list[MeasuredStudent]:
    """Read the students: by training pairs, then the largest first."""
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        MeasuredStudent(
            row["languages"],
            int(row["pairs"]),
            int(row["teacher"]),
            row["shape"],
            float(row["share"]),
            float(row["kept"]),
        )
        for row in rows
    ]


def quality_table() -> Table:
    """Make a table of the students."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("languages", "pairs", "teacher", "student", "share", "chrF kept"):
        table.add_column(name, justify="left" if name in ("languages", "student") else "right")
    for row in measured_students():
        table.add_row(
            row.languages,
            f"{row.pairs:,}",
            f"{row.teacher / 1e6:.1f}M",
            row.shape,
            f"{row.share:.0%}",
            f"{row.kept:.0%}",
        )
    return table
