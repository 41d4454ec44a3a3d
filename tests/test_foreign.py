"""Teachers that a2d cannot load, in whole runs; monolingual text with other teachers."""

import csv
import json
import re
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest
from datasets import load_from_disk
from pretrained import PAIRS, released
from rich.console import Console
from runs import run_of
from sacrebleu.metrics import BLEU, CHRF

from a2d import UserError
from a2d.models.decoding import translate
from a2d.models.tokenizer import load_tokenizer
from a2d.runs import results, shards, training
from a2d.runs.execution import carry_out
from a2d.runs.lines import one_line
from a2d.runs.parts import DISTILLED, MONOLINGUAL, PARALLEL
from a2d.runs.recipe import load_recipe
from a2d.runs.splits import read_splits
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.students import Student
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.text.batching import load_tokens

SHARD = 25
SYSTEM = """
import pathlib, sys
lines = sys.stdin.read().splitlines()
calls = pathlib.Path(__file__).with_name("calls")
calls.write_text(calls.read_text() + f"{len(lines)}\\n" if calls.exists() else f"{len(lines)}\\n")
fails = pathlib.Path(__file__).with_name("fails-at")
if fails.exists() and len(calls.read_text().split()) >= int(fails.read_text()):
    sys.exit("out of order")
for line in lines:
    print("" if "EMPTY" in line else line.swapcase())
"""
SHAPE = "{encoder_layers: 1, decoder_layers: 1, heads: 2, width: 16, feed_forward: 16}"
BOTH = "{method: seqkd+references, monolingual: [false, true]}"


class Stop(Exception):
    """Exception that ends a run before its students are trained."""


class Setup:
    """60 training pairs, monolingual text, and a translation system that swaps the case."""

    def __init__(self, folder):
        self.folder = folder
        self.parts = {"train": PAIRS[:60], "valid": PAIRS[60:85], "test": PAIRS[85:110]}
        for name, part in self.parts.items():
            self.write(f"{name}.tsv", part)
        self.monolingual = [pair.source for pair in PAIRS[110:140]]
        repeated = [
            PAIRS[0].source,
            PAIRS[60].source.upper(),
            PAIRS[85].source,
            self.monolingual[0],
        ]
        (folder / "alone.txt").write_text("\n".join([*self.monolingual, *repeated]), "utf-8")
        (folder / "system.py").write_text(SYSTEM)
        self.command = f"{sys.executable} {folder / 'system.py'}"

    def write(self, name, pairs):
        text = "".join(f"{source}\t{target}\n" for source, target in pairs)
        (self.folder / name).write_text(text, "utf-8")
        return self.folder / name

    @property
    def calls(self):
        """Number of sentences of each call of the system."""
        return [int(n) for n in (self.folder / "calls").read_text().split()]

    def recipe(self, *overrides, teacher=None, methods=f"[seqkd, {BOTH}]"):
        return load_recipe(
            "methods",
            [
                *(f"corpus.{part}={self.folder / part}.tsv" for part in self.parts),
                f"corpus.monolingual={self.folder / 'alone.txt'}",
                "vocabulary.size=400",
                f"teacher={teacher or {'command': self.command}}",
                f"students=[{SHAPE}]",
                f"methods={methods}",
                "training={num_train_epochs: 1, max_tokens: 512, learning_rate: 0.001, "
                "warmup_steps: 0}",
                "evaluation={beams: 1, samples: 1}",
                "compute.parallel=1",
                *overrides,
            ],
        )

    def run(self, recipe):
        console = Console(record=True, width=100)
        with suppress(Stop):
            carry_out(recipe, self.folder / "run", console)
        return console.export_text()

    def data(self, *parts):
        """The pairs that students learn from."""
        tokenizer = load_tokenizer(self.folder / "run/vocabulary")
        folders = {name: self.folder / "run" / name for name in parts}
        if PARALLEL in folders:
            folders[PARALLEL] = self.folder / "run/tokens/train"
        data = load_tokens(list(folders.values()))
        sides = [list(data["input_ids"]), list(data["labels"])]
        texts = [tokenizer.batch_decode(s, skip_special_tokens=True) for s in sides]
        return list(zip(*texts, strict=True))


