"""The plan of a recipe: names of students, dependencies of stages, disk space."""

import pytest
from pretrained import PAIRS, released
from runs import run_of

from a2d.errors import UserError
from a2d.runs.recipe import load_recipe
from a2d.runs.splits import Splits, read_splits
from a2d.runs.stages.students import Student, space_needed, trained_models_of
from a2d.text.cleaning import CleaningReport

SPLITS = Splits(PAIRS[:5], PAIRS[5:7], PAIRS[7:9], CleaningReport(5, {}, 5))
SHAPE = "encoder_layers: 2, decoder_layers: 1, heads: 4"


def plan(folder, *overrides):
    return run_of(load_recipe("methods", overrides), folder, SPLITS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    released("opus", folder)
    return f"teacher={{path: {folder}}}"


class TestNames:
    @pytest.mark.parametrize("pretrained", [True, False])
    def test_of_students_of_different_widths_differ(self, tmp_path, teacher, pretrained):
        widths = ("width: 128, feed_forward: 512", "width: 64, feed_forward: 256")
        students = "students=[" + ", ".join(f"{{{SHAPE}, {width}}}" for width in widths) + "]"
        run = plan(tmp_path, students, "methods=[kd]", *([teacher] if pretrained else []))
        assert [student.name for student in run.all(Student)] == [
            "kd-2+1x4-128-512-seed1",
            "kd-2+1x4-64-256-seed1",
        ]
        assert [student.size for student in run.all(Student)] == ["2+1x4-128-512", "2+1x4-64-256"]

    def test_omit_widths_that_equal_the_teachers(self, tmp_path):
        run = plan(tmp_path, f"students=[{{{SHAPE}}}]", "methods=[kd]")
        assert [student.name for student in run.all(Student)] == ["kd-2+1x4-seed1"]

    def test_have_different_heads_of_decoders(self, tmp_path):
        run = plan(tmp_path, f"students=[{{{SHAPE}, decoder_heads: 2}}]", "methods=[kd]")
        assert [student.name for student in run.all(Student)] == ["kd-2+1x4+2-seed1"]

    def test_have_different_feed_forward_widths_of_decoders(self, tmp_path):
        width = "width: 64, feed_forward: 256"
        shapes = [f"{{{SHAPE}, {width}}}", f"{{{SHAPE}, {width}, decoder_feed_forward: 128}}"]
        run = plan(tmp_path, f"students=[{', '.join(shapes)}]", "methods=[kd]")
        assert [student.size for student in run.all(Student)] == [
            "2+1x4-64-256",
            "2+1x4-64-256+128",
        ]


def test_held_out_pairs_with_an_empty_side_are_left_out_with_a_warning(tmp_path, caplog):
    lines = ["ja\tjo", "nein\t", "\tně", "gut\tdobry"]
    (tmp_path / "test.tsv").write_text("\n".join(lines))
    recipe = load_recipe("methods", [f"corpus.test={tmp_path}/test.tsv"])
    assert read_splits(recipe).test == [("ja", "jo"), ("gut", "dobry")]
    warnings = [record.getMessage() for record in caplog.records]
    assert (
        "test: 2 of 4 pairs have an empty side and were left out: the first is pair 2." in warnings
    )
    (tmp_path / "test.tsv").write_text("ja\t\n")
    with pytest.raises(UserError, match="test: every pair has an empty side"):
        read_splits(recipe)


@pytest.mark.parametrize("limit", ["null", "300"])
def test_every_pair_is_counted(tmp_path, limit):
    lines = [f"Wort{'a' * number}\tsłowo{'a' * number}" for number in range(500)]
    lines += [f"Wort{'a' * number}!\tsłowo{'a' * number}" for number in range(0, 500, 4)]
    (tmp_path / "train.tsv").write_text("\n".join([*lines, lines[0], "ja\t"]))
    overrides = [f"corpus.train={tmp_path}/train.tsv", "corpus.valid=null", "corpus.test=null"]
    splits = read_splits(load_recipe("methods", [*overrides, f"corpus.limit={limit}"]))
    counts = splits.cleaning.as_dict()
    parts = len(splits.train), len(splits.valid), len(splits.test)
    assert counts["read"] == len(lines) + 2 == sum(n for k, n in counts.items() if k != "read")
    assert counts["kept"] == sum(parts)
    assert counts["similar_to_held_out"] > 0
    assert (counts.get("beyond_limit", 0) > 0) is (limit == "300")


def test_a_baseline_that_starts_from_a_pretrained_teacher_is_another_model(tmp_path, teacher):
    settings = (teacher, f"students=[{{{SHAPE}, width: 24, feed_forward: 40}}]")

    def fingerprint(start):
        method = f"methods=[{{method: baseline, student_start: {start}}}]"
        return plan(tmp_path, *settings, method).one(Student).fingerprint

    assert fingerprint("random") != fingerprint("teacher")


class TestSpace:
    def test_is_not_needed_for_finished_models(self, tmp_path):
        run = plan(tmp_path)
        before = space_needed(run)
        for model in trained_models_of(run):
            model.folder.mkdir(parents=True)
        assert space_needed(run) < before / 2

    def test_grows_with_the_vocabulary_and_with_parallel_trainings(self, tmp_path):
        shape = f"students=[{{{SHAPE}, width: 64, feed_forward: 64}}]"
        bytes_needed = []
        for size, parallel in ((1000, 1), (200_000, 1), (200_000, 2)):
            folder = tmp_path / str(size)
            model, _ = released("t5", folder)
            model.config.vocab_size = size
            model.config.save_pretrained(folder)
            settings = (f"teacher={{path: {folder}}}", shape, "methods=[kd, a2d]")
            run = plan(tmp_path, *settings, f"compute.parallel={parallel}")
            bytes_needed.append(space_needed(run))
        weights = 4 * 200_000 * 64
        assert bytes_needed[1] - bytes_needed[0] > 10 * weights * 0.99
        assert bytes_needed[2] - bytes_needed[1] > 9 * weights * 0.99

    def test_counts_one_start_of_each_shape(self, tmp_path):
        def needed(start):
            shapes = ", ".join(f"{{{SHAPE}, width: {width}}}" for width in (64, 32))
            method = f"{{method: [kd, a2d], name: x, student_start: {start}}}"
            size = "vocabulary.size=200_000"
            return space_needed(plan(tmp_path, size, f"students=[{shapes}]", f"methods=[{method}]"))

        weights = 4 * 200_000 * (64 + 32)
        assert weights < needed("teacher") - needed("random") < 1.1 * weights
