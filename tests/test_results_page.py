"""docs/results.md contains exactly the figures of the files in results/."""

import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from a2d.runs import results
from a2d.runs.results import Row
from a2d.text.evaluation import score

ROOT = Path(__file__).parent.parent
REFERENCES = ["a b c d e f", "g h i j k", "l m n o p q"]
HYPOTHESES = {
    "teacher": REFERENCES,
    "kd-1": ["a b c d e x", "g h i j k", "l m n o p q"],
    "kd-2": ["a b c d x f", "g h i j k", "l m n o p q"],
    "a2d-1": ["a b c d e f", "g h i j x", "l m n o p q"],
}


@pytest.fixture(scope="module")
def page():
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "tools/results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    monkeypatch.undo()


def row(name, lines):
    method, _, seed = name.partition("-")
    scores = score(lines, REFERENCES)
    return Row(
        name=name,
        pair="de-dsb",
        method=method,
        setting="",
        student="3+3x8",
        seed=int(seed or 1),
        parameters=1_900_000,
        bleu=scores.bleu,
        chrf=scores.chrf,
        gain_vs_baseline=None,
        p_vs_baseline=None,
        gain_vs_kd=1.25 if method == "a2d" else None,
        p_vs_kd=0.01 if method == "a2d" else None,
        sentences_per_second=10.0,
        train_seconds=60.0,
        device="a machine",
    )


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, HYPOTHESES)
    curve = {"step": 5, "epoch": 1, "eval_bleu": 3.0}
    curves = [{"name": n, "seconds": s, **curve} for n, s in (("kd-1", 10), ("kd-2", 30))]
    results.write_csv(tmp_path / "curves.csv", curves)
    return tmp_path


ABOUT = {
    "measured": "test",
    "command": "a2d run x.yaml",
    "curves": ["kd"],
}


def test_an_experiment_has_every_figure(page, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "PICTURES", tmp_path / "pictures")
    figures, facts = page.experiment(folder, ABOUT)
    text = figures + facts
    kd = [row(name, HYPOTHESES[name]).bleu for name in ("kd-1", "kd-2")]
    assert f"| kd | 3+3×8 | 1.9M | 2 | {sum(kd) / 2:.2f} ± " in text.replace("**", "")
    assert text.count("**") == 2  # the best student's BLEU
    assert "| +1.25 (1/1) | 0:01:00 |" in text
    assert "Training time of all models together: 0:04:00." in text
    for part in ("a2d run x.yaml", "a machine"):
        assert part in text
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [f"{folder.name}-curves.png", f"{folder.name}.png"]


def write_run(folder, names):
    (folder / "hypotheses").mkdir(parents=True)
    rows = [row(name, HYPOTHESES[name]) for name in names]
    (folder / "scores.json").write_text(json.dumps([asdict(r) for r in rows]))
    for name in names:
        results.write_compressed(folder / f"hypotheses/{name}.txt.gz", HYPOTHESES[name])
    results.write_compressed(folder / "references.txt.gz", REFERENCES)


def test_runs_of_an_experiment_share_a_table(page, tmp_path):
    write_run(tmp_path / "one", ["teacher", "kd-1", "a2d-1"])
    write_run(tmp_path / "two", ["teacher", "kd-2"])
    rows = page.read([tmp_path / "one", tmp_path / "two"], {"kd-2": "alpha=0.5"})
    assert [r.name for r in rows] == ["teacher", "kd-1", "a2d-1", "kd-2"]
    assert [r.setting for r in rows] == ["", "", "", "alpha=0.5"]


def test_runs_under_other_teachers_are_refused(page, tmp_path, monkeypatch):
    write_run(tmp_path / "one", ["teacher", "kd-1"])
    monkeypatch.setitem(HYPOTHESES, "teacher", HYPOTHESES["kd-2"])
    write_run(tmp_path / "two", ["teacher", "kd-2"])
    with pytest.raises(SystemExit, match="teacher has another BLEU"):
        page.read([tmp_path / "one", tmp_path / "two"], {})