@pytest.fixture
def setup(tmp_path):
    return Setup(tmp_path)


@pytest.fixture
def untrained(monkeypatch):
    """Runs end before the training of students."""
    monkeypatch.setattr(shards, "SHARD", SHARD)
    rounds = []

    def train(run):
        rounds.append([student.name for student in run.all(Student)])
        raise Stop

    monkeypatch.setattr(Student, "carry_out", train)
    return rounds


@pytest.mark.slow
def test_a_run_from_a_command_to_its_table(setup):
    recipe = setup.recipe(methods=f"[baseline, {{method: seqkd, monolingual: false}}, {BOTH}]")
    text = setup.run(recipe)
    assert "Monolingual text: 30 sentences (34 read, dropped: 1 duplicates, 2 held out" in text
    folder = setup.folder / "run"
    test = setup.parts["test"]
    scores = json.loads((folder / "results/test/scores.json").read_text())
    teacher, *students = scores
    hypotheses = [pair.source.swapcase() for pair in test]
    references = [[pair.target for pair in test]]
    assert teacher["bleu"] == pytest.approx(BLEU().corpus_score(hypotheses, references).score)
    assert teacher["chrf"] == pytest.approx(CHRF().corpus_score(hypotheses, references).score)
    assert (teacher["parameters"], teacher["student"], teacher["device"]) == (None, "–", None)
    lines = results.read_compressed(folder / "results/test/hypotheses/teacher.txt.gz")
    assert lines == hypotheses
    with (folder / "results/test/scores.csv").open(encoding="utf-8") as file:
        assert next(csv.DictReader(file))["parameters"] == ""
    assert [(row["method"], row["setting"]) for row in students] == [
        ("baseline", ""),
        ("seqkd", "monolingual=False"),
        ("seqkd+references", "monolingual=False"),
        ("seqkd+references", "monolingual=True"),
    ]
    assert all(row["p_vs_baseline"] is not None for row in students[1:])
    assert re.search(r"teacher +– +– +\d+\.\d\d +\d+\.\d\d +[–\d.×]+ +–", text)
    speed = json.loads(next((folder / "speed/test").glob("*/speed.json")).read_text())
    assert speed["sentences_per_second"] > 0
    yardstick = json.loads((folder / "yardstick/yardstick.json").read_text())
    valid = setup.parts["valid"]
    expected = BLEU().corpus_score(
        [pair.source.swapcase() for pair in valid], [[pair.target for pair in valid]]
    )
    assert yardstick["teacher"][0] == pytest.approx(expected.score)
    calls = setup.calls
    assert "Already trained" in setup.run(recipe)
    assert setup.calls == calls


