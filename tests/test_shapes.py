"""Shapes of students by name, and their estimated costs."""

import json
import re
from statistics import mean

import pytest
import torch
from pages import ROOT
from pretrained import released
from rich.console import Console

from a2d.errors import UserError
from a2d.families import sizes_of
from a2d.models.loading import load_config, load_model
from a2d.models.presets import PRESETS, complete_shape, parse_shape
from a2d.models.students import student_of
from a2d.runs.measured import measured_students
from a2d.runs.shapes import default_shapes, measure_shapes


class TestNames:
    @pytest.mark.parametrize(
        ("text", "sizes"),
        [
            ("6x2", {"encoder_layers": 6, "decoder_layers": 2}),
            ("6+2", {"encoder_layers": 6, "decoder_layers": 2}),
            ("6X2", {"encoder_layers": 6, "decoder_layers": 2}),
            ("Tiny", PRESETS["tiny"]),
            ("12x1-384", {"encoder_layers": 12, "decoder_layers": 1, "width": 384}),
            ("base", {**PRESETS["base"], "width": 512, "feed_forward": 2048}),
        ],
    )
    def test_of_layers_widths_and_presets(self, text, sizes):
        assert parse_shape(text) == sizes

    def test_of_everything(self):
        shape = {"encoder_layers": 6, "decoder_layers": 2, "width": 64, "feed_forward": 99}
        assert parse_shape("6x2-64-99") == shape
        assert parse_shape("6x2-64-99-8") == {**shape, "heads": 8}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "6",
            "6x",
            "x2",
            "6x2-",
            "6x2-64-99-1-1",
            "tinier",
            "6x2 ",
            "0x1",
            "6x2-0",
            "²x1",
            "1000000x1",
        ],
    )
    def test_others_are_refused_in_a_sentence(self, text):
        with pytest.raises(
            UserError, match=r"is not a shape of a student: .* or one of tiny, base"
        ):
            parse_shape(text)

    def test_presets_are_not_shared(self):
        parse_shape("tiny")["width"] = 1
        assert parse_shape("tiny")["width"] == 256


class TestCompletion:
    teacher = load_config("builtin:en-pt")

    def test_the_feed_forward_width_follows_the_width(self):
        shape = complete_shape(sizes_of(self.teacher), parse_shape("5x2-80"))
        assert shape == {**parse_shape("5x2-80"), "heads": 4, "feed_forward": 320}

    @pytest.mark.parametrize(("shape", "width"), [("5x2-60", 240), ("1x1-25", 96), ("5x1-20-9", 9)])
    def test_it_is_a_multiple_of_eight(self, shape, width):
        assert complete_shape(sizes_of(self.teacher), parse_shape(shape))["feed_forward"] == width

    def test_of_uneven_ratios_it_is_rounded(self):
        config = load_config("builtin:en-pt")
        config.d_model, config.encoder_ffn_dim, config.decoder_ffn_dim = 96, 256, 256
        for shape, width in (("2x2-64", 168), ("1x1-2", 8)):  # in proportion: 170.7 and 5.3
            assert complete_shape(sizes_of(config), parse_shape(shape))["feed_forward"] == width

    def test_sizes_that_are_named_stay(self):
        named = {"encoder_layers": 1, "decoder_layers": 1, "width": 32, "heads": 2}
        assert complete_shape(sizes_of(self.teacher), named | {"feed_forward": 9}) == named | {
            "feed_forward": 9
        }

    def test_stacks_of_the_teacher_may_differ(self):
        config = load_config("builtin:en-pt")
        config.decoder_ffn_dim, config.decoder_attention_heads = 320, 8
        shape = complete_shape(sizes_of(config), parse_shape("2x1-80"))
        assert (shape["feed_forward"], shape["decoder_feed_forward"]) == (320, 160)
        assert (shape["heads"], shape["decoder_heads"]) == (4, 8)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("9x1", "with 9 encoder layers cannot start from a teacher with 5"),
        ("3x1-320", "a student of width 320 cannot start from a teacher of width 160"),
        ("3x1-42", "width 42 cannot be split into 4 heads"),
        ("5x3-160-9999", r"has 2\d,\d{3},\d{3} parameters, more than its teacher"),
    ],
)
def test_shapes_that_no_student_can_have_are_refused_at_once(shape, message):
    with pytest.raises(UserError, match=message):
        measure_shapes("builtin:en-pt", ["3x1", shape], Console(quiet=True))


