"""Results of a run are complete, reproducible and equal to those of sacreBLEU."""

import csv
import gc
import gzip
import io
import json
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from rich.console import Console
from runs import run_of
from sacrebleu.metrics import BLEU, CHRF
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from a2d.models.decoding import n_best
from a2d.runs import plots, report, results, training
from a2d.runs.energy import EnergyMeter
from a2d.runs.environment import resolve
from a2d.runs.execution import carry_out
from a2d.runs.labels import distinctive_settings
from a2d.runs.lines import read_lines
from a2d.runs.recipe import Recipe, load_recipe
from a2d.runs.results import Row, group_rows
from a2d.runs.splits import Splits, read_splits
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.speed import read_speeds
from a2d.runs.stages.students import Student, models_of, trained_models_of
from a2d.runs.stages.translations import HYPOTHESES, SCORES, teacher_translations, translations_of
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.text import evaluation
from a2d.text.cleaning import CleaningReport
from a2d.text.corpus import read_corpus
from a2d.text.evaluation import SIGNIFICANT, p_values
from a2d.text.pairs import Pair

REFERENCES = [pair.target for pair in read_corpus("builtin:de-dsb/test")[:80]]
METHODS = ["baseline", "kd", "seqkd", "a2d", "a2d"]


def corrupt(lines, share, seed=0):
    """Imitate translations: in a share of the lines, another word replaces the first."""
    rng = random.Random(seed)
    return [f"{line.partition(' ')[2]} wopaki" if rng.random() < share else line for line in lines]


class TestSignificance:
    SYSTEMS = tuple(corrupt(REFERENCES, *x) for x in ((0.5, 0), (0.4, 1), (0.9, 2), (0.45, 3)))

    def test_equals_the_command_line(self, tmp_path):
        texts = {"references": REFERENCES, **dict(zip("abcd", self.SYSTEMS, strict=True))}
        for name, lines in texts.items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        options = [*"abcd", "--paired-bs", "-m", "bleu", "-f", "json"]
        output = subprocess.run(
            [sys.executable, "-m", "sacrebleu", "references", "-i", *options],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        ).stdout
        first, *rivals = json.loads(output)
        expected = {system["system"]: system["BLEU"]["p_value"] for system in rivals}
        systems = dict(zip("bcd", self.SYSTEMS[1:], strict=True))
        assert p_values(self.SYSTEMS[0], systems, REFERENCES) == expected
        assert first["BLEU"]["p_value"] is None
        # Some systems differ significantly, others do not.
        assert min(expected.values()) < SIGNIFICANT < max(expected.values()) < 1

    def test_of_no_systems(self):
        assert p_values(REFERENCES, {}, REFERENCES) == {}

    def test_does_not_depend_on_the_other_systems(self):
        first, second, third, _ = self.SYSTEMS
        together = p_values(first, {"second": second, "third": third}, REFERENCES)
        assert together == {
            **p_values(first, {"second": second}, REFERENCES),
            **p_values(first, {"third": third}, REFERENCES),
        }


def row(bleu=1.0, **values):
    defaults = {
        "name": "n",
        "pair": "de-dsb",
        "method": "a2d",
        "setting": "",
        "student": "2+1x8",
        "seed": 1,
        "parameters": 1,
        "bleu": bleu,
        "chrf": 20.0,
        "gain_vs_baseline": 0.5,
        "p_vs_baseline": 0.01,
        "gain_vs_kd": None,
        "p_vs_kd": None,
        "sentences_per_second": 5.0,
        "train_seconds": 60.0,
        "device": "cpu",
    }
    return Row(**defaults | values)


class TestGroups:
    def test_have_rows_that_differ_only_in_the_seed(self):
        rows = [
            row(method="teacher"),
            row(seed=1),
            row(setting="beta=2", seed=1),
            row(student="1+1x4"),
            row(seed=2),
            row(setting="beta=2", seed=2),
        ]
        groups = {(group.label, group.student): group.rows for group in group_rows(rows)}
        assert list(groups) == [  # in order of appearance
            ("teacher", "2+1x8"),
            ("a2d", "2+1x8"),
            ("a2d beta=2", "2+1x8"),
            ("a2d", "1+1x4"),
        ]
        assert [[r.seed for r in group] for group in groups.values()] == [[1], [1, 2], [1, 2], [1]]

    def test_mean_and_sample_deviation(self):
        (group,) = group_rows(row(bleu) for bleu in (1.5, 4.0, 2.25))
        assert group.mean("bleu") == pytest.approx(np.mean([1.5, 4.0, 2.25]))
        assert group.deviation("bleu") == pytest.approx(np.std([1.5, 4.0, 2.25], ddof=1))
        assert group.deviation("chrf") == 0

    def test_one_seed_does_not_deviate(self):
        (group,) = group_rows([row(3.0)])
        assert (group.mean("bleu"), group.deviation("bleu")) == (3.0, 0.0)

    def test_count_significant_seeds(self):
        (group,) = group_rows(row(p_vs_baseline=p) for p in (0.049, 0.05, 0.001))
        assert group.count_significant("baseline") == 2
        assert group.count_significant("kd") is None


