"""Stages: finished, interrupted, of another run, damaged."""

import json
import os

import pytest

from a2d.errors import UserError
from a2d.files import MANIFEST, write_text
from a2d.stage import RECORD, Stage

SETTINGS = {
    "corpus": "abc",
    "training": {"epochs": 3, "rates": [0.1, 0.2]},
    "name": "dolnoserbšćina",
}


def fill(stage, **files):
    with stage.work() as folder:
        for name, text in files.items():
            write_text(folder / name, text)


class Training(Stage):
    expensive = "checkpoints/*"


def interrupted(stage, *files):
    """Write the folder of an unfinished stage."""
    for name in files:
        (stage.partial / name).parent.mkdir(parents=True, exist_ok=True)
        (stage.partial / name).write_text("x")
    (stage.partial / RECORD).write_text(json.dumps(stage.settings))
    return stage


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestWork:
    def test_ends_in_a_complete_folder(self, tmp_path):
        stage = Stage(tmp_path / "deep" / "stage", SETTINGS)
        assert not stage.done
        with stage.work() as folder:
            assert folder != stage.folder
            assert not stage.done
            write_text(folder / "output", "x")
        assert stage.done
        assert (stage.folder / "output").read_text() == "x"
        assert os.listdir(tmp_path / "deep") == ["stage"]
        stage.check()

    def test_an_interrupted_stage_is_not_done_and_continues(self, tmp_path):
        stage = Stage(tmp_path / "stage", SETTINGS)
        with pytest.raises(UnicodeEncodeError):  # any exception during the work
            fill(stage, half="x", rest="\ud800")
        assert not stage.done
        assert not stage.folder.exists()
        stage.check()

        with stage.work() as again:
            assert (again / "half").read_text() == "x"
            assert not (again / "rest").exists()
            write_text(again / "rest", "y")
        assert stage.done
        assert not stage.partial.exists()
        assert {p.name for p in stage.folder.iterdir()} == {RECORD, MANIFEST, "half", "rest"}
        stage.check()

    def test_writes_its_settings_before_its_outputs(self, tmp_path):
        with Stage(tmp_path / "stage", SETTINGS).work() as folder:
            assert json.loads((folder / RECORD).read_text("utf-8")) == SETTINGS


class TestFingerprint:
    def test_does_not_depend_on_the_order_of_keys(self, tmp_path):
        shuffled = dict(reversed(SETTINGS.items()))
        assert Stage(tmp_path, SETTINGS).fingerprint == Stage(tmp_path / "b", shuffled).fingerprint

    @pytest.mark.parametrize(
        "change", [{"corpus": "abd"}, {"training": {"epochs": 4}}, {"new": None}]
    )
    def test_depends_on_every_setting(self, tmp_path, change):
        assert (
            Stage(tmp_path, SETTINGS).fingerprint != Stage(tmp_path, SETTINGS | change).fingerprint
        )