class TestData:
    def test_is_that_of_each_method(self, setup, untrained):
        setup.run(setup.recipe(methods=f"[baseline, seqkd, {BOTH}]"))
        train = setup.parts["train"]
        originals = [tuple(pair) for pair in train]
        distilled = [(pair.source, pair.source.swapcase()) for pair in train]
        monolingual = [(text, text.swapcase()) for text in setup.monolingual]
        assert setup.data(PARALLEL) == originals
        assert setup.data(DISTILLED) == distilled
        assert setup.data(MONOLINGUAL) == monolingual
        assert setup.data(PARALLEL, DISTILLED, MONOLINGUAL) == originals + distilled + monolingual
        recipe = load_recipe(str(setup.folder / "run/recipe.yaml"), [])
        students = run_of(recipe, setup.folder / "run", read_splits(recipe)).all(Student)
        assert [student.data_parts for student in students] == [
            (PARALLEL,),
            (DISTILLED, MONOLINGUAL),
            (PARALLEL, DISTILLED),
            (PARALLEL, DISTILLED, MONOLINGUAL),
        ]
        assert len({student.fingerprint for student in students}) == 4

    def test_reaches_the_trainer(self, setup, untrained, monkeypatch):
        recipe, datasets = setup.recipe(), []

        def record(student, teacher, config, train, *_, **options):
            datasets.append(Counter(map(tuple, train["input_ids"])))
            raise Stop

        setup.run(recipe)
        run = run_of(recipe, setup.folder / "run", read_splits(recipe))
        monkeypatch.setattr(training, "A2DTrainer", record)
        for student in run.all(Student):
            with pytest.raises(Stop):
                training.train_model(
                    student, Student.inputs(run), 1, run.workers.launcher, lambda event: None
                )
        monolingual, both, all_parts = datasets
        assert [sum(counts.values()) for counts in datasets] == [90, 120, 150]
        assert set(both.values()) == {2}
        assert len(monolingual) == len(all_parts) == 90

    def test_empty_translations_are_left_out_with_a_warning(self, setup, untrained):
        pairs = setup.parts["train"]
        setup.write("train.tsv", [*pairs, ("EMPTY one", "x"), ("an EMPTY one", "y")])
        text = " ".join(setup.run(setup.recipe()).split())
        assert "distilled: the teacher has no translation of 2 of 62 sources" in text
        assert len(setup.data(DISTILLED)) == 60

    def test_a_system_without_any_translation_is_refused(self, setup, untrained):
        (setup.folder / "system.py").write_text("import sys; [print() for line in sys.stdin]")
        with pytest.raises(UserError, match="distilled: the teacher has no translation of any"):
            setup.run(setup.recipe())

    def test_the_vocabulary_knows_monolingual_text(self, setup, untrained):
        (setup.folder / "alone.txt").write_text("жжж жжжж жжж\nжжж жжж\n" * 5, "utf-8")
        setup.run(setup.recipe("corpus.cleaning.deduplicate=false"))
        tokens = load_tokenizer(setup.folder / "run/vocabulary").tokenize("жжж")
        assert any("ж" in token for token in tokens)


class TestResuming:
    def test_finished_shards_are_used_again(self, setup, untrained):
        fails = setup.folder / "fails-at"
        fails.write_text("4")  # one call for the validation set, two for training sources
        with pytest.raises(UserError, match="exit code 1, and says: out of order"):
            setup.run(setup.recipe())
        assert setup.calls == [25, 25, 25, 10]
        fails.unlink()
        setup.run(setup.recipe())
        assert setup.calls[4:] == [10, 25, 5]  # the rest, and text without references
        assert [target for _, target in setup.data(DISTILLED)] == [
            pair.source.swapcase() for pair in setup.parts["train"]
        ]

    def test_a_command_that_fails_at_once_can_be_corrected(self, setup, untrained):
        with pytest.raises(UserError, match="exit code"):
            setup.run(setup.recipe(teacher={"command": f"{sys.executable} gone.py"}))
        setup.run(setup.recipe())
        assert setup.data(DISTILLED)

    def test_a_command_that_fails_does_so_before_any_training(self, setup, untrained):
        (setup.folder / "fails-at").write_text("4")  # the last but one for training sources
        with pytest.raises(UserError, match="out of order"):
            setup.run(setup.recipe(methods="[baseline, seqkd]"))
        assert untrained == []

    def test_another_command_is_another_teacher(self, setup, untrained):
        setup.run(setup.recipe())
        with pytest.raises(UserError, match="belongs to another run"):
            setup.run(setup.recipe(teacher={"command": setup.command + " --better"}))


