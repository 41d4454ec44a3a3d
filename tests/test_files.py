"""Files are written completely or not at all; manifests notice any change; messages about space."""

import os
import shutil
import sys
import time
from collections import namedtuple
from subprocess import PIPE, run

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2d import files as module
from a2d.errors import UserError
from a2d.files import (
    MANIFEST,
    damage,
    digest,
    identity,
    require_space,
    seal,
    set_aside,
    write_text,
)

NAMES = ["model.safetensors", "deep/er/config.json", "ü"]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        path = tmp_path / "stage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(256)) * (number + 1))
    seal(tmp_path / "stage")
    return tmp_path / "stage"


class TestManifest:
    def test_of_an_intact_folder(self, folder):
        assert damage(folder) is None
        (folder / "notes.txt").write_text("a user's own")
        assert damage(folder) is None

    @pytest.mark.parametrize("name", [*NAMES, MANIFEST])
    def test_every_bit_counts(self, folder, name):
        path = folder / name
        content = path.read_bytes()
        for bit in range(0, 8 * len(content), 97):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert damage(folder) == f"{name} is damaged"
        path.write_bytes(content)
        assert damage(folder) is None

    def test_pipes_and_devices_are_not_read(self, folder):
        (folder / NAMES[0]).unlink()
        (folder / NAMES[0]).symlink_to("/dev/null")
        assert damage(folder) == f"{NAMES[0]} cannot be read (it is a pipe or a device)"

    @pytest.mark.parametrize("name", [*NAMES, MANIFEST])
    def test_so_does_every_file(self, folder, name):
        (folder / name).unlink()
        assert damage(folder) == f"{name} is missing"

    def test_a_folder_in_the_place_of_a_file(self, folder):
        (folder / "ü").unlink()
        (folder / "ü").mkdir()
        assert "ü cannot be read" in damage(folder)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3, "sum": 4}', "\\ud800", "\0"])
    def test_nonsense_in_its_place(self, folder, text):
        (folder / MANIFEST).write_text(text)
        assert damage(folder) == f"{MANIFEST} is damaged"

    def test_leaves_out_temporary_files(self, folder):
        seal(folder, without=("deep",))
        (folder / "deep/er/config.json").unlink()
        assert damage(folder) is None

    def test_of_some_files_alone(self, folder):
        (folder / "ü").write_text("x")
        assert damage(folder, only=("model.safetensors",)) is None
        assert damage(folder, only=("ü",)) == "ü is damaged"

    @given(st.binary(max_size=300))
    def test_digest_equals_sha256(self, tmp_path_factory, content):
        path = tmp_path_factory.mktemp("digest") / "x"
        path.write_bytes(content)
        expected = run(["sha256sum", path], capture_output=True, check=True).stdout
        assert digest(path) == expected.split()[0].decode()

    def test_set_aside_takes_the_place_of_an_older_one(self, folder):
        first = set_aside(folder)
        folder.mkdir()
        (folder / "new").write_text("x")
        assert set_aside(folder) == first
        assert os.listdir(first) == ["new"]
        assert not folder.exists()


class TestIdentity:
    def test_identity_does_not_depend_on_the_folder(self, folder, tmp_path):
        name = identity(str(folder))
        folder.rename(tmp_path / "elsewhere")
        assert identity(str(tmp_path / "elsewhere")) == name
        (tmp_path / "elsewhere/README.md").write_text("x")
        assert identity(str(tmp_path / "elsewhere")) == name
        (tmp_path / "elsewhere/model.safetensors").write_text("x")
        assert identity(str(tmp_path / "elsewhere")) != name

    def test_of_a_model_on_the_hub(self):
        assert identity("Helsinki-NLP/opus-mt-en-de") == "Helsinki-NLP/opus-mt-en-de"


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
        observed_contents = []

        def replace(source, target):
            observed_contents.append((path.read_text(), source.read_text()))
            shutil.move(source, target)

        monkeypatch.setattr(module.os, "replace", replace)
        write_text(path, "new")
        assert observed_contents == [("old", "new")]
        assert path.read_text() == "new"


class TestSpace:
    @pytest.fixture
    def queries(self, monkeypatch):
        """Simulate 5 GB of free space; list the folders whose disks are queried."""
        folders = []

        def disk_usage(folder):
            folders.append(folder)
            return namedtuple("Usage", "total used free")(10**10, 5 * 10**9, 5 * 10**9)

        monkeypatch.setattr(module.shutil, "disk_usage", disk_usage)
        return folders

    def test_enough(self, tmp_path, queries):
        require_space(tmp_path / "not" / "there", 5 * 10**9)
        assert queries == [tmp_path]

    def test_too_little(self, tmp_path, queries):
        with pytest.raises(
            UserError, match=r"needs about 7\.2 GB under .*5\.0 GB are free"
        ) as caught:
            require_space(tmp_path / "run", 7_200_000_000)
        assert str(tmp_path / "run") in str(caught.value)
        assert queries == [tmp_path]

    def test_relative_folders(self, tmp_path, queries, monkeypatch):
        monkeypatch.chdir(tmp_path)
        require_space(module.Path("runs/methods"), 1)
        assert queries == [tmp_path]


def test_a_killed_process_leaves_no_half_folder(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from a2d.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as partial:
    partial.mkdir()
    (partial / "file").write_text("half")
    print(*os.listdir(partial.parent), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run([sys.executable, "-c", script, tmp_path / "whole"], stdout=PIPE, text=True)
    assert process.returncode == -9
    assert process.stdout.startswith(".")
    for _ in range(200):
        if not any(tmp_path.iterdir()):
            break
        time.sleep(0.05)
    assert not any(tmp_path.iterdir())


def test_a_text_replaces_no_pipe_and_follows_no_link(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is not a regular file"):
        write_text(tmp_path / "pipe", "x")
    (tmp_path / "other").write_text("kept")
    (tmp_path / "page.tmp").symlink_to(tmp_path / "other")
    write_text(tmp_path / "page", "new")
    assert (tmp_path / "page").read_text() == "new"
    assert (tmp_path / "other").read_text() == "kept"
    os.mkfifo(tmp_path / "second.tmp")
    write_text(tmp_path / "second", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "page", "pipe", "second"]
