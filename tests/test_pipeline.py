"""Whole runs: outputs, refused inputs, resumption."""

import base64
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sacrebleu.metrics import BLEU, CHRF
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import TERMS

from a2d import UserError
from a2d.runs.execution import carry_out
from a2d.runs.recipe import load_recipe
from a2d.text.corpus import read_corpus
from a2d.training import frozen
from a2d.training.finiteness import FinitenessWatch, NonFiniteError

TIMINGS = {"train_seconds", "sentences_per_second"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Write a few hundred real pairs as the three parts of a corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    pairs = [p for p in read_corpus("builtin:de-dsb/train") if 10 < len(p.source) < 50][:230]
    for name, part in {"train": pairs[:200], "valid": pairs[200:215], "test": pairs[215:]}.items():
        text = "".join(f"{pair.source}\t{pair.target}\n" for pair in part)
        (folder / f"{name}.tsv").write_text(text, "utf-8")
    return folder


def settings(corpus):
    return [
        *(f"corpus.{name}={corpus / name}.tsv" for name in ("train", "valid", "test")),
        "vocabulary.size=500",
        "teacher.shape.encoder_layers=2",
        "teacher.shape.decoder_layers=2",
        "teacher.shape.heads=2",
        "teacher.shape.width=16",
        "teacher.shape.feed_forward=32",
        "teacher.training.num_train_epochs=2",
        "students=[{encoder_layers: 1, decoder_layers: 1, heads: 4}]",
        "methods=[baseline, kd, a2d]",
        "training.num_train_epochs=2",
        "training.max_tokens=256",
        "training.evaluate_every=1",
        "training.bf16=false",
        "evaluation.beams=2",
    ]


def command(corpus, output):
    return [
        sys.executable,
        "-m",
        "a2d",
        "run",
        "methods",
        *settings(corpus),
        "--output",
        str(output),
    ]


def run(corpus, output, *overrides):
    recipe = load_recipe("methods", [*settings(corpus), "compute.parallel=1", *overrides])
    console = Console(record=True, width=100)
    carry_out(recipe, Path(output), console)
    return console.export_text()


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, run(corpus, folder)


def lines_of(path):
    return path.read_text("utf-8").split("\n")[:-1]


def test_a_training_that_diverged_is_set_aside(corpus, tmp_path, monkeypatch):
    healthy = FinitenessWatch.on_step_end

    def diverge(self, args, state, *rest, **kwargs):
        if state.global_step == 20:
            raise NonFiniteError("the training diverged.")
        healthy(self, args, state, *rest, **kwargs)

    monkeypatch.setattr(FinitenessWatch, "on_step_end", diverge)
    with pytest.raises(
        NonFiniteError, match=r"teacher: .* is now in .*/teacher\.partial\.diverged"
    ):
        run(corpus, tmp_path, "methods=[baseline]", "teacher.training.evaluate_every=1")
    assert os.listdir(tmp_path / "models") == ["teacher.partial.diverged"]
    assert list((tmp_path / "models").glob("*/checkpoints/checkpoint-*/model.safetensors"))


def test_results_hold_one_object_per_model(finished, corpus):
    folder, _ = finished
    results = json.loads((folder / "results/test/scores.json").read_text())
    assert [r["method"] for r in results] == ["teacher", "baseline", "kd", "a2d"]
    references = [p.target for p in read_corpus(corpus / "test.tsv")]
    for result in results:
        translations = folder / "translations/test" / result["name"]
        lines = lines_of(translations / "hypotheses.txt")
        assert len(lines) == len(references)
        assert result["bleu"] == pytest.approx(BLEU().corpus_score(lines, [references]).score)
        assert result["chrf"] == pytest.approx(CHRF().corpus_score(lines, [references]).score)
        scores = json.loads((translations / "scores.json").read_text())
        assert scores["signatures"].keys() == {"bleu", "chrf"}
        assert result["train_seconds"] > 0
        if len("".join(lines)) > len("".join(references)) / 5:
            assert result["sentences_per_second"] > 0
    teacher, *students = results
    assert teacher["student"] == "2+2x2"
    assert {(s["student"], s["parameters"]) for s in students} == {
        ("1+1x4", students[0]["parameters"])
    }


def test_report_shows_the_run(finished, corpus):
    folder, text = finished
    page = (folder / "report.html").read_text("utf-8")
    data = json.loads(re.search(r'<script id="page-data"[^>]*>(.*?)</script>', page, re.S)[1])
    assert [s["label"] for s in data["systems"]] == ["teacher", "baseline", "kd", "a2d"]
    scores = json.loads((folder / "results/test/scores.json").read_text())
    for system, row in zip(data["systems"], scores, strict=True):
        assert system["scores"] == {"bleu": row["bleu"], "chrf": row["chrf"]}
        assert system["parameters"] == row["parameters"]
    assert data["sources"] == [pair.source for pair in read_corpus(corpus / "test.tsv")]
    assert data["curves"].keys() == {"teacher", "baseline-1+1x4", "kd-1+1x4", "a2d-1+1x4"}
    validations = [sum("eval_chrf" in e for e in log) for log in data["curves"].values()]
    assert validations == [1, 2, 2, 2]  # the recipe's teacher is validated every 1.5 epochs
    (alignment,) = data["alignments"].values()
    assert {g: (len(a["weights"]), len(a["weights"][0])) for g, a in alignment.items()} == {
        "encoder": (4, 4),
        "decoder": (4, 4),
        "cross": (4, 4),
    }
    for sentence in data["attention"]:
        for group in sentence["groups"].values():
            for kind in ("teacher", "student", "aligned"):
                maps = group[kind]
                shape = maps["channels"], maps["queries"], maps["keys"]
                values = np.frombuffer(base64.b64decode(maps["maps"]), np.uint8).reshape(shape)
                sums = values.sum(-1, dtype=int)
                assert abs(sums - 255).max() <= maps["keys"] / 2  # rows of probabilities, rounded
    assert len(data["buckets"]) == 2
    assert "report.html" in text
    assert "pairs read" in page


def test_corpus_folder_has_the_held_out_sets(finished, corpus):
    folder, _ = finished
    for split in ("valid", "test"):
        pairs = read_corpus(corpus / f"{split}.tsv")
        sources, references = (
            lines_of(folder / f"corpus/{split}.{side}.txt") for side in ("source", "reference")
        )
        assert list(zip(sources, references, strict=True)) == [tuple(pair) for pair in pairs]


def test_history_has_seconds_and_device_of_a_training(finished):
    folder, _ = finished
    results = {r["name"]: r for r in json.loads((folder / "results/test/scores.json").read_text())}
    for path in folder.glob("models/*/history.json"):
        history = json.loads(path.read_text())
        seconds = [entry["seconds"] for entry in history["log"]]
        assert seconds == sorted(seconds)
        assert 0 < seconds[0] < seconds[-1] <= history["seconds"]
        result = results[path.parent.name]
        assert (result["train_seconds"], result["device"]) == (
            history["seconds"],
            history["device"],
        )
        assert history["device"].endswith("fp32")


def test_output_shows_table_samples_and_folder(finished):
    _, text = finished
    columns = ("method", "size", "params", "BLEU", "gain", "chrF", "speed", "training")
    for word in (*columns, "reference", "2+2×2", "1+1×4"):
        assert word in text
    assert "200 training pairs (200 read, dropped: none)" in text


def test_output_begins_with_the_log_and_has_lines_of_progress(finished):
    folder, text = finished
    lines = text.splitlines()
    assert lines[:2] == [f"Log: {folder / 'run.log'}", "Reading the corpus…"]
    for task in ("teacher", "kd-1+1x4-seed1", "translating: kd-1+1x4-seed1", "speed: 1+1x4"):
        progress = [line for line in lines if line.startswith(f"{task}: ")]
        assert "(0%)" in progress[0]
        assert "(100%)" in progress[-1]
        assert len(progress) < 20


def test_run_folder_holds_pictures_and_no_checkpoints(finished):
    folder, _ = finished
    assert (folder / "plots/curves.png").stat().st_size > 10_000
    assert (folder / "plots/scores-test.png").stat().st_size > 10_000
    assert [p.name for p in folder.glob("plots/alignment-*.png")] == [
        "alignment-a2d-1+1x4-seed1.png"
    ]
    assert not list(folder.rglob("checkpoint*"))
    log = (folder / "run.log").read_text().splitlines()
    assert any("eval_cross" in line for line in log)
    assert len(log) == len(set(log))


def test_tensorboard_shows_each_term_in_training_and_validation(finished):
    folder, _ = finished
    events = EventAccumulator(str(folder / "tensorboard/a2d-1+1x4-seed1")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"{part}/{term}" for part in ("train", "eval") for term in TERMS} <= tags
    assert "eval/bleu" in tags


def test_patience_ends_a_training_that_no_longer_improves(corpus, tmp_path):
    settings_without_progress = [
        "training.learning_rate=1e-12",
        "training.num_train_epochs=20",
        "training.early_stopping_patience=2",
    ]
    run(
        corpus,
        tmp_path / "run",
        *settings_without_progress,
        "teacher.training.num_train_epochs=1",
        "methods=[baseline]",
    )
    history = json.loads((tmp_path / "run/models/baseline-1+1x4-seed1/history.json").read_text())
    assert sum("eval_bleu" in entry for entry in history["log"]) == 3


def test_a_finished_run_is_only_reported_again(finished, corpus, monkeypatch):
    folder, text = finished
    before = {p: p.stat().st_mtime_ns for p in (folder / "models").rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("a2d.runs.run.read_splits", lambda recipe: 1 / 0)
        again = run(corpus, folder)
    assert "Already trained: teacher" in again
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert again.partition("Test set")[2] == text.partition("Test set")[2] != ""
    (folder / "corpus.json").unlink()
    assert run(corpus, folder).replace("Reading the corpus…\n", "") == again


def test_another_run_in_the_folder_is_refused_before_anything_is_touched(finished, corpus):
    folder, _ = finished
    before = contents(folder / "results/test")
    with pytest.raises(UserError, match=r"another run .*epochs is 2\.0 there, 5\.0 here"):
        run(corpus, folder, "training.num_train_epochs=5")
    assert contents(folder / "results/test") == before


@pytest.mark.full
def test_the_other_split_is_evaluated_beside_the_first(finished, corpus, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    folders = ("models", "translations/test", "results/test")
    before = [contents(tmp_path / "run" / name) for name in folders]
    assert "Validation set" in run(corpus, tmp_path / "run", "evaluation.split=valid")
    assert [contents(tmp_path / "run" / name) for name in folders] == before
    references = [p.target for p in read_corpus(corpus / "valid.tsv")]
    for result in json.loads((tmp_path / "run/results/valid/scores.json").read_text()):
        lines = lines_of(tmp_path / f"run/translations/valid/{result['name']}/hypotheses.txt")
        assert result["bleu"] == pytest.approx(BLEU().corpus_score(lines, [references]).score)


def test_more_methods_reuse_finished_stages(finished, corpus):
    folder, _ = finished
    before = (folder / "models/teacher/model.safetensors").stat().st_mtime_ns
    methods = "methods=[baseline, kd, a2d, {name: a2d-official, method: a2d, formula: official}]"
    text = run(corpus, folder, methods)
    assert "a2d-official" in text
    assert (folder / "models/teacher/model.safetensors").stat().st_mtime_ns == before


def test_a_cache_is_made_only_for_students_that_read_it(corpus, tmp_path):
    folder = tmp_path / "run"
    run(corpus, folder, "teacher.cache=true", "methods=[baseline]")
    assert not (folder / "cache").exists()
    text = run(corpus, folder, "teacher.cache=true", "methods=[baseline, kd]")
    cache = folder / "cache/tokens"
    size = sum(path.stat().st_size for path in cache.glob("*.npy"))
    shown = re.search(r"Teacher's cache: ([\d.]+) MB for", text)
    assert float(shown[1]) == pytest.approx(size / 1e6, rel=0.05)
    shutil.rmtree(cache)
    text = run(corpus, folder, "teacher.cache=true", "methods=[baseline, kd]")
    assert not cache.exists()
    assert "Teacher's cache" not in text
    run(corpus, folder, "teacher.cache=true", "methods=[baseline, kd, a2d+hidden]")
    assert (folder / "cache/tokens+states/hidden-encoder.npy").exists()


@pytest.mark.full
def test_a_damaged_cache_is_made_again(corpus, tmp_path):
    folder = tmp_path / "run"
    run(corpus, folder, "teacher.cache=true", "methods=[kd]")
    file = folder / "cache/tokens/cross.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    text = run(corpus, folder, "teacher.cache=true", "methods=[kd, a2d]")
    assert "is done again" in text.replace("\n", " ")
    assert file.read_bytes() == content


@pytest.mark.full
def test_the_precision_of_a_teacher_reaches_its_students(corpus, tmp_path, monkeypatch):
    quantised, quantise_layers = [], frozen.quantise_layers

    def record(model):
        quantised.append(model)
        quantise_layers(model)

    monkeypatch.setattr(frozen, "quantise_layers", record)
    logs = {}
    for name in ("float32", "int8"):
        run(corpus, tmp_path / name, f"teacher.precision={name}", "methods=[baseline, kd]")
        histories = (tmp_path / name).glob("models/*/history.json")
        logs[name] = {
            path.parent.name: [
                entry["loss"] for entry in json.loads(path.read_text())["log"] if "loss" in entry
            ]
            for path in histories
        }
    assert len(quantised) == 1  # the baseline has no teacher
    assert logs["int8"]["kd-1+1x4-seed1"] != logs["float32"]["kd-1+1x4-seed1"]
    assert logs["int8"]["kd-1+1x4-seed1"] == pytest.approx(
        logs["float32"]["kd-1+1x4-seed1"], rel=0.02
    )
    for name in ("teacher", "baseline-1+1x4-seed1"):
        assert logs["int8"][name] == logs["float32"][name]


def test_skipped_entries_cause_a_warning_and_change_nothing(finished, corpus, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    data = tmp_path / "train.tsv"
    data.write_text((corpus / "train.tsv").read_text("utf-8") + "no pair\n", "utf-8")
    text = run(corpus, folder, f"corpus.train={data}")
    assert "train: 1 of 201 entries are malformed and were skipped" in text
    assert "1 of 201 entries" in (folder / "run.log").read_text("utf-8")
    assert "Already trained: teacher, baseline" in text


def test_bad_input_stops_before_training(corpus, tmp_path):
    cases = {
        "corpus.train=missing.tsv": "missing.tsv",
        "vocabulary.size=9000": "too small for a vocabulary of 9000",
        "training.max_tokens=8": "does not fit max_tokens=8",
        "teacher.training.max_tokens=512 training.max_tokens=9": "does not fit max_tokens=9",
    }
    for number, (override, message) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        with pytest.raises(UserError, match=message):
            run(corpus, folder, *override.split(" "))
        assert not list(folder.glob("models/*/model.safetensors"))


def test_a_full_disk_is_noticed_before_anything_is_written(corpus, tmp_path, monkeypatch):
    usage = os.statvfs(tmp_path)
    free = type("Usage", (), {"free": 1_000_000, "total": usage.f_blocks, "used": 0})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(UserError, match=r"not enough disk space: the run needs about 51 MB"):
        run(corpus, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pretrained_teacher_brings_its_vocabulary(finished, corpus, tmp_path):
    folder, _ = finished
    shape = "{encoder_layers: 1, decoder_layers: 1, heads: 2, width: 16, feed_forward: 32}"
    text = run(
        corpus,
        tmp_path / "run",
        f"teacher={{path: {folder / 'models/teacher'}}}",
        f"students=[{shape}]",
        "methods=[a2d]",
    )
    shutil.copytree(folder / "models/teacher", tmp_path / "broken")
    (tmp_path / "broken/model.safetensors").rename(tmp_path / "broken/pytorch_model.bin")
    broken = f"teacher={{path: {tmp_path / 'broken'}}}"
    with pytest.raises(UserError, match="no readable safetensors weights"):
        run(corpus, tmp_path / "unread", broken, f"students=[{shape}]")
    assert not list(tmp_path.glob("unread/models/*/model.safetensors"))
    with pytest.raises(UserError, match="no model at 'nowhere'"):
        run(corpus, tmp_path / "none", "teacher={path: nowhere}", f"students=[{shape}]")
    row = next(line for line in text.splitlines() if line.startswith("teacher  "))
    assert row.split()[-1] == "–"  # training time
    other = tmp_path / "run/vocabulary/tokenizer.json"
    assert json.loads(other.read_text()) == json.loads(
        (folder / "vocabulary/tokenizer.json").read_text()
    )


def outputs(folder):
    """Collect the outputs that interruptions must not change."""
    patterns = ["models/*/*.safetensors", "distilled/shard-*.jsonl", "results/test/**/*.gz"]
    patterns += ["translations/test/*/hypotheses.txt"]
    matches = [list(folder.glob(pattern)) for pattern in patterns]
    assert all(matches)
    files = [file for match in matches for file in match]
    results = json.loads((folder / "results/test/scores.json").read_text())
    scores = [{k: v for k, v in r.items() if k not in TIMINGS} for r in results]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}, scores