def test_every_experiment_has_its_regions(page):
    folders = {path.parent.name for path in (ROOT / "results").glob("*/about.yaml")}
    expected = folders | {f"{name} command" for name in folders}
    assert sorted(page.regions.names(page.PAGE)) == sorted(expected)


def test_only_regions_are_filled(page, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("A.\n<!-- fill: x -->\nold\n<!-- end -->\nB.\n<!-- fill: y -->\n<!-- end -->\n")
    page.regions.fill(path, {"x": "new"}.get)
    text = path.read_text()
    assert "\nnew\n" in text
    assert "old" not in text
    assert text.startswith("A.")
    assert text.endswith("B.\n<!-- fill: y -->\n<!-- end -->\n")


def test_recovered_is_the_share_of_the_teachers_lead(page):
    scores = [("baseline", 11.0), ("a2d", 14.0), ("kd", 10.0)]
    rows = [replace(row(f"{name}-1", REFERENCES), bleu=bleu) for name, bleu in scores]
    baseline, a2d, kd = results.group_rows(rows)
    assert page.recovered(a2d, baseline, 17.0) == "50%"
    assert page.recovered(kd, baseline, 17.0) == "-17%"
    assert page.recovered(baseline, baseline, 17.0) == ""
    assert page.recovered(a2d, baseline, 11.0) == ""  # a teacher no better than the students
    assert page.recovered(a2d, None, 17.0) == page.recovered(a2d, baseline, None) == ""


def test_curves_are_means_over_seeds(page, folder):
    assert dict(page.curves(folder, results.read(folder), ["kd"])) == {"kd": [(20.0, 3.0)]}


def test_translations_that_score_otherwise_stop_it(page, folder):
    results.write_compressed(folder / "hypotheses/a2d-1.txt.gz", REFERENCES)
    with pytest.raises(SystemExit, match=r"a2d-1 scores 100\.0000 BLEU"):
        page.check(folder, results.read(folder))


def test_duels_are_between_students_of_one_seed(page, folder):
    rows = [replace(r, name=r.name.replace("-", "-3+3x8-seed")) for r in results.read(folder)]
    for path in (folder / "hypotheses").glob("*-*"):
        path.rename(path.with_name(path.name.replace("-", "-3+3x8-seed")))
    (line,) = page.duels(folder, rows, [("a2d", "kd")])
    gain = score(HYPOTHESES["a2d-1"], REFERENCES).bleu - score(HYPOTHESES["kd-1"], REFERENCES).bleu
    assert line.startswith(f"`a2d` over `kd`: {gain:+.2f} (")
    assert line.endswith("/1)")


def test_ranking_has_gaps_and_ranks(page):
    bleu = {
        "kd": {"3+3x8": (10.0, 11.0), "2+1x8": (5.0, 5.0)},
        "a2d": {"3+3x8": (12.0, 11.0), "2+1x8": (6.0, 4.0)},
    }
    rows = [replace(row("teacher", REFERENCES), student="6+6x4")]
    rows += [
        replace(
            row(f"{method}-{seed}", REFERENCES), student=shape, seed=seed, bleu=scores[seed - 1]
        )
        for method, shapes in bleu.items()
        for shape, scores in shapes.items()
        for seed in (1, 2)
    ]
    head, _, first, second = page.ranking(rows).split("\n")
    assert head.split(" | ")[1:3] == ["3+3×8", "2+1×8"]
    # Gaps of a2d: 0, 0, 0, 1; of kd: 2, 0, 1, 0. Ranks of a2d: 1, 1, 1, 2; of kd: 2, 1, 2, 1.
    assert first == "| `a2d` | 0.00 | 0.50 | 0.25 (0.00 to 0.75) | 1.2 |"
    assert second == "| `kd` | 1.00 | 0.50 | 0.75 (0.00 to 1.50) | 1.5 |"


def test_a_method_that_lacks_a_training_cannot_be_ranked(page):
    rows = [replace(row(f"kd-{seed}", REFERENCES), seed=seed, bleu=1.0) for seed in (1, 2)]
    rows.append(replace(row("a2d-1", REFERENCES), method="a2d", bleu=2.0))
    with pytest.raises(AssertionError):
        page.ranking(rows)