class TestSpeedUp:
    def test_is_over_the_teacher(self):
        (teacher,) = group_rows([row(method="teacher", sentences_per_second=4.0)])
        (group,) = group_rows(row(sentences_per_second=speed) for speed in (8.0, 10.0))
        assert group.speed_up(teacher) == 9 / 4

    @pytest.mark.parametrize("speeds", [(None, 5.0), (5.0, None), (None, None)])
    def test_is_none_without_a_measurement(self, speeds):
        teacher, group = (group_rows([row(sentences_per_second=speed)])[0] for speed in speeds)
        assert group.speed_up(teacher) is None


class TestTable:
    def lines(self, rows, width=80):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(report.table(rows, "Test set"))
        return console.export_text().splitlines()

    def test_of_long_names_several_seeds_and_widths_fits_80_columns(self):
        columns = {"parameters": 123_400_000, "gain_vs_baseline": 10.25, "train_seconds": 1e5}
        columns |= {"student": "12+12x16+8-1024-4096", "sentences_per_second": 52.0}
        rows = [row(30.0, method="teacher", **columns | {"student": "12+12x16-1024-4096"})]
        for setting in ("", "alignment_learning_rate=0.01 student_start=teacher decay=0.7"):
            rows += [
                row(20.0 + seed, method="seqkd+a2d+hidden", seed=seed, setting=setting, **columns)
                for seed in (1, 2, 3)
            ]
        lines = self.lines(rows)
        assert max(map(len, lines)) <= 80
        text = "\n".join(lines)
        assert "…" not in text
        for cell in ("123.4M", "22.00 ± 1.00", "+10.25*", "20.00", "1.00×", "27:46:40"):
            assert text.count(cell) >= 2, cell
        assert "1024-4096" in text
        assert any(line.startswith("seqkd+a2d+hidden ") for line in lines)

    def test_has_dashes_for_unknown_figures(self):
        teacher = row(method="teacher", train_seconds=None)
        *_, first, second = self.lines([teacher, row(sentences_per_second=None)])
        assert first.split()[-2:] == ["1.00×", "–"]
        assert second.split()[-2:] == ["–", "0:01:00"]


class TestCompressed:
    LINES = ("a", "", "dolnoserbšćina", "x\u2028y\u0085z")

    def test_reads_the_lines_of_a_file(self, tmp_path):
        results.write_compressed(tmp_path / "a.gz", self.LINES)
        assert results.read_compressed(tmp_path / "a.gz") == list(self.LINES)

    def test_is_plain_gzip(self, tmp_path):
        results.write_compressed(tmp_path / "a.gz", self.LINES)
        with gzip.open(tmp_path / "a.gz", "rt", encoding="utf-8", newline="\n") as file:
            assert file.read() == "".join(f"{line}\n" for line in self.LINES)

    def test_the_same_lines_give_the_same_bytes_at_any_time(self, tmp_path, monkeypatch):
        results.write_compressed(tmp_path / "a.gz", self.LINES)
        monkeypatch.setattr("time.time", lambda: 2e9)
        results.write_compressed(tmp_path / "b.gz", self.LINES)
        assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def tiny_recipe(folder, *overrides):
    """Load a recipe with every kind of method and two seeds, for a few dozen pairs."""
    pairs = [p for p in read_corpus("builtin:de-dsb/train") if 8 < len(p.source) < 20][:84]
    for name, part in {"train": pairs[:60], "valid": pairs[60:72], "test": pairs[72:]}.items():
        text = "".join(f"{pair.source}\t{pair.target}\n" for pair in part)
        (folder / f"{name}.tsv").write_text(text, "utf-8")
    layers = "encoder_layers: 1, decoder_layers: 1"
    return load_recipe(
        "methods",
        [
            *(f"corpus.{name}={folder / name}.tsv" for name in ("train", "valid", "test")),
            "vocabulary.size=320",
            f"teacher.shape={{{layers}, heads: 2, width: 16, feed_forward: 16}}",
            "teacher.training={num_train_epochs: 2, evaluate_every: 1}",
            f"students=[{{{layers}, heads: 4}}]",
            "methods=[baseline, kd, seqkd, {method: a2d, beta: [2, 0.5]}]",
            "seeds=[1, 2]",
            "training={num_train_epochs: 1, max_tokens: 512, learning_rate: 0.01, warmup_steps: 0}",
            "compute.parallel=1",
            "evaluation={split: valid, beams: 1}",
            *overrides,
        ],
    )


