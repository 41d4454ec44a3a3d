"""Compare methods over students of several shapes: mean gap to the best method, and mean rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import regions

from a2d.runs.results import Row

RESAMPLES = 10_000


def ranking(rows: Sequence[Row]) -> str:
    """Make a Markdown table with a row per method, the one with the smallest gap first.

    The gap is how many BLEU a student has less than the best student of its shape and seed; the
    rank is the student's place among those. The 95% interval of the mean gap is that of bootstrap
    resampling of shapes and seeds.

    Args:
        rows: the teacher and the students; every method has all shapes and seeds.
    """
    students = [row for row in rows if row.label != "teacher"]
    methods = list(dict.fromkeys(row.label for row in students))
    shapes = list(dict.fromkeys(row.student for row in students))
    trainings = list(dict.fromkeys((row.student, row.seed) for row in students))
    scores = np.full((len(methods), len(trainings)), np.nan)
    for row in students:
        place = methods.index(row.label), trainings.index((row.student, row.seed))
        scores[place] = row.bleu
    assert not np.isnan(scores).any()
    gaps = scores.max(0) - scores
    ranks = (scores[None] > scores[:, None]).sum(1) + 1
    cells = []
    for number in np.argsort(gaps.mean(1), kind="stable"):
        by_shape = [
            f"{gaps[number, [shape == other for other, _ in trainings]].mean():.2f}"
            for shape in shapes
        ]
        low, high = interval(gaps[number])
        mean = f"{gaps[number].mean():.2f} ({low:.2f} to {high:.2f})"
        cells.append([f"`{methods[number]}`", *by_shape, mean, f"{ranks[number].mean():.1f}"])
    head = [shape.replace("x", "×") for shape in shapes]
    return regions.table(["method", *head, "mean gap (95% interval)", "mean rank"], cells)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of a mean, by bootstrap resampling with a fixed seed."""
    picks = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)
