"""Fill the tables and draw the pictures of docs/shapes.md: size, speed and quality by shape.

The region `front` has students of the packaged teacher, from results/front. The regions `front-…`
have students of a large teacher, from the folder with that name, with results of several runs. The
regions `starts-…` compare starts. The region `shapes` has quality from results/shapes and
results/deep, and speed from benchmarks/results/decoding.json. The region `yardstick` compares
students with Firefox's, from benchmarks/results/yardstick.json. `a2d shapes` shows the students of
`front` and of the teachers in `TRAINING_PAIRS`, from src/a2d/runs/measured.csv.

    python tools/shapes.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import regions
from results import check

from a2d.runs import measured, plots, results
from a2d.runs.report import millions, spread, times

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "shapes.md"
FRONT_PICTURE = ROOT / "docs" / "results" / "shapes-front.png"

ENGINES = ("PyTorch, beam 5", "CTranslate2 int8, beam 5")
"""Engines of the table, with their beams."""

YARDSTICK = {"the other program": "Firefox's student", "packaged": "the packaged teacher"}
"""Names of models that are no student's shape."""

FITTED = "student_start=teacher"
"""Setting of students that start from the teacher, in runs with both starts."""

TRAINING_PAIRS = {"front-de-dsb": 16_112}
"""Training pairs under each large teacher that a student can be judged by: `front-en-pt` has one
whose training was too short."""


def main() -> None:
    """Draw the pictures and fill the tables."""
    filled = {
        "shapes": shapes(),
        "front": front(),
        "yardstick": yardstick(),
    }
    for folder in sorted((ROOT / "results").glob("front-*")):
        filled[folder.name] = large_front(folder)
    for folder in sorted((ROOT / "results").glob("starts-*")):
        filled[folder.name] = starts(folder)
    regions.fill(PAGE, filled.get)
    results.write_csv(measured.FILE, [student._asdict() for student in students()])


def students() -> list[measured.MeasuredStudent]:
    """List the students whose quality is shown, in the order of `measured_students`."""
    runs = [(int(path.parent.name), path) for path in (ROOT / "results/front").glob("*/*")]
    for name, pairs in TRAINING_PAIRS.items():
        runs += [(pairs, path) for path in (ROOT / "results" / name).iterdir()]
    found = [
        measured.MeasuredStudent(
            teacher.rows[0].pair,
            pairs,
            teacher.rows[0].parameters or 0,
            argument(group.student),
            round(1 / smaller(group.rows[0], teacher.rows[0]), 4),
            round(group.mean("chrf") / teacher.mean("chrf"), 4),
        )
        for pairs, folder in runs
        for teacher, *groups in [results.group_rows(results.read(folder))]
        for group in groups
        if not group.rows[0].quantization
    ]
    return sorted(found, key=lambda student: (student.pairs, -student.share))


def front() -> str:
    """Draw quality by size of the packaged teacher's students; return their table.

    `results/front/PAIRS/SHAPE` is the `results/test` of a run of `a2d distill` on so many pairs.
    """
    rows: list[list[str]] = []
    lines: dict[str, dict[str, float]] = {}
    sizes: dict[str, float] = {}
    for folder in sorted((ROOT / "results/front").glob("*/*")):
        teacher, student, int8, *_ = scored = results.read(folder)
        check(folder, scored)
        rows = rows or [["teacher", "", *_cells(teacher, teacher), ""]]
        shape, pairs = folder.name, f"{int(folder.parent.name):,}"
        exported = f"{int8.bleu:.1f}{' (refused)' if int8.refused else ''}"
        rows.append([shape, pairs, *_cells(student, teacher), exported])
        lines.setdefault(f"{pairs} pairs", {})[shape] = student.bleu or 0
        sizes[shape] = smaller(student, teacher)
    sizes = dict(sorted(sizes.items(), key=lambda size: size[1]))
    plots.trade_off(
        lines,
        sizes,
        teacher.bleu or 0,
        FRONT_PICTURE,
        "times smaller than the teacher, by parameters",
        marks="o",
    )
    rows[1:] = sorted(rows[1:], key=lambda row: (sizes[row[0]], int(row[1].replace(",", ""))))
    head = ["shape", "pairs", "parameters", "share", "BLEU", "chrF", "chrF kept"]
    return regions.table([*head, "BLEU, int8"], rows)


def large_front(folder: Path) -> str:
    """Return the table of a large teacher's students.

    Args:
        folder: folder of results of runs under this teacher, exports included.
    """
    rows: list[results.Row] = []
    exports: dict[str, tuple[results.Row, float]] = {}
    for part in sorted(folder.iterdir()):
        first, *others = scored = results.read(part)
        check(part, scored)
        rows += [row for row in scored[bool(rows) :] if not row.quantization]  # the teacher once
        # Speeds are compared within a run: other runs had other conditions.
        of_teacher = first.sentences_per_second or 1
        exports |= {
            row.name: (row, (row.sentences_per_second or 0) / of_teacher)
            for row in others
            if row.quantization
        }
    teacher, *groups = results.group_rows(rows)
    groups.sort(key=lambda group: (smaller(group.rows[0], teacher.rows[0]), group.mean("bleu")))
    if len(groups) > 1:
        plots.trade_off(
            quality(groups),
            {argument(group.student): smaller(group.rows[0], teacher.rows[0]) for group in groups},
            teacher.mean("bleu"),
            ROOT / f"docs/results/shapes-{folder.name}.png",
            "times smaller than the teacher, by parameters",
            marks="o",
        )
    lines = [["teacher", "", *_large_cells(teacher, teacher), "", ""]]
    for group in groups:
        int8 = [exports.get(f"{row.name}-int8") for row in group.rows]
        cells = _large_cells(group, teacher), _export_cells([export for export in int8 if export])
        lines.append([f"`{argument(group.student)}`", group.label, *cells[0], *cells[1]])
    head = ["student", "method", "parameters", "seeds", "BLEU", "chrF", "over teacher"]
    return regions.table([*head, "int8 size", "int8 speed"], lines, left=2)