class FinishedRun:
    """A finished run and the labels that each of its models was trained on."""

    def __init__(self, folder):
        self.folder = folder / "run"
        self.recipe = resolve(tiny_recipe(folder), self.folder)
        self.splits = read_splits(self.recipe)
        self.run = run_of(self.recipe, self.folder, self.splits)
        self.labels = {}

        class RecordingTrainer(training.A2DTrainer):
            def train(trainer, *args, **kwargs):
                name = Path(trainer.args.output_dir).parent.name.removesuffix(".partial")
                self.labels[name] = trainer.train_dataset["labels"][:]
                return super().train(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "A2DTrainer", RecordingTrainer)
            for picture in ("curves", "scores", "alignment"):  # drawing is slow
                patch.setattr(plots, picture, lambda *_: None)
            gc.freeze()  # every training collects garbage, which takes as long as the training
            carry_out(self.recipe, self.folder, Console(record=True, width=100))
            gc.unfreeze()
        self.rows = results.read(self.folder / "results/valid")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return FinishedRun(tmp_path_factory.mktemp("results"))


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


class TestFinishedRun:
    def test_has_a_row_per_model_the_teacher_first(self, finished):
        assert [row.name for row in finished.rows] == [
            model.name for model in models_of(finished.run)
        ]
        assert [row.method for row in finished.rows] == ["teacher", *np.repeat(METHODS, 2)]
        assert [row.seed for row in finished.rows[1:]] == [1, 2] * 5

    def test_students_of_one_shape_are_measured_once(self, finished):
        (path,) = (finished.folder / "speed/valid").glob("*/speed.json")
        figures = json.loads(path.read_text())
        speeds = read_speeds(finished.run)
        teacher = speeds.pop("teacher")
        assert teacher == figures["teacher_sentences_per_second"] > 0
        assert speeds.keys() == {model.name for model in finished.run.all(Student)}
        assert set(speeds.values()) == {figures["speed_up"] * teacher}

    def test_only_translations_have_a_speed(self, finished):
        model = finished.run.all(Student)[0]
        path = translations_of(finished.run)[model.name].folder / HYPOTHESES
        text = path.read_text("utf-8")
        references = [pair.target for pair in finished.splits.valid]
        rows = []
        try:
            for lines in (references, ["", *[line[:1] for line in references[1:]]]):
                path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
                rows += [r for r in results.collect(finished.run) if r.name == model.name]
        finally:
            path.write_text(text, "utf-8")
        assert rows[0].sentences_per_second == read_speeds(finished.run)[model.name]
        assert rows[1].sentences_per_second is None

    def test_settings_name_what_differs_between_rows(self, finished):
        groups = group_rows(finished.rows)
        assert [group.label for group in groups] == [
            "teacher",
            "baseline",
            "kd",
            "seqkd",
            "a2d beta=2.0",
            "a2d beta=0.5",
        ]
        assert {len(group.rows) for group in groups[1:]} == {2}

    def test_rows_are_read_as_they_were_collected(self, finished):
        assert results.collect(finished.run) == finished.rows

    def test_rows_of_later_versions_are_read(self, finished, tmp_path):
        records = [asdict(row) | {"comet": 0.5} for row in finished.rows]
        (tmp_path / "scores.json").write_text(json.dumps(records))
        assert results.read(tmp_path) == finished.rows

    def test_table_of_scores_is_tidy(self, finished):
        records = read_csv(finished.folder / "results/valid/scores.csv")
        for record, row in zip(records, finished.rows, strict=True):
            assert record == {k: "" if v is None else str(v) for k, v in asdict(row).items()}
            assert float(record["bleu"]) == row.bleu  # no digit is lost

    def test_rescored_hypotheses_have_the_scores_of_the_table(self, finished):
        folder = finished.folder / "results/valid"
        references = gzip.decompress((folder / "references.txt.gz").read_bytes()).decode()
        references = references.split("\n")[:-1]
        assert references == [pair.target for pair in finished.splits.valid]
        for record in read_csv(folder / "scores.csv"):
            content = (folder / "hypotheses" / f"{record['name']}.txt.gz").read_bytes()
            lines = gzip.decompress(content).decode().split("\n")[:-1]
            assert lines == read_lines(
                finished.folder / f"translations/valid/{record['name']}/{HYPOTHESES}"
            )
            bleu, chrf = (m.corpus_score(lines, [references]).score for m in (BLEU(), CHRF()))
            assert float(record["bleu"]) == pytest.approx(bleu, abs=1e-9)
            assert float(record["chrf"]) == pytest.approx(chrf, abs=1e-9)

    def test_curves_hold_every_validation_of_every_training(self, finished):
        records = read_csv(finished.folder / "results/valid/curves.csv")
        assert all("" not in record.values() for record in records)
        epochs = [(record["name"], float(record["epoch"])) for record in records]
        students = [(model.name, 1) for model in finished.run.all(Student)]
        assert epochs == [("teacher", 1), ("teacher", 2), *students]
        first, second = (float(record["seconds"]) for record in records[:2])
        assert 0 < first < second <= finished.rows[0].train_seconds

    def test_plots_have_every_validation_and_logged_step(self, finished):
        curves = results.mean_curves(finished.run)
        names = {
            model.name.rpartition("-seed")[0] or model.name
            for model in trained_models_of(finished.run)
        }
        assert curves.keys() == names
        for model in trained_models_of(finished.run):
            points = curves[model.name.rpartition("-seed")[0] or model.name]
            for key in ("eval_bleu", "eval_ce", "ce"):
                epochs = [e["epoch"] for e in results.history(model)["log"] if key in e]
                assert [e["epoch"] for e in points if key in e] == epochs

    def test_names_recipe_signatures_and_versions(self, finished):
        record = json.loads((finished.folder / "results/valid/run.json").read_text("utf-8"))
        assert Recipe.model_validate(record["recipe"]) == finished.recipe
        assert record["signatures"] == evaluation.score(["a"], ["a"]).signatures
        assert record["versions"].keys() >= {"a2d", "torch", "transformers", "sacrebleu"}

    def test_writing_again_gives_the_same_bytes(self, finished, tmp_path):
        with EnergyMeter([]) as meter:
            results.write(tmp_path, finished.rows, finished.run, meter)
        (finished.folder / "results/valid" / results.ENERGY).unlink(missing_ok=True)
        assert contents(tmp_path) == contents(finished.folder / "results/valid")


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestSettings:
    """Settings in the labels of rows, for the methods of a recipe."""

    @pytest.mark.parametrize(
        ("methods", "labels"),
        [
            ("[kd, a2d]", ["kd", "a2d"]),
            ("[{method: a2d, beta: [1, 3]}]", ["a2d beta=1.0", "a2d beta=3.0"]),
            ("[{method: a2d, beta: 1, decay: 0.5}]", ["a2d"]),
            (
                "[{method: kd, student_start: teacher}, {method: a2d, student_start: teacher}]",
                ["kd", "a2d"],
            ),
            (
                "[baseline, {method: a2d, student_start: teacher}]",
                ["baseline", "a2d student_start=teacher"],
            ),
            (
                "[kd, a2d, {method: a2d, name: b, student_start: teacher, beta: 1, alpha: 0.5}]",
                ["kd", "a2d", "a2d beta=1.0 student_start=teacher"],
            ),
            # Only a2d has a beta.
            ("[baseline, kd, {method: a2d, beta: 1}]", ["baseline", "kd", "a2d"]),
            (
                "[{method: kd, alpha: 0.1}, {method: a2d, alpha: 0.9}]",
                ["kd alpha=0.1", "a2d alpha=0.9"],
            ),
            (
                "[{method: a2d, beta: [1, 3], decay: [1, 0.5]}]",
                ["a2d beta=1.0", "a2d beta=1.0 decay=0.5", "a2d", "a2d decay=0.5"],
            ),
        ],
    )
    def test_are_those_that_differ(self, methods, labels, tmp_path):
        recipe = load_recipe("methods", [f"methods={methods}", "seeds=[1, 2]"])
        splits = Splits([Pair("a", "b")], [], [], CleaningReport(1, {}, 1))
        students = run_of(recipe, tmp_path, splits).all(Student)
        settings = distinctive_settings(students, recipe.distillation)
        actual = [f"{model.method.method} {settings[model.name]}".strip() for model in students]
        assert actual == list(np.repeat(labels, 2))