class TestCheck:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"corpus": "abd"}, "(corpus is 'abc' there, 'abd' here)"),
            ({"training": {"epochs": 4, "rates": [0.1, 0.2]}}, "(training.epochs is 3 there, 4"),
            ({"training": {"epochs": 3, "rates": [1]}}, "(training.rates is [0.1, 0.2] there, [1]"),
        ],
    )
    @pytest.mark.parametrize("finished", [True, False])
    def test_refuses_other_settings_names_the_key_and_deletes_nothing(
        self, tmp_path, change, message, finished
    ):
        mine = Training(tmp_path / "stage", SETTINGS)
        if finished:
            fill(mine, output="x")
        else:
            interrupted(mine, "checkpoints/1")
        before = contents(tmp_path)
        other = Training(mine.folder, SETTINGS | change)
        with pytest.raises(UserError) as caught:
            other.check()
        assert message in str(caught.value)
        assert str(mine.folder if finished else mine.partial) in str(caught.value)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("kind", [Stage, Training])
    def test_an_unfinished_folder_without_expensive_files_makes_room(self, tmp_path, kind, caplog):
        interrupted(kind(tmp_path / "stage", {"n": 1}), "half")
        stage = kind(tmp_path / "stage", {"n": 2})
        stage.check()
        fill(stage, output="x")
        stage.check()
        assert {path.name for path in stage.folder.iterdir()} == {RECORD, MANIFEST, "output"}
        assert os.listdir(tmp_path) == ["stage"]
        assert not caplog.text

    def test_checkpoints_of_a_changed_plugin_are_set_aside(self, tmp_path, caplog):
        old, new = (
            Training(tmp_path / "stage", {**SETTINGS, "plugins": {"mine.py": content * 64}})
            for content in "ab"
        )
        interrupted(old, "checkpoints/1")
        new.check()
        fill(new, output="x")
        assert (tmp_path / "stage.partial.damaged/checkpoints/1").exists()
        assert "its plugin has changed. The folder is renamed to stage.partial.d" in caplog.text

    @pytest.mark.parametrize("length", [16, 64])
    def test_shortens_hashes(self, tmp_path, length):
        fill(Stage(tmp_path / "stage", {"n": 1}))
        with pytest.raises(UserError) as caught:
            Stage(tmp_path / "stage", {"n": 1, "plugins": {"a.py": "ab" * (length // 2)}}).check()
        assert "plugins is not set there, {'a.py': 'abababab…'} here" in str(caught.value)

    @pytest.mark.parametrize("value", [1, None])
    def test_names_a_key_that_only_one_side_has(self, tmp_path, value):
        plain, extended = {"a": {"b": 1}}, {"a": {"b": 1, "c": value}}
        for name, recorded, current in (("x", plain, extended), ("y", extended, plain)):
            fill(Stage(tmp_path / name, recorded))
            with pytest.raises(UserError, match=r"\(a\.c is "):
                Stage(tmp_path / name, current).check()

    def test_accepts_tuples_for_lists(self, tmp_path):
        fill(Stage(tmp_path / "stage", {"sizes": (1, 2)}))
        Stage(tmp_path / "stage", {"sizes": (1, 2)}).check()

    @pytest.mark.parametrize("files", [{}, {"thesis.tex": "x"}, {RECORD: "{"}])
    def test_refuses_a_folder_of_another_program(self, tmp_path, files):
        folder = tmp_path / "stage"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        before = contents(tmp_path)
        with pytest.raises(UserError, match="was not made by a2d") as caught:
            Stage(folder, SETTINGS).check()
        assert str(folder) in str(caught.value)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("name", ["deep", "deep/stage", "deep/stage.partial"])
    def test_refuses_a_file_in_place_of_the_folder(self, name, tmp_path):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text("x")
        with pytest.raises(
            UserError, match=f"{place} is not a folder, and the run needs one there"
        ):
            Stage(tmp_path / "deep/stage", SETTINGS).check()

    def test_accepts_a_missing_folder(self, tmp_path):
        Stage(tmp_path / "stage", SETTINGS).check()
        assert contents(tmp_path) == {}

    @pytest.mark.parametrize("record", [None, ""])
    def test_killed_before_the_record_was_written(self, tmp_path, record):
        stage = Stage(tmp_path / "stage", SETTINGS)
        stage.partial.mkdir()
        if record is not None:
            (stage.partial / RECORD).write_text(record)
        stage.check()
        fill(stage)
        stage.check()
        assert stage.done

    @pytest.mark.parametrize("record", [None, "", "{"])
    def test_a_folder_with_a_damaged_record_is_set_aside(self, tmp_path, record, caplog):
        stage = Stage(tmp_path / "stage", SETTINGS)
        stage.partial.mkdir()
        write_text(stage.partial / "half", "of other settings, perhaps")
        if record is not None:
            (stage.partial / RECORD).write_text(record)
        with stage.work() as folder:
            assert [path.name for path in folder.iterdir()] == [RECORD]
        assert (tmp_path / "stage.partial.damaged/half").exists()
        assert "The folder is renamed to stage.partial.damaged" in caplog.text


class TestBadInput:
    def test_leaves_no_trace(self, tmp_path):
        with pytest.raises(UserError, match="too many"), Stage(tmp_path / "a", {"n": 9}).work():
            raise UserError("too many")
        assert contents(tmp_path) == {}
        mended = Stage(tmp_path / "a", {"n": 3})
        mended.check()
        fill(mended)

    def test_earlier_files_stay(self, tmp_path):
        stage = Stage(tmp_path / "a", {"n": 9})
        stage.partial.mkdir()
        write_text(stage.partial / RECORD, json.dumps(stage.settings))
        write_text(stage.partial / "half", "done")
        with pytest.raises(UserError), stage.work():
            raise UserError("no")
        assert (stage.partial / "half").exists()

    def test_expensive_files_stay(self, tmp_path):
        stage = Training(tmp_path / "a", {"n": 9})

        def diverge():
            with stage.work() as folder:
                (folder / "checkpoints").mkdir()
                (folder / "checkpoints/1").touch()
                raise UserError("no")

        with pytest.raises(UserError):
            diverge()
        assert (stage.partial / "checkpoints/1").exists()


class TestRestore:
    def test_intact_stages_stay(self, tmp_path):
        stage = Stage(tmp_path / "a", SETTINGS)
        assert stage.restore() is None
        fill(stage, output="x")
        before = contents(tmp_path)
        assert stage.restore() is None
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("name", ["output", RECORD, MANIFEST])
    def test_a_stage_with_a_changed_file_is_set_aside(self, tmp_path, name):
        stage = Stage(tmp_path / "a", SETTINGS)
        fill(stage, output="x")
        path = stage.folder / name
        spoiled = path.read_bytes()[:-2] + b"?"
        path.write_bytes(spoiled)
        stage.check()  # no other stage's
        assert f"{stage.folder}: {name} is damaged. The stage is done again" in stage.restore()
        assert not stage.done
        assert (tmp_path / "a.damaged" / name).read_bytes() == spoiled
        fill(stage, output="x")
        assert stage.restore() is None

    @pytest.mark.parametrize("name", ["output", RECORD, MANIFEST])
    def test_a_missing_file_is_named(self, tmp_path, name):
        stage = Stage(tmp_path / "a", SETTINGS)
        fill(stage, output="x")
        (stage.folder / name).unlink()
        if name != MANIFEST:
            stage.check()
        assert f"{name} is missing" in stage.restore()

    def test_scratch_files_are_removed(self, tmp_path):
        stage = Stage(tmp_path / "a", SETTINGS)
        with stage.work(scratch="checkpoints") as folder:
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / "x").write_text("x")
        assert not (stage.folder / "checkpoints").exists()
        assert stage.restore() is None