class TestExistingTranslations:
    def translations(self, setup, *additional, without=()):
        pairs = [pair for part in setup.parts.values() for pair in part]
        texts = [pair.source for pair in pairs] + setup.monolingual
        pairs = [(text, text.swapcase()) for text in texts if text not in without]
        return {"translations": str(setup.write("translations.tsv", [*pairs, *additional]))}

    def test_give_the_same_data_as_a_command(self, setup, untrained, tmp_path_factory):
        other = Setup(tmp_path_factory.mktemp("other"))
        other.run(other.recipe())
        setup.run(setup.recipe(teacher=self.translations(setup)))
        for part in (DISTILLED, MONOLINGUAL):
            assert setup.data(part) == other.data(part)
        yardsticks = [p.folder / "run/yardstick/yardstick.json" for p in (setup, other)]
        assert len({json.loads(p.read_text())["teacher"][1] for p in yardsticks}) == 1

    def test_missing_ones_are_left_out_with_a_warning(self, setup, untrained):
        train, valid = setup.parts["train"], setup.parts["valid"]
        without = {pair.source for pair in [*train[:7], valid[3]]} | {setup.monolingual[2]}
        text = " ".join(
            setup.run(setup.recipe(teacher=self.translations(setup, without=without))).split()
        )
        assert "distilled: the teacher has no translation of 7 of 60 sources" in text
        assert "monolingual: the teacher has no translation of 1 of 30 sources" in text
        assert "lacks 1 of 25 sources of corpus.valid: students are not" in text
        assert "corpus.test" not in text
        assert len(setup.data(DISTILLED)) == 53
        assert not (setup.folder / "run/yardstick").exists()

    def test_many_missing_ones_are_refused(self, setup):
        without = {pair.source for pair in setup.parts["train"][:31]}
        recipe = setup.recipe(teacher=self.translations(setup, without=without))
        with pytest.raises(UserError, match="lacks 31 of 60 training sources, such as '"):
            read_splits(recipe)
        baseline = recipe.model_copy(update={"methods": [_baseline(recipe)]})
        assert read_splits(baseline).translations

    def test_other_translations_are_another_teacher(self, setup, untrained):
        setup.run(setup.recipe(teacher=self.translations(setup)))
        teacher = self.translations(setup, ("more", "text"))
        with pytest.raises(UserError, match="belongs to another run"):
            setup.run(setup.recipe(teacher=teacher))

    @pytest.mark.slow
    def test_without_those_of_the_test_set_the_teacher_has_no_scores(self, setup):
        teacher = self.translations(setup, without={setup.parts["test"][0].source})
        text = setup.run(setup.recipe(teacher=teacher, methods="[baseline, seqkd]"))
        assert re.search(r"teacher +– +– +– +– +– +–", text)
        assert "corpus.test: the teacher gets no scores" in " ".join(text.split())
        folder = setup.folder / "run/results/test"
        teacher, *students = results.read(folder)
        assert (teacher.bleu, teacher.chrf, teacher.sentences_per_second) == (None, None, None)
        assert all(student.bleu is not None for student in students)
        hypotheses = results.read_compressed(folder / "hypotheses/teacher.txt.gz")
        assert hypotheses[0] == ""
        assert all(hypotheses[1:])


def _baseline(recipe):
    return replace(recipe.methods[0], method="baseline", name="baseline")


