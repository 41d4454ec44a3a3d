"""Hostile paths are refused in one sentence by every command, and no file is overwritten."""

import sys

import pytest
from campaign import FULL, ends_in_sentence
from hostile import limited

from a2d.__main__ import main

KIND = "hostile paths"

PATHS = {
    "the root": "/",
    "a device": "/dev/null",
    "below a device": "/dev/null/x",
    "a path that cannot exist": "/proc/x/y",
    "a line break": "{}/a\nb",
    "a command of terminals": "{}/\x1b[31m",
    "a long name": "{}/" + "x" * 300,
    "a long path": "{}/" + "y/" * 3000,
    "a file": "{}/file",
    "below a file": "{}/file/inside",
    "a folder": "{}/folder",
    "a dangling link": "{}/dangling",
    "below a dangling link": "{}/dangling/x",
    "a loop": "{}/loop",
    "below a loop": "{}/loop/x",
    "bytes that are no text": "{}/\udcff",
    "half a character": "{}/\ud800",
    "NUL": "{}/\0",
    "the home of nobody": "~nosuchuser",
    "a question mark": "{}/?*",
}
MISSING = "{}/missing"


def commands(path, missing):
    """Command lines with a path as each of their arguments; the other paths do not exist."""
    languages = ["--source", "de", "--target", "dsb", "--student", "1x1"]
    corpus = ["--data", missing, *languages]
    return [
        ["run", path],
        ["run", "methods", "--output", path, "corpus.train=" + missing],
        ["run", "methods", "corpus.train=" + path],
        ["distill", "--teacher", path, "--output", missing, *corpus],
        ["distill", "--teacher", missing, "--output", path, *corpus],
        ["distill", "--teacher", "builtin:en-pt", "--output", missing, "--data", path, *languages],
        ["plot", path],
        ["plot", missing, "--output", path],
        ["translate", path],
        ["export", path, "--output", missing],
        ["export", missing, "--output", path],
        ["data", "inspect", path],
        ["data", "inspect", missing, "--against", path],
        ["data", "convert", path, "--output", missing + ".tsv"],
        ["data", "convert", missing, "--output", path],
        ["data", "convert", missing, "--output", path + ".tsv"],
    ]


@pytest.mark.parametrize("name", list(PATHS)[:: 1 if FULL else 5])
def test_hostile_paths(name, tmp_path, ledger, monkeypatch, capfd):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    path, missing = (text.format(tmp_path) for text in (PATHS[name], MISSING))
    before = sorted(tmp_path.rglob("*"))
    for arguments in commands(path, missing):
        monkeypatch.setattr(sys, "argv", ["a2d", *arguments])
        with limited(), pytest.raises(SystemExit) as caught:
            main()
        errors = capfd.readouterr().err
        plain = errors.rstrip("\n").isprintable() and ends_in_sentence(errors)
        outcome = "refused in a sentence" if caught.value.code == 2 and plain else "traceback"
        ledger.record(KIND, outcome, f"{arguments}: {errors}")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


VALUES = [
    ["--student", "9" * 5000 + "x1"],
    ["--student", "1000000x1"],
    ["--student", "0x1"],
    ["--student", "²x1"],
    ["--student", "2x1-" + "9" * 30],
    ["--student", "2x1-8-8-99999"],
    ["--least-share", "nan"],
    ["--method", "\x1b"],
    ["--start", "\n"],
    ["--seed", "9" * 30],
]


def test_values(tmp_path, ledger, monkeypatch, capfd):
    options = ["--output", f"{tmp_path}/x", "--source", "en", "--target", "pt", "--data", "x.tsv"]
    lines = [["distill", "--teacher", "builtin:en-pt", "--student", "1x1", *options]]
    lines = [[*line, *value] for line in lines for value in VALUES]
    for arguments in [*lines, ["translate", "builtin:en-pt", "--beams", "9" * 20]]:
        monkeypatch.setattr(sys, "argv", ["a2d", *arguments])
        with limited(), pytest.raises(SystemExit) as caught:
            main()
        errors = capfd.readouterr().err
        outcome = "refused in a sentence"
        if caught.value.code != 2 or not (ends_in_sentence(errors) or errors.startswith("Usage: ")):
            outcome = "traceback"
        ledger.record(KIND, outcome, f"{str(arguments)[:300]}: {errors}")


def test_outputs_that_cannot_be_written(tmp_path, ledger, monkeypatch, capfd):
    """The command can do its work, except for writing the output."""
    from a2d.families import Geometry
    from a2d.method.alignment import FILE_NAME, AttentionAlignment

    shape = Geometry(1, 1, 2, 2)
    AttentionAlignment(shape, shape).save(tmp_path / FILE_NAME)
    for path in (
        "/proc/x.png",
        "{}/file/x.png",
        "{}/" + "x" * 300 + ".png",
        "{}/folder.png",
        "{}/loop.png",
    ):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        (tmp_path / "loop.png").unlink(missing_ok=True)
        (tmp_path / "loop.png").symlink_to("loop.png")
        command = ["a2d", "plot", str(tmp_path), "--output", path.format(tmp_path)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            main()
        errors = capfd.readouterr().err
        outcome = (
            "refused in a sentence"
            if caught.value.code == 2 and ends_in_sentence(errors)
            else "traceback"
        )
        ledger.record(KIND, outcome, f"{command}: {errors}")
