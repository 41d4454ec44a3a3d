"""Plots: weights of an alignment (the paper's Figure 2), learning curves, scores, speeds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: it would choose a backend for the user

from a2d.errors import UserError
from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import GROUPS
from a2d.runs.results import Group, Row, group_rows

TITLES = {
    "encoder": "encoder self-attention",
    "decoder": "decoder self-attention",
    "cross": "cross-attention",
}

_LABEL_WIDTH = 40
"""Longest line of a method's label, in characters; longer labels are wrapped."""


def alignment(alignment: AttentionAlignment, path: Path) -> None:
    """Plot an alignment's weights as heat maps, one panel per attention group, on one scale.

    Columns are student heads and rows are teacher heads; dashed lines separate the layers. Red
    weights are positive, blue ones negative.

    Args:
        alignment: a trained alignment.
        path: picture to write (.png, .svg or .pdf).
    """
    weights = {g: alignment.weights[g].detach().float().cpu().numpy() for g in GROUPS}
    limit = max(float(np.abs(w).max()) for w in weights.values())
    widest, tallest = (max(w.shape[i] for w in weights.values()) for i in (1, 0))
    size = (
        3 * min(max(2.6, 0.16 * widest), 6.0) + 2.2,
        min(max(3.0, 0.16 * tallest), 10.0) + 1.2,
    )
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (group, weight) in zip(axes, weights.items(), strict=True):
        image = axis.imshow(weight, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axis.set_title(TITLES[group], fontsize=10)
        _mark_layers(axis, "x", weight.shape[1], alignment.student.heads(group))
        _mark_layers(axis, "y", weight.shape[0], alignment.teacher.heads(group))
    figure.supxlabel("student layer (its heads side by side)", fontsize=10)
    axes[0].set_ylabel("teacher layer (its heads one below the other)")
    figure.colorbar(image, ax=axes, label="connection weight", shrink=0.8)
    _save(figure, path)


def curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Plot training cross-entropy, validation cross-entropy and validation BLEU by epochs.

    Args:
        histories: maps a training's name to the Trainer's log history.
        path: picture to write (.png, .svg or .pdf).
    """
    panels = (
        ("ce", "training cross-entropy (nats/token)"),
        ("eval_ce", "validation cross-entropy (nats/token)"),
        ("eval_bleu", "validation BLEU (greedy)"),
    )
    figure = Figure((15, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True)
    palette: Sequence[Any] = [f"C{number}" for number in range(10)]
    if len(histories) > len(palette):
        palette = matplotlib.colormaps["turbo"](np.linspace(0.02, 0.98, len(histories))).tolist()
    for axis, (key, title) in zip(axes, panels, strict=True):
        for (name, log), color in zip(histories.items(), palette, strict=False):
            points = [(entry["epoch"], entry[key]) for entry in log if key in entry]
            if not points:
                continue
            # A line through a single point would be invisible.
            marker = "o" if key.startswith("eval") or len(points) == 1 else None
            style = "--" if name == "teacher" else "-"
            epochs, values = zip(*points, strict=True)
            axis.plot(epochs, values, style, color=color, marker=marker, markersize=4, label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    axes[0].set_xlim(left=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    _save(figure, path)


def scores(
    rows: Sequence[Row],
    path: Path,
    split: str = "test",
    names: Mapping[str, str] | None = None,
    title: str = "students {}",
) -> None:
    """Plot BLEU of every method: a dot per seed, a bar at the mean; one panel per student size.

    Dashed lines mark the means of teacher and baseline. Methods are sorted by their means.

    Args:
        rows: the teacher's row, then the students'.
        path: picture to write (.png, .svg or .pdf).
        split: name of the evaluated set.
        names: maps a method's label to another text for the plot.
        title: title of a panel, with `{}` for the student's size.
    """
    teacher, *groups = group_rows(rows)
    students = list(dict.fromkeys(group.student for group in groups))
    tallest = max(sum(g.student == s for g in groups) for s in students)
    size = (7.5, len(students) * (0.3 * tallest + 1.3))
    figure = Figure(size, layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(students), 1, sharex=True))
    for axis, student in zip(axes, students, strict=True):
        panel = [group for group in groups if group.student == student]
        _plot_scores(axis, sorted(panel, key=lambda group: group.mean("bleu")), names or {})
        if teacher.rows[0].bleu is not None:
            score = teacher.mean("bleu")
            axis.axvline(score, color="C3", linestyle="--", linewidth=1, label="teacher")
        axis.set_title(title.format(student.replace("x", "×")), fontsize=10, loc="left")
    axes[-1].set_xlabel(f"{split} BLEU\n(dots: seeds; bars: means)")
    lines = {
        line.get_label(): line for axis in axes for line in axis.get_legend_handles_labels()[0]
    }
    figure.legend(lines.values(), lines.keys(), loc="outside upper right", ncols=2)
    _save(figure, path)


def wall_clock(curves: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Plot validation BLEU by training time.

    Args:
        curves: maps a training's name to points (seconds, BLEU).
        path: picture to write (.png, .svg or .pdf).
    """
    figure = Figure((7.5, 4), layout="constrained")
    axis = figure.subplots()
    for name, points in curves.items():
        seconds, bleu = zip(*points, strict=True)
        axis.plot([s / 60 for s in seconds], bleu, marker="o", markersize=4, label=name)
    axis.set_xlabel("minutes of training")
    axis.set_ylabel("validation BLEU (greedy)")
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def trade_off(
    bleu: Mapping[str, Mapping[str, float]],
    speed: Mapping[str, float],
    teacher: float,
    path: Path,
    gain: str = "speed-up over the teacher",
    marks: str = "o-",
) -> None:
    """Plot BLEU of students by what they gain over the teacher.

    Args:
        bleu: maps a method and a shape to BLEU; a method need not have all shapes.
        speed: maps a shape to its gain over the teacher, such as its speed-up, the smallest first.
        teacher: BLEU of the teacher.
        path: picture to write (.png, .svg or .pdf).
        gain: name of the gain.
        marks: Matplotlib's format of points and lines.
    """
    figure = Figure((7.5, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.axhline(teacher, color="C3", linestyle="--", linewidth=1)
    axis.plot([1], [teacher], "o", color="C3", label="teacher")
    colors = cycle(["C7", "C0", "C1", "C2", "C4", "C5"])  # C3 is the teacher's
    for color, (name, scores) in zip(colors, bleu.items(), strict=False):
        points = [(ratio, scores[shape]) for shape, ratio in speed.items() if shape in scores]
        axis.plot(*zip(*points, strict=True), marks, color=color, markersize=4, label=name)
    for shape, ratio in speed.items():
        top = max(scores[shape] for scores in bleu.values() if shape in scores)
        axis.annotate(shape, (ratio, top), (0, -16), textcoords="offset points", ha="center")
    axis.set_xlabel(gain)
    axis.set_ylabel("BLEU")
    axis.margins(x=0.1, y=0.12)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def _plot_scores(axis: Axes, groups: Sequence[Group], names: Mapping[str, str]) -> None:
    """Plot one panel of `scores`, from the bottom up."""
    baselines = [group for group in groups if group.method == "baseline"]
    plain = min(baselines, key=lambda group: len(group.label), default=None)
    for height, group in enumerate(groups):
        color = "C1" if "a2d" in group.label else "C7" if group is plain else "C0"
        values = [row.bleu for row in group.rows if row.bleu is not None]
        axis.plot(values, [height] * len(values), "o", color=color, markersize=5, alpha=0.6)
        axis.plot([group.mean("bleu")] * 2, [height - 0.3, height + 0.3], color=color, linewidth=3)
        if group is plain:
            axis.axvline(
                group.mean("bleu"), color="C7", linestyle="--", linewidth=1, label="baseline"
            )
    labels = [textwrap.fill(names.get(group.label, group.label), _LABEL_WIDTH) for group in groups]
    axis.set_yticks(range(len(groups)), labels, fontsize=8)
    axis.set_ylim(-0.6, len(groups) - 0.4)
    axis.grid(axis="x", alpha=0.3)


def _mark_layers(axis: Axes, side: str, channels: int, heads: int) -> None:
    """Label every layer at its middle, and draw dashed lines between layers.

    Args:
        axis: the panel.
        side: `x` or `y`.
        channels: number of heads of all layers.
        heads: number of heads of a layer.
    """
    starts = range(0, channels, heads)
    line = axis.axvline if side == "x" else axis.axhline
    for start in starts[1:]:
        line(start - 0.5, color="black", linestyle="--", linewidth=0.8)
    ticks = [start + (heads - 1) / 2 for start in starts]
    labels = [str(number) for number in range(1, len(starts) + 1)]
    (axis.set_xticks if side == "x" else axis.set_yticks)(ticks, labels)


def _save(figure: Figure, path: Path) -> None:
    if path.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise UserError(f"{path} is not the name of a picture: end it in .png, .svg or .pdf.")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