class TestSequenceLevelDistillation:
    def test_has_the_teachers_translation_of_every_training_source(self, finished):
        sources = [pair.source for pair in finished.splits.train]
        folder = finished.run.one(Teacher).folder
        tokenizer = AutoTokenizer.from_pretrained(folder)
        teacher = AutoModelForSeq2SeqLM.from_pretrained(folder)
        hypotheses = n_best(teacher, tokenizer, sources, 1, beams=1, max_tokens=4096, cut=True)
        assert shard(finished) == [" ".join(text.split()) for (text,) in hypotheses]
        distilled = load_from_disk(str(finished.run.one(Sequences).folder))
        # Empty translations are left out.
        pairs = [(s, t) for s, t in zip(sources, shard(finished), strict=True) if t]
        assert distilled["input_ids"][:] == tokenizer([s for s, _ in pairs])["input_ids"]
        assert distilled["labels"][:] == tokenizer([t for _, t in pairs])["input_ids"]

    def test_only_its_students_learn_from_translations(self, finished):
        tokenizer = AutoTokenizer.from_pretrained(finished.run.one(Vocabulary).folder)
        references = [pair.target for pair in finished.splits.train]
        assert shard(finished) != references
        assert finished.labels.keys() == {model.name for model in trained_models_of(finished.run)}
        for name, labels in finished.labels.items():
            translations = [text for text in shard(finished) if text]
            texts = translations if name.startswith("seqkd") else references
            assert labels == tokenizer(texts)["input_ids"], name