def starts(folder: Path) -> str:
    """Return the table of students with half of a teacher's width, by their start.

    Args:
        folder: folder with results of runs as `EPOCHS/RUN`. The name of a run whose students all
            start from the teacher is `teacher`.
    """
    lines = []
    for part in sorted(folder.glob("*/*"), key=lambda part: int(part.parent.name)):
        rows = results.read(part)
        check(part, rows)
        teacher, *groups = results.group_rows(rows)
        for group in groups:
            is_fitted = part.name == "teacher" or FITTED in group.rows[0].setting
            start = "the teacher" if is_fitted else "random weights"
            lines.append([part.parent.name, start, group.method, *_scores(group, teacher)])
    head = ["epochs", "start", "method", "seeds", "BLEU", "chrF", "over teacher"]
    return regions.table(head, lines, left=3)


def argument(student: str) -> str:
    """Write a student's sizes as `--student` takes them, if it has as many heads as its teacher."""
    layers, _, sizes = student.partition("x")
    _, dash, widths = sizes.partition("-")
    return layers.replace("+", "x") + dash + widths


def quality(groups: Sequence[results.Group]) -> dict[str, dict[str, float]]:
    """Map methods to the mean BLEU of their students, by shape."""
    bleu: dict[str, dict[str, float]] = {}
    for group in groups:
        bleu.setdefault(group.label, {})[argument(group.student)] = group.mean("bleu")
    return bleu


def _large_cells(group: results.Group, teacher: results.Group) -> list[str]:
    first = group.rows[0]
    share = f"{1 / smaller(first, teacher.rows[0]):.0%}"
    return [f"{millions(first)} ({share})", *_scores(group, teacher)]


def _scores(group: results.Group, teacher: results.Group) -> list[str]:
    """Format the number of seeds, BLEU, chrF, and the BLEU over the teacher's."""
    several = len(group.rows) > 1
    gain = "" if group is teacher else f"{group.mean('bleu') - teacher.mean('bleu'):+.2f}"
    scores = spread(group, "bleu", several), spread(group, "chrf", several)
    return [str(len(group.rows)), *scores, gain.replace("-", "−")]


def _export_cells(exports: Sequence[tuple[results.Row, float]]) -> list[str]:
    """Format size and speed of a model's exports, over the teacher's; empty without exports."""
    if not exports:
        return ["", ""]
    size = mean(row.size_bytes or 0 for row, _ in exports)
    return [f"{size / 1e6:.1f} MB", times(mean(ratio for _, ratio in exports))]


def smaller(row: results.Row, teacher: results.Row) -> float:
    """How many times fewer parameters a model has than the teacher."""
    return (teacher.parameters or 0) / (row.parameters or 1)


def _cells(row: results.Row, teacher: results.Row) -> list[str]:
    """Format size and quality of a model."""
    assert row.parameters
    assert row.chrf
    share, kept = 1 / smaller(row, teacher), row.chrf / (teacher.chrf or 1)
    size = f"{row.parameters / 1e6:.1f}M"
    return [size, f"{share:.0%}", f"{row.bleu:.1f}", f"{row.chrf:.1f}", f"{kept:.0%}"]


def shapes() -> str:
    """Return the table of students with fewer layers, with their speed and their teacher's BLEU."""
    speeds = json.loads((ROOT / "benchmarks/results/decoding.json").read_text("utf-8"))
    rows = []
    for name in ("shapes", "deep"):
        teacher, *students = results.read(ROOT / "results" / name)
        for row in students:
            if row.label != "kd student_start=teacher":
                continue
            layers = row.student.partition("x")[0]
            gains = [f"{speed_up(speeds, engine, layers):.1f}×" for engine in ENGINES]
            rows.append([layers, *gains, f"{row.bleu:.1f}", f"{teacher.bleu:.1f}"])
    return regions.table(["layers", *ENGINES, "BLEU", "teacher's BLEU"], sorted(rows, key=_speed))


def yardstick() -> str:
    """Return the table of exports beside another program, by `benchmarks/yardstick.py`."""
    figures = json.loads((ROOT / "benchmarks/results/yardstick.json").read_text("utf-8"))
    del figures["machine"]
    rows = []
    for name, each in figures.items():
        model, _, beam = name.partition(", beam ")
        scores = f"{each['bleu']:.1f}", f"{each['chrf']:.1f}"
        time = f"{each['milliseconds']['median']:.1f}"
        rows.append(
            [
                YARDSTICK.get(model, f"`{model}`"),
                beam,
                f"{each['bytes'] / 1e6:.1f} MB",
                *scores,
                time,
            ]
        )
    head = ["model, int8", "beam", "size", "BLEU", "chrF", "ms per sentence"]
    return regions.table(head, rows)


def _speed(row: list[str]) -> float:
    return float(row[2].rstrip("×"))


def speed_up(speeds: dict[str, Any], engine: str, layers: str) -> float:
    """Speed of a shape, such as `6+2`, relative to 6+6 layers."""
    return float(speeds[f"{engine}: speed-up of {layers} over 6+6"]["median"])


if __name__ == "__main__":
    main()
