"""The plan of a run: its tasks are the run's, its times add up, it leaves nothing behind."""

import math
import os

import pytest
from rich.console import Console
from test_pipeline import corpus, settings  # noqa: F401
from typer.testing import CliRunner

from a2d.cli import app
from a2d.runs.planning import ESTIMATES, Estimate, Plan, plan_run, show_plan
from a2d.runs.recipe import load_recipe
from a2d.runs.stages import AFTER_PREPARATION


def test_every_kind_of_stage_is_estimated():
    assert set(ESTIMATES) == set(AFTER_PREPARATION)


@pytest.mark.parametrize(
    ("tasks", "workers", "seconds"),
    [([], 2, 0), ([3, 3, 3, 3], 2, 6), ([9, 1, 1, 1], 2, 9), ([2, 4], 1, 6)],
)
def test_times_of_tasks(tasks, workers, seconds):
    assert Estimate("x", tasks).seconds(workers) == seconds


def test_the_plan_adds_up():
    estimates = [Estimate("a", [60, 60]), Estimate("b", [7])]
    plan = Plan(10, estimates, 2, 10**9, 2 * 10**9, 0, ["stage Toy"])
    assert plan.seconds == 77
    console = Console(record=True, width=80)
    show_plan(plan, console)
    text = console.export_text()
    for words in (
        "1:17 min",
        "2 at once",
        "at most 1.0 GB",
        "2.0 GB for each task",
        "Not estimated: stage Toy.",
    ):
        assert words in text


@pytest.mark.slow
def test_tasks_are_those_of_the_run(corpus, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    overrides = [
        "methods=[kd, {method: seqkd, student_start: teacher}]",
        "seeds=[1, 2]",
        "teacher.cache=true",
        "export.quantizations=[int8]",
    ]
    plan = plan_run(load_recipe("methods", [*settings(corpus), *overrides]), Console(quiet=True))
    counts = {estimate.stage: len(estimate.tasks) for estimate in plan.estimates}
    assert counts == {
        "training of the teacher": 1,
        "teacher's validation": 1,
        "teacher's translations": 1,
        "teacher's cache": 1,
        "starts of students": 1,
        "training of students": 4,
        "translations of the test set": 5,
        "exports": 4,
        "measurement of speeds": 1,
    }
    assert all(0 < seconds < math.inf for each in plan.estimates for seconds in each.tasks)
    assert 0 < plan.disk < 10**9
    assert 10**8 < plan.memory < 10**11
    assert [name for name in os.listdir(tmp_path) if not name.startswith("a2d-")] == []
    assert [files for _, _, files in os.walk(tmp_path) if files] == []


def test_mistakes_end_in_one_sentence(tmp_path):
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "none.yaml")])
    assert "none.yaml" in str(result.exception)