def shard(finished):
    """Read the translations of the training source, which fit into one shard."""
    (path,) = finished.run.one(Sequences).folder.glob("shard-*.jsonl")
    lines = path.read_text("utf-8").split("\n")[:-1]
    return [json.loads(line)["translation"] for line in lines]


class TestComparisons:
    """Comparisons of students of two sizes and two seeds with different translations."""

    @pytest.fixture(scope="class")
    @classmethod
    def recipe(cls, tmp_path_factory):
        sizes = "students=[{encoder_layers: 1, heads: 4}, {encoder_layers: 1, heads: 2}]"
        from_teacher = [
            f"{{method: {m}, name: {m}from, student_start: teacher}}" for m in ("a2d", "kd")
        ]
        methods = f"methods=[a2d, baseline, kd, {', '.join(from_teacher)}]"
        return tiny_recipe(tmp_path_factory.mktemp("recipe"), sizes, methods)

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, finished, recipe, tmp_path_factory):
        run = run_of(recipe, tmp_path_factory.mktemp("compared"), finished.splits)
        shutil.copytree(finished.run.one(Corpus).folder, run.one(Corpus).folder)
        for seed, model in enumerate(models_of(run)):
            translations = translations_of(run)[model.name].folder
            shutil.copytree(finished.run.one(Teacher).folder, model.folder)
            shutil.copytree(teacher_translations(finished.run).folder, translations)
            lines = corrupt([pair.target for pair in finished.splits.valid], 0.5, seed)
            text = "".join(f"{line}\n" for line in lines)
            (translations / HYPOTHESES).write_text(text, "utf-8")
            scores = translations / SCORES
            scores.write_text(json.dumps(json.loads(scores.read_text()) | {"bleu": seed**2}))
        return run

    @pytest.mark.parametrize("rival", ["baseline", "kd"])
    def test_are_with_the_rival_of_the_same_size_seed_and_start(self, run, rival, monkeypatch):
        monkeypatch.setattr(evaluation, "RESAMPLES", 100)
        rows = results.collect(run)
        references = read_lines(run.one(Corpus).folder / "valid.reference.txt")
        texts = {name: stage.hypotheses for name, stage in translations_of(run).items()}
        bleu = {row.name: row.bleu for row in rows}
        expected, gains = dict.fromkeys(texts), dict.fromkeys(texts)
        for name in texts:
            method, _, suffix = name.partition("-")
            opponent = "kdfrom" if rival == "kd" and "from" in method else rival
            if method not in ("teacher", opponent):
                baseline = texts[f"{opponent}-{suffix}"]
                expected[name], *_ = p_values(baseline, {"": texts[name]}, references).values()
                gains[name] = bleu[name] - bleu[f"{opponent}-{suffix}"]
        assert {row.name: getattr(row, f"p_vs_{rival}") for row in rows} == expected
        assert {row.name: getattr(row, f"gain_vs_{rival}") for row in rows} == gains
        assert len(set(expected.values())) > 5  # otherwise confused names would pass

    def test_are_left_out_without_a_rival(self, run, recipe):
        methods = [method for method in recipe.methods if method.method == "a2d"]
        recipe = recipe.model_copy(update={"methods": methods})
        rows = results.collect(run_of(recipe, run.folder, run.splits))
        assert {(row.p_vs_baseline, row.p_vs_kd) for row in rows} == {(None, None)}
