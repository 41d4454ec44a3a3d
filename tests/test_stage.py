"""Stages: done, half done, somebody else's; files all there or not at all."""

import json
import os
import shutil
from collections import namedtuple

import pytest

from a2d import stage as module
from a2d.errors import UserError
from a2d.stage import RECORD, Stage, require_space, write_text

SETTINGS = {
    "corpus": "abc",
    "training": {"epochs": 3, "rates": [0.1, 0.2]},
    "name": "dolnoserbšćina",
}


def fill(stage, **files):
    with stage.work() as folder:
        for name, text in files.items():
            write_text(folder / name, text)


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

    def test_interrupted_is_not_done_and_keeps_what_it_has(self, tmp_path):
        stage = Stage(tmp_path / "stage", SETTINGS)
        with pytest.raises(UnicodeEncodeError):  # any exception, somewhere in the work
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
        assert {p.name for p in stage.folder.iterdir()} == {RECORD, "half", "rest"}
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
        ("change", "told"),
        [
            ({"corpus": "abd"}, "(corpus is 'abc' there, 'abd' here)"),
            ({"training": {"epochs": 4, "rates": [0.1, 0.2]}}, "(training.epochs is 3 there, 4"),
            ({"training": {"epochs": 3, "rates": [1]}}, "(training.rates is [0.1, 0.2] there, [1]"),
        ],
    )
    @pytest.mark.parametrize("finished", [True, False])
    def test_refuses_other_settings_names_the_key_and_deletes_nothing(
        self, tmp_path, change, told, finished
    ):
        mine = Stage(tmp_path / "stage", SETTINGS)
        fill(mine, output="x")
        if not finished:
            mine.folder.rename(mine.partial)
        before = contents(tmp_path)
        other = Stage(mine.folder, SETTINGS | change)
        with pytest.raises(UserError) as caught:
            other.check()
        assert told in str(caught.value)
        assert str(mine.folder if finished else mine.partial) in str(caught.value)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("value", [1, None])
    def test_names_a_key_that_only_one_side_has(self, tmp_path, value):
        plain, extended = {"a": {"b": 1}}, {"a": {"b": 1, "c": value}}
        for name, there, here in (("x", plain, extended), ("y", extended, plain)):
            fill(Stage(tmp_path / name, there))
            with pytest.raises(UserError, match=r"\(a\.c is "):
                Stage(tmp_path / name, here).check()

    def test_accepts_tuples_for_lists(self, tmp_path):
        fill(Stage(tmp_path / "stage", {"sizes": (1, 2)}))
        Stage(tmp_path / "stage", {"sizes": (1, 2)}).check()

    @pytest.mark.parametrize("files", [{}, {"thesis.tex": "x"}, {RECORD: "{"}])
    def test_refuses_a_folder_of_somebody_else(self, tmp_path, files):
        folder = tmp_path / "stage"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        before = contents(tmp_path)
        with pytest.raises(UserError, match="was not made by a2d") as caught:
            Stage(folder, SETTINGS).check()
        assert str(folder) in str(caught.value)
        assert contents(tmp_path) == before

    def test_refuses_a_file_in_its_place(self, tmp_path):
        (tmp_path / "stage").write_text("x")
        with pytest.raises(UserError, match="was not made by a2d"):
            Stage(tmp_path / "stage", SETTINGS).check()

    def test_nothing_there_is_fine(self, tmp_path):
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


class TestBadInput:
    def test_leaves_no_trace(self, tmp_path):
        with pytest.raises(UserError, match="too many"), Stage(tmp_path / "a", {"n": 9}).work():
            raise UserError("too many")
        assert contents(tmp_path) == {}
        mended = Stage(tmp_path / "a", {"n": 3})
        mended.check()
        fill(mended)

    def test_takes_nothing_that_was_there_before(self, tmp_path):
        stage = Stage(tmp_path / "a", {"n": 9})
        stage.partial.mkdir()
        write_text(stage.partial / "half", "done")
        with pytest.raises(UserError), stage.work():
            raise UserError("no")
        assert (stage.partial / "half").exists()


class TestWriteText:
    def test_replaces_and_leaves_nothing_beside(self, tmp_path):
        path = tmp_path / "a.json"
        write_text(path, "old")
        write_text(path, "źě\n")
        assert path.read_bytes() == "źě\n".encode()
        assert os.listdir(tmp_path) == ["a.json"]

    def test_a_failure_halfway_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "a.json"
        write_text(path, "old")
        with pytest.raises(UnicodeEncodeError):
            write_text(path, "new\ud800")
        assert path.read_text() == "old"

    def test_readers_never_see_a_part(self, tmp_path, monkeypatch):
        path = tmp_path / "a.json"
        write_text(path, "old")
        seen = []

        def replace(source, target):
            seen.append((path.read_text(), source.read_text()))
            shutil.move(source, target)

        monkeypatch.setattr(module.os, "replace", replace)
        write_text(path, "new")
        assert seen == [("old", "new")]
        assert path.read_text() == "new"


class TestSpace:
    @pytest.fixture
    def asked(self, monkeypatch):
        """A disk with 5 GB free; the places that were asked about."""
        places = []

        def disk_usage(place):
            places.append(place)
            return namedtuple("Usage", "total used free")(10**10, 5 * 10**9, 5 * 10**9)

        monkeypatch.setattr(module.shutil, "disk_usage", disk_usage)
        return places

    def test_enough(self, tmp_path, asked):
        require_space(tmp_path / "not" / "there", 5 * 10**9)
        assert asked == [tmp_path]

    def test_too_little(self, tmp_path, asked):
        with pytest.raises(
            UserError, match=r"needs about 7\.2 GB under .*5\.0 GB are free"
        ) as caught:
            require_space(tmp_path / "run", 7_200_000_000)
        assert str(tmp_path / "run") in str(caught.value)
        assert asked == [tmp_path]

    def test_relative_folders(self, tmp_path, asked, monkeypatch):
        monkeypatch.chdir(tmp_path)
        require_space(module.Path("runs/demo"), 1)
        assert asked == [tmp_path]
