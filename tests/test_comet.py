"""COMET scores come from its own command: its inputs, its outputs, its errors."""

import json
import os
import sys
import time
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from a2d import UserError
from a2d.report import comet
from a2d.report.analysis import analyse
from a2d.report.comet import comet_scores, parse_metric
from a2d.report.comparison import Comparison, System
from a2d.report.page import write_page
from a2d.text.evaluation import estimate_means

SOURCES = ["one", "two\nlines", "", "four"]
REFERENCES = ["eins", "zwei Zeilen", "leer", "vier"]
# It follows comet/cli/score.py of unbabel-comet 2.2.7: its arguments and its JSON.
COMMAND = """#!{python}
import argparse, json, os, sys
parser = argparse.ArgumentParser()
for name in ("-s", "-r", "--model", "--to_json", "--gpus"):
    parser.add_argument(name)
parser.add_argument("-t", nargs="+")
parser.add_argument("--quiet", action="store_true")
parser.add_argument("--only_system", action="store_true")
options = parser.parse_args()
assert os.environ["HF_HUB_OFFLINE"] == "1" and os.path.isfile(options.model)
read = lambda path: [line.strip() for line in open(path, encoding="utf-8")]
if os.path.getsize(options.model) == 0:
    sys.exit("Traceback\\nEOFError: Ran out of input")
triples = {{path: zip(read(options.s), read(path), read(options.r)) for path in options.t}}
scores = {{
    path: [{{"src": s, "mt": t, "ref": r, "COMET": len(t) / 100}} for s, t, r in rows]
    for path, rows in triples.items()
}}
json.dump(scores, open(options.to_json, "w"))
"""


def comparison():
    systems = [System("a", "a", ["x", "xx", "xxx", "xxxx"]), System("b", "b", ["", "x", "", "xx"])]
    return Comparison("Test", None, SOURCES, REFERENCES, systems)


@pytest.fixture
def command(tmp_path, monkeypatch):
    path = tmp_path / "bin" / comet.COMMAND
    path.parent.mkdir()
    path.write_text(COMMAND.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"x")
    return path


@pytest.mark.usefixtures("command")
def test_every_segment_gets_its_score(checkpoint):
    scores = comet_scores(checkpoint, comparison())
    assert scores == {"a": [1, 2, 3, 4], "b": [0, 1, 0, 2]}


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    "written",
    [
        "no JSON",
        "[]",
        '{"0.txt": [], "1.txt": []}',
        '{"0.txt": [{"COMET": 1}]}',
        '{"0.txt": [{"COMET": NaN}, {"COMET": 1}, {"COMET": 1}, {"COMET": 1}], "1.txt": []}',
        '{"0.txt": null, "1.txt": null}',
    ],
)
def test_wrong_outputs_are_told(checkpoint, tmp_path, written):
    script = f"#!/bin/sh\ncat > scores.json <<'E'\n{written}\nE\n"
    (tmp_path / "bin" / comet.COMMAND).write_text(script)
    with pytest.raises(UserError, match=r"comet-score (wrote no scores|did not give every)"):
        comet_scores(checkpoint, comparison())


@pytest.mark.usefixtures("command")
def test_children_of_the_command_end_with_it(checkpoint, tmp_path):
    script = f"#!/bin/sh\nsleep 60 & echo $! > {tmp_path}/child\nexit 1\n"
    (tmp_path / "bin" / comet.COMMAND).write_text(script.replace("sleep 60", "sleep 60 2>&-"))
    with pytest.raises(UserError, match="failed"):
        comet_scores(checkpoint, comparison())
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and os.path.exists(f"/proc/{child}/cmdline"):
        if not Path(f"/proc/{child}/cmdline").read_bytes():  # ended, not yet reaped
            break
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{child}/cmdline")


@pytest.mark.usefixtures("command")
def test_failures_of_the_command_are_told(checkpoint):
    checkpoint.write_bytes(b"")
    with pytest.raises(UserError, match="comet-score failed: EOFError: Ran out of input"):
        comet_scores(checkpoint, comparison())


def test_a_missing_command_is_told(checkpoint, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="install unbabel-comet in an environment of its own"):
        comet_scores(checkpoint, comparison())


@pytest.mark.parametrize("text", ["comet", "comet=", "comet=Unbabel/x-da", "comet=no.ckpt"])
def test_nothing_is_downloaded(text):
    with pytest.raises(UserError, match="names no checkpoint"):
        parse_metric(text)


def test_other_metrics_are_refused(checkpoint):
    with pytest.raises(UserError, match="'bleurt' is not a metric: write comet=CHECKPOINT"):
        parse_metric("bleurt")
    assert parse_metric(f"comet={checkpoint}") == checkpoint


def test_the_page_shows_comet(tmp_path):
    scores = {"a": [90.0, 80.0, 70.0, 60.0], "b": [50.0, 40.0, 30.0, 20.0]}
    analysis = analyse(comparison(), scores)
    assert analysis.metrics["comet"] == "COMET"
    assert [group.scores["comet"] for group in analysis.groups] == [75, 35]
    write_page(tmp_path / "page.html", comparison(), comet=scores)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert ">COMET</th>" in text
    start = text.index('type="application/json">') + len('type="application/json">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert [system["segments"]["comet"] for system in data["systems"]] == list(scores.values())


def test_estimates_of_means_agree_with_the_normal_approximation():
    rng = np.random.default_rng(1)
    first = rng.normal(70, 10, 300)
    better, equal = first + rng.normal(1, 5, 300), first + rng.normal(0, 5, 300)
    estimates = estimate_means(first, [better, equal, first])
    for values, found in zip((first, better, equal), estimates, strict=False):
        assert found.score == pytest.approx(values.mean())
        assert found.margin == pytest.approx(1.96 * values.std(ddof=1) / 300**0.5, rel=0.1)
    for values, found in zip((better, equal), estimates[1:], strict=False):
        gains = values - first
        p_value = 2 * NormalDist().cdf(-abs(gains.mean()) * 300**0.5 / gains.std(ddof=1))
        assert found.p_value == pytest.approx(p_value, abs=0.03)
    assert estimates[0].p_value is None
    assert estimates[3].p_value == 1
