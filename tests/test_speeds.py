"""Speed measurement: outputs of fixed length, alternating models, each shape once."""

import json
import shutil

import pytest
import torch
from runs import run_of
from toys import talkative

from a2d.runs import speeds
from a2d.runs.recipe import load_recipe
from a2d.runs.run import Run
from a2d.runs.speeds import TimedModel, make_batches
from a2d.runs.splits import Splits
from a2d.runs.stages import speed
from a2d.runs.stages.speed import FIGURES, Speed, read_speeds
from a2d.runs.stages.students import Student, models_of
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.text.cleaning import CleaningReport
from a2d.text.corpus import read_corpus
from a2d.text.pairs import Pair

PAIRS = [pair for pair in read_corpus("builtin:de-dsb/valid")[:200] if len(pair.source) < 40][:50]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder, model and tokenizer."""
    texts = [text for pair in PAIRS for text in pair]
    return talkative(texts, tmp_path_factory.mktemp("model"))


class TestBatches:
    def test_hold_every_source_and_the_tokens_of_the_longest_reference(self, model):
        tokenizer = model[2]
        batches = make_batches(tokenizer, PAIRS, 60, None)
        assert len(batches) > 3
        references = {pair.source: pair.target for pair in PAIRS}
        translated = []
        for batch in batches:
            assert batch.inputs["input_ids"].numel() <= 60
            sources = tokenizer.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
            targets = [references[source] for source in sources]
            assert batch.tokens == max(len(tokenizer(text)["input_ids"]) for text in targets)
            translated += sources
        assert sorted(translated) == sorted(references)

    def test_are_cut_at_the_positions(self, model):
        for batch in make_batches(model[2], [Pair("ein Satz " * 30, "sada " * 30)], 20, 12):
            assert batch.inputs["input_ids"].shape == (1, 12)
            assert batch.tokens == 12


class TestTimedModel:
    @pytest.mark.parametrize("beams", [1, 3])
    @pytest.mark.parametrize("ends", [50.0, -50.0])  # end immediately, or never
    def test_generates_the_number_of_tokens_of_the_batch(
        self, model, beams, ends, tmp_path, monkeypatch
    ):
        _, network, tokenizer = model
        bias = network.final_logits_bias[0, tokenizer.eos_token_id].item()
        network.final_logits_bias[0, tokenizer.eos_token_id] = ends
        network.save_pretrained(tmp_path)
        network.final_logits_bias[0, tokenizer.eos_token_id] = bias
        timed = TimedModel(str(tmp_path), beams)
        lengths, generate = [], timed._model.generate

        def record_lengths(**options):
            assert options["num_beams"] == beams
            output = generate(**options)
            lengths.append(output.shape[1] - 1)  # the first token is the decoder's start
            return output

        monkeypatch.setattr(timed._model, "generate", record_lengths)
        batches = make_batches(tokenizer, PAIRS[:12], 60, 512)
        assert timed.seconds(batches) > 0
        assert lengths == [batch.tokens for batch in batches]


def splits_of(test=()):
    """Make a corpus with the given evaluated set."""
    return Splits([Pair("a", "b")], [], list(test), CleaningReport(1, {}, 1))


RECIPE = [
    "students=[{encoder_layers: 2, heads: 8}, {encoder_layers: 1, heads: 8}]",
    "methods=[kd, a2d]",
    "seeds=[1, 2]",
]


class TestMeasuring:
    @pytest.fixture
    def work(self, model, tmp_path, monkeypatch):
        """Measure speeds; return the run, the order of the models' passes, and the events.

        Each pass takes 8 seconds with the teacher, and 4, 1, 2, 4, 1, 2… with a student.
        """
        monkeypatch.setattr(speed, "load_config", lambda path: None)
        monkeypatch.setattr(speed, "positions_of", lambda config: None)
        monkeypatch.setattr(speed, "load_tokenizer", lambda path: model[2])

        def measure(recipe=RECIPE, pairs=PAIRS, teacher=8.0):
            passes, events = [], []

            class Fake:
                def __init__(self, path, beams):
                    self.name = path.rpartition("/")[2]
                    self.times = [2.0, 1.0, 4.0] * 5

                def seconds(self, batches):
                    passes.append((self.name, sum(len(b.inputs["input_ids"]) for b in batches)))
                    return teacher if self.name == "teacher" else self.times.pop()

            monkeypatch.setattr(speed, "TimedModel", Fake)
            monkeypatch.setattr(Run, "report", events.append)
            run = run_of(load_recipe("methods", recipe), tmp_path, splits_of(pairs))
            Speed.carry_out(run)
            return run, passes, events

        return measure

    def test_is_in_turn_with_the_teacher_and_once_for_each_shape(self, work):
        _, passes, _ = work()
        names = [name for name, _ in passes]
        rounds = (len(names) - 3) // 4
        assert rounds >= 3
        first, second = "kd-2+3x8-seed1", "kd-1+3x8-seed1"
        expected = ["teacher"]  # its sample
        for student in (first, second):
            expected += [student, *["teacher", student] * rounds]
        assert names == expected

    def test_speed_ups_are_medians_of_ratios(self, work):
        run, _, _ = work()
        speeds_by_name = read_speeds(run)
        teacher = speeds_by_name.pop("teacher")
        assert teacher == 16 / 8
        assert speeds_by_name.keys() == {student.name for student in run.all(Student)}
        assert set(speeds_by_name.values()) == {teacher * 8 / 2}

    def test_is_measured_once(self, work):
        run, _, _ = work()
        before = read_speeds(run)
        assert work()[1:] == ([], [])
        shutil.rmtree(run.all(Speed)[0].folder)
        again, passes, _ = work()
        assert {name for name, _ in passes} == {"teacher", "kd-2+3x8-seed1"}
        assert read_speeds(again) == before

    def test_a_fast_teacher_gets_a_larger_sample(self, work):
        _, passes, _ = work(teacher=0.01)
        assert [count for name, count in passes if name == "teacher"][:3] == [16, 32, len(PAIRS)]

    def test_reports_every_round(self, work):
        _, _, all_events = work()
        events = [event for event in all_events if event.task == "speed: 2+3x8"]
        assert [event.completed for event in events[:4]] == [0, 1, 2, 3]
        assert events[-1].completed == events[-1].total
        assert all(event.completed < event.total for event in events[:3])

    def test_students_in_another_class_than_the_teachers_are_another_shape(self, tmp_path):
        shape = "{encoder_layers: 1, decoder_layers: 1, heads: 2, width: 16, feed_forward: 16}"
        methods = "[kd, {method: kd, name: plain, student_start: marian}]"
        settings = ["teacher={path: x}", f"students=[{shape}]", f"methods={methods}"]
        run = run_of(load_recipe("methods", settings), tmp_path, splits_of())
        names = {stage.folder.name: stage.names for stage in run.all(Speed)}
        assert names == {"1+1x2": ("kd-1+1x2-seed1",), "1+1x2-marian": ("plain-1+1x2-seed1",)}

    def test_without_measurements_no_speed_is_read(self, tmp_path):
        assert read_speeds(run_of(load_recipe("methods"), tmp_path, splits_of())) == {}


def test_figures_describe_the_measurement(model, tmp_path, monkeypatch):
    """Measure real models of equal size."""
    _, _, tokenizer = model
    monkeypatch.setattr(speeds, "_MAX_SECONDS", 0.0)
    monkeypatch.setattr(speeds, "_FIRST_SAMPLE", 4)
    monkeypatch.setattr(speeds, "_MIN_PASS_SECONDS", 1e9)
    recipe = load_recipe("methods", ["methods=[kd]", "evaluation.beams=1"])
    run = run_of(recipe, tmp_path, splits_of(PAIRS[:10]))
    for model in models_of(run):
        tokenizer.save_pretrained(model.folder)
        talkative([text for pair in PAIRS for text in pair], model.folder)
    tokenizer.save_pretrained(run.one(Vocabulary).folder)
    Speed.carry_out(run)
    figures = json.loads((run.one(Speed).folder / FIGURES).read_text())
    assert figures["sentences"] == 10
    assert figures["rounds"] == 3
    assert figures["threads"] == torch.get_num_threads()
    assert 0.1 < figures["speed_up"] < 10