class TestRefused:
    """Recipes that are refused in one sentence."""

    def refused(self, *overrides):
        with pytest.raises(UserError) as caught:
            load_recipe("methods", [f"students=[{SHAPE}]", *overrides])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    FORMS = pytest.mark.parametrize("form", ["command: cat", "translations: x.tsv"])

    @FORMS
    @pytest.mark.parametrize("method", ["kd", "seqkd+kd", "a2d", "minilm"])
    def test_methods_that_ask_a_model(self, form, method):
        message = self.refused(f"teacher={{{form}}}", f"methods=[{method}]")
        assert f"method {method!r} compares" in message
        assert "choose among baseline, seqkd, seqkd+references" in message

    @FORMS
    def test_students_from_its_layers(self, form):
        method = "methods=[{method: seqkd, student_start: teacher}]"
        assert "student_start: teacher needs" in self.refused(f"teacher={{{form}}}", method)

    @FORMS
    @pytest.mark.parametrize("setting", ["sequences.n_best=2", "sequences.engine=transformers"])
    def test_ways_to_translate_with_a_model(self, form, setting):
        message = self.refused(f"teacher={{{form}}}", "methods=[seqkd]", setting)
        assert "sequences says how a2d translates" in message

    @pytest.mark.parametrize(
        ("teacher", "message"),
        [
            ("{command: cat, translations: x}", "not both command and translations"),
            ("{path: x, command: cat}", "not both path and command"),
            ("{command: cat, trim: true}", "trim are for a pretrained"),
            ("{translations: x, cache: true}", "cache is for a teacher that a2d runs"),
            ("{command: cat, precision: int8}", "precision is for a teacher that a2d runs"),
            ("{path: x, cache: true, precision: int8}", "either cache or precision"),
            ("{path: x, cache: true, sharded: true}", "either cache or sharded"),
            ("{path: x, precision: int8, sharded: true}", "sharded is for float32 and bfloat16"),
            ("{path: x, sharded: true}", "set compute.gpus_per_training"),
            ("{}", "give one of path"),
        ],
    )
    def test_contradictions(self, teacher, message):
        assert message in self.refused(f"teacher={teacher}", "methods=[seqkd]")

    def test_heads_that_do_not_fit(self):
        shape = SHAPE.replace("heads: 2", "heads: 3")
        message = self.refused("teacher={command: cat}", f"students=[{shape}]", "methods=[seqkd]")
        assert "students.0: width 16 cannot be split into 3 heads" in message

    def test_monolingual_text_without_a_method_for_it(self):
        message = self.refused("teacher={path: x}", "corpus.monolingual=a.txt", "methods=[kd]")
        assert "corpus.monolingual is for methods that learn from the teacher's" in message

    def test_a_missing_program(self, setup):
        with pytest.raises(UserError, match="there is no program 'no-such-program'"):
            setup.run(setup.recipe(teacher={"command": "no-such-program -x"}))
        assert not (setup.folder / "run").exists()

    def test_a_recipe_that_extends_one_replaces_its_teacher(self, tmp_path):
        path = tmp_path / "mine.yaml"
        for form in ("command: cat", "translations: x.tsv"):
            text = f"extends: methods\nteacher: {{{form}}}\nstudents: [{SHAPE}]\nmethods: [seqkd]\n"
            path.write_text(text)
            assert load_recipe(str(path)).teacher.foreign
        (tmp_path / "next.yaml").write_text("extends: mine.yaml\nteacher: {path: some/model}\n")
        assert load_recipe(str(tmp_path / "next.yaml")).teacher.path == "some/model"


class TestOrdinaryTeachers:
    @pytest.fixture
    def teacher(self, setup):
        model, tokenizer = released("opus", setup.folder / "teacher")
        return model, tokenizer

    @pytest.mark.slow
    def test_translate_text_without_references_too(self, setup, teacher):
        methods = "[seqkd+references, seqkd+kd, {method: seqkd+kd, name: less, monolingual: false}]"
        path = str(setup.folder / "teacher")
        shape = "sequences.engine=transformers", "training.early_stopping_patience=2"
        settings = {"path": path, "cache": True}
        text = setup.run(setup.recipe(*shape, teacher=settings, methods=methods))
        assert "seqkd+references" in text
        expected = [one_line(t) for t in translate(*teacher, setup.monolingual, beams=1)]
        shards = sorted((setup.folder / "run/monolingual").glob("shard-*.jsonl"))
        lines = [json.loads(line) for path in shards for line in path.read_text().splitlines()]
        assert [line["translation"] for line in lines] == expected
        caches = {path.name for path in (setup.folder / "run/cache").iterdir()}
        assert caches == {"distilled", "distilled+monolingual"}
        monolingual = len(load_from_disk(str(setup.folder / "run/monolingual")))
        assert 0 < monolingual <= 30

    def test_without_it_stages_depend_on_what_they_did(self, setup):
        recipe = setup.recipe("corpus.monolingual=null", teacher={"path": "x"}, methods="[seqkd]")
        run = run_of(recipe, setup.folder, read_splits(recipe))
        student, distilled = run.one(Student), run.one(Sequences)
        assert distilled.part == DISTILLED
        assert distilled.settings.keys() == {
            "vocabulary",
            "teacher",
            "longest",
            "beams",
            "max_tokens",
        }
        assert student.settings["method"] == {"method": "seqkd", "student_start": "random"}
        assert "monolingual" not in {**student.settings, **run.one(Vocabulary).settings}