def test_default_shapes_fit_the_teacher():
    for name in ("builtin:en-pt",):
        config = load_config(name)
        for shape in default_shapes(config):
            sizes = complete_shape(sizes_of(config), parse_shape(shape))
            limits = sizes_of(config)
            assert all(sizes[size] <= limits[size] for size in ("encoder_layers", "width"))
    config.d_model, config.encoder_layers = 512, 6
    assert {"tiny", "base"} < set(default_shapes(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"eos_token_id": [0, 1]}, {"eos_token_id": None}, {"max_position_embeddings": 10}]
)
def test_unusual_teachers_are_timed(changes, tmp_path, monkeypatch):
    monkeypatch.setattr("a2d.runs.speeds._MAX_SECONDS", 0.0)
    model, _ = released("opus", tmp_path)
    for name, value in changes.items():
        setattr(model.config, name, value)
    if "max_position_embeddings" in changes:
        model = type(model)(model.config)
    model.save_pretrained(tmp_path)
    rows = measure_shapes(str(tmp_path), ["1x1"], Console(quiet=True))
    assert [row.name for row in rows] == ["teacher", "1x1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opus", "t5"])
def test_the_table_has_what_students_of_the_shapes_have(name, tmp_path, monkeypatch):
    monkeypatch.setattr("a2d.runs.speeds._MAX_SECONDS", 0.0)
    released(name, tmp_path / "teacher")
    console = Console(record=True, width=80)
    figures = measure_shapes(str(tmp_path / "teacher"), ["2x1", "2x1-12"], console)
    assert [row.name for row in figures] == ["teacher", "2x1", "2x1-12"]
    teacher = load_model(tmp_path / "teacher")
    student = student_of(
        teacher, encoder_layers=2, decoder_layers=1, width=12, feed_forward=16, start="random"
    )
    parameters = {weight.data_ptr(): weight.numel() for weight in student.parameters()}
    positions = getattr(student.get_encoder(), "embed_positions", None)
    fixed = [] if positions is None else [p.numel() for p in positions.parameters()]
    assert figures[2].parameters in (
        sum(parameters.values()),
        sum(parameters.values()) - 2 * sum(fixed),
    )
    assert figures[2].int8_bytes < figures[1].int8_bytes < figures[0].int8_bytes
    assert all(row.speed_up > 0 and row.int8_speed_up > 0 for row in figures)
    text = console.export_text()
    assert re.search(r"^2x1-12 +2\+1 +12/16 ", text, re.M)
    assert f"{torch.get_num_threads()} thread(s)" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^de-dsb +16,112 +33\.6M +6x2-256-1024 +23% +101%", text, re.M)
    assert "Smaller than every measured" not in text


def test_the_measured_students_are_those_of_the_results():
    kept = []
    for path in [
        *ROOT.glob("results/front/*/*/scores.json"),
        *ROOT.glob("results/front-de-dsb/*/scores.json"),
    ]:
        teacher, *rows = json.loads(path.read_text("utf-8"))
        chrf = [row["chrf"] for row in rows if not row["quantization"]]
        kept.append(pytest.approx(mean(chrf) / teacher["chrf"], abs=1e-4))
    students = measured_students()
    assert len(students) == len(kept) >= 10
    assert sorted(student.kept for student in students) == sorted(kept, key=lambda k: k.expected)
    for student in students:
        assert set(parse_shape(student.shape)) >= {"encoder_layers", "decoder_layers"}
        assert 0 < student.share < 1 < student.teacher / 1e6


@pytest.mark.parametrize("name", ["opus", "t5"])
def test_embeddings_may_have_more_rows_than_there_are_tokens(name, tmp_path, monkeypatch):
    monkeypatch.setattr("a2d.runs.speeds._MAX_SECONDS", 0.0)
    model, tokenizer = released(name, tmp_path)
    model.resize_token_embeddings(3 * len(tokenizer))
    model.save_pretrained(tmp_path)
    rows = measure_shapes(str(tmp_path), ["1x1"], Console(quiet=True))
    assert [row.name for row in rows] == ["teacher", "1x1"]


def test_shapes_without_an_export_are_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("a2d.runs.speeds._MAX_SECONDS", 0.0)
    model, _ = released("opus", tmp_path)
    model.config.decoder_attention_heads = 2 * model.config.encoder_attention_heads
    type(model)(model.config).save_pretrained(tmp_path)
    console = Console(record=True, width=80)
    rows = measure_shapes(str(tmp_path), ["1x1"], console)
    assert [row.int8_bytes for row in rows] == [None, None]
    text = " ".join(console.export_text().split())
    assert (
        "Without int8: teacher, 1x1. Each has 2 heads in the encoder and 4 in the decoder" in text
    )
