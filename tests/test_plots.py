"""Plots: files, sizes and contents."""

import struct
from dataclasses import replace

import pytest
import torch
from matplotlib import pyplot as plt

from a2d.families import Geometry
from a2d.method.alignment import AttentionAlignment
from a2d.runs import plots
from a2d.runs.results import COMPARISONS, Row


def size(path):
    """Width and height of a PNG, from its header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[12:16] == b"IHDR"
    return struct.unpack(">II", data[16:24])


def history(epochs=3, logs=10, bleu=True):
    log = [
        {"epoch": step / logs, "ce": 6 - step / logs, "loss": 6.0, "step": step}
        for step in range(1, epochs * logs + 1)
    ]
    for epoch in range(1, epochs + 1):
        entry = {"epoch": float(epoch), "eval_ce": 5 - epoch / 2, "eval_loss": 5.0}
        log.append(entry | ({"eval_bleu": 7.0 * epoch} if bleu else {}))
    return log


def rows(method, student, *bleu):
    """Results of one model, one row per seed."""
    columns = {"setting": "", "parameters": 1, "chrf": 0.0, **dict.fromkeys(COMPARISONS)}
    columns |= {"sentences_per_second": 1.0, "train_seconds": None, "device": None}
    return [
        Row("name", "de-dsb", method=method, student=student, seed=seed, bleu=score, **columns)
        for seed, score in enumerate(bleu, 1)
    ]


GRID = [
    *rows("teacher", "3+3x4", 12.0),
    *rows("a2d", "2+1x8", 8.0, 9.0),
    *rows("baseline", "2+1x8", 5.0, 7.0),
    *rows("kd", "2+1x8", 8.0, 10.0),
    *rows("baseline", "1+1x8", 4.0),
    *rows("a2d", "1+1x8", 3.0),
]


@pytest.fixture
def figures(monkeypatch):
    """List that collects the panels of all saved figures."""
    panels = []
    save = plots._save

    def record(figure, path):
        panels.append([{"lines": len(axis.lines), "axis": axis} for axis in figure.axes])
        save(figure, path)

    monkeypatch.setattr(plots, "_save", record)
    return panels


class TestAlignment:
    @pytest.mark.parametrize(
        ("student", "teacher"),
        [
            (Geometry(6, 6, 16, 16), Geometry(12, 12, 16, 16)),
            (Geometry(3, 3, 8, 8), Geometry(6, 6, 4, 4)),
            (Geometry(1, 1, 1, 1), Geometry(2, 1, 2, 2)),
            (Geometry(2, 6, 4, 2), Geometry(12, 3, 4, 8)),
        ],
        ids=["big", "paper", "tiny", "unequal depths"],
    )
    def test_picture_is_written(self, tmp_path, student, teacher):
        path = tmp_path / "not" / "yet" / "there" / "alignment.png"
        plots.alignment(AttentionAlignment(student, teacher), path)
        width, height = size(path)
        assert 600 < width < 4000
        assert 300 < height < 4000
        assert path.stat().st_size > 5000
        assert plt.get_fignums() == []

    def test_layers_have_labels_and_lines_between_them(self, tmp_path, figures):
        student, teacher = Geometry(2, 6, 4, 2), Geometry(12, 3, 4, 8)
        plots.alignment(AttentionAlignment(student, teacher), tmp_path / "a.png")
        expected = {  # student layers, teacher layers
            "encoder self-attention": (2, 12),
            "decoder self-attention": (6, 3),
            "cross-attention": (6, 3),
        }
        panels = {part["axis"].get_title(): part for part in figures[0] if part["axis"].get_title()}
        assert panels.keys() == expected.keys()
        for title, (columns, rows) in expected.items():
            axis = panels[title]["axis"]
            assert [t.get_text() for t in axis.get_xticklabels()] == [
                str(number) for number in range(1, columns + 1)
            ]
            assert len(axis.get_yticks()) == rows
            assert panels[title]["lines"] == columns - 1 + rows - 1

    def test_panels_share_a_symmetric_scale(self, tmp_path, figures):
        alignment = AttentionAlignment(Geometry(1, 1, 2, 2), Geometry(1, 1, 2, 2))
        with torch.no_grad():
            alignment.weights["cross"][0, 0] = -7
        plots.alignment(alignment, tmp_path / "a.png")
        images = [part["axis"].images for part in figures[0]]
        assert [image[0].get_clim() for image in images if image] == [(-7, 7)] * 3

    def test_weights_of_zero(self, tmp_path):
        alignment = AttentionAlignment(Geometry(1, 1, 2, 2), Geometry(1, 1, 2, 2))
        with torch.no_grad():
            for parameter in alignment.parameters():
                parameter.zero_()
        plots.alignment(alignment, tmp_path / "a.png")
        assert size(tmp_path / "a.png")


class TestCurves:
    def test_picture_is_written(self, tmp_path):
        path = tmp_path / "plots" / "curves.png"
        plots.curves({"teacher": history(6), "kd": history(), "a2d": history()}, path)
        width, height = size(path)
        assert 800 < width < 3000
        assert 300 < height < 2000
        assert plt.get_fignums() == []

    def test_every_training_is_a_line_of_its_log(self, tmp_path, figures):
        plots.curves({"teacher": history(6), "kd": history(2)}, tmp_path / "c.png")
        assert [part["lines"] for part in figures[0]] == [2, 2, 2]
        _, losses, scores = (part["axis"] for part in figures[0])
        assert losses.lines[1].get_xydata().tolist() == [[1, 4.5], [2, 4]]
        assert scores.lines[0].get_ydata().tolist() == [7, 14, 21, 28, 35, 42]
        assert [line.get_label() for line in scores.lines] == ["teacher", "kd"]

    def test_a_single_point_is_visible(self, tmp_path, figures):
        plots.curves({"kd": [{"epoch": 1, "ce": 5.0, "step": 3}]}, tmp_path / "c.png")
        assert figures[0][0]["axis"].lines[0].get_marker() == "o"

    def test_missing_values_are_left_out(self, tmp_path, figures):
        plots.curves({"kd": history(bleu=False), "a2d": history()}, tmp_path / "c.png")
        scores = figures[0][2]["axis"]
        points = sum(len(line.get_xdata()) for line in scores.lines)
        assert points == 3
        assert scores.get_ylim()[0] > 0


class TestScores:
    def test_picture_is_written(self, tmp_path):
        path = tmp_path / "plots" / "scores.png"
        plots.scores(GRID, path)
        width, height = size(path)
        assert 600 < width < 2000
        assert 300 < height < 2000
        assert plt.get_fignums() == []

    def test_every_seed_is_a_dot_and_methods_rise(self, tmp_path, figures):
        plots.scores(GRID, tmp_path / "s.png")
        panels = {part["axis"].get_title(loc="left"): part["axis"] for part in figures[0]}
        expected = {
            "students 2+1×8": {"baseline": [5, 7], "a2d": [8, 9], "kd": [8, 10]},
            "students 1+1×8": {"a2d": [3], "baseline": [4]},
        }
        assert panels.keys() == expected.keys()
        for title, methods in expected.items():
            axis = panels[title]
            names = [label.get_text() for label in axis.get_yticklabels()]
            heights = dict(zip(axis.get_yticks().tolist(), names, strict=True))
            assert [heights[height] for height in sorted(heights)] == list(methods)
            dots = [line for line in axis.lines if line.get_marker() == "o"]
            scores = {heights[line.get_ydata()[0]]: list(line.get_xdata()) for line in dots}
            assert scores == methods
            bars = {tuple(line.get_xdata()) for line in axis.lines if line.get_linewidth() == 3}
            assert bars == {(sum(bleu) / len(bleu),) * 2 for bleu in methods.values()}

    def test_teacher_and_baseline_are_lines_at_their_means(self, tmp_path, figures):
        plots.scores(GRID, tmp_path / "s.png")
        first, second = (self.dashed(part["axis"]) for part in figures[0])
        assert first == {"teacher": {12}, "baseline": {6}}
        assert second == {"teacher": {12}, "baseline": {4}}

    @pytest.mark.parametrize("setting", ["", "student_start=random"])
    def test_the_line_is_the_plainest_baselines(self, tmp_path, figures, setting):
        def baseline(setting, *bleu):
            return [replace(row, setting=setting) for row in rows("baseline", "1+1x4", *bleu)]

        grid = [*rows("teacher", "3+3x4", 12.0), *baseline("student_start=teacher decay=0.5", 3.0)]
        plots.scores([*grid, *baseline(setting, 5.0, 7.0)], tmp_path / "s.png")
        assert self.dashed(figures[0][0]["axis"]) == {"teacher": {12}, "baseline": {6}}

    def test_without_a_baseline(self, tmp_path, figures):
        plots.scores(rows("teacher", "3+3x4", 12.0) + rows("kd", "1+1x4", 5.0), tmp_path / "s.png")
        assert self.dashed(figures[0][0]["axis"]) == {"teacher": {12}}

    def dashed(self, axis):
        lines = [line for line in axis.lines if line.get_linestyle() == "--"]
        return {line.get_label(): set(line.get_xdata()) for line in lines}


class TestWallClock:
    def test_picture_is_written(self, tmp_path):
        path = tmp_path / "plots" / "wall-clock.png"
        plots.wall_clock({"kd": [(60.0, 1.0), (120.0, 2.0)]}, path)
        width, height = size(path)
        assert 600 < width < 2000
        assert 300 < height < 2000
        assert plt.get_fignums() == []

    def test_every_curve_is_a_line_in_minutes(self, tmp_path, figures):
        curves = {"kd": [(60.0, 1.0), (150.0, 2.0)], "a2d": [(90.0, 3.0)]}
        plots.wall_clock(curves, tmp_path / "w.png")
        lines = {
            line.get_label(): line.get_xydata().tolist() for line in figures[0][0]["axis"].lines
        }
        assert lines == {"kd": [[1, 1], [2.5, 2]], "a2d": [[1.5, 3]]}


class TestTradeOff:
    def test_methods_are_lines_and_shapes_are_named_once(self, tmp_path, figures):
        bleu = {"kd": {"6+2": 8.0, "6+3": 9.0}, "a2d": {"6+3": 8.0, "6+2": 8.5}}
        bleu["last"] = {"6+2": 7.0}
        plots.trade_off(bleu, {"6+3": 1.5, "6+2": 2.0}, 10.0, tmp_path / "t.png")
        axis = figures[0][0]["axis"]
        lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines[1:]}
        expected = {"teacher": [[1, 10]], "kd": [[1.5, 9], [2, 8]], "a2d": [[1.5, 8], [2, 8.5]]}
        assert lines == expected | {"last": [[2, 7]]}
        names = {text.get_text(): text.xy for text in axis.texts}
        assert names == {"6+3": (1.5, 9), "6+2": (2, 8.5)}
        assert size(tmp_path / "t.png")[0] > 600
