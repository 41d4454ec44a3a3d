"""Shards of the teacher's translations survive interruptions and cannot be confused."""

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from pretrained import released
from toys import talkative

from a2d import UserError
from a2d.models.decoding import n_best, translate
from a2d.runs import shards
from a2d.runs.lines import one_line
from a2d.runs.recipe import load_recipe
from a2d.runs.settings import EvaluationSettings, SequenceSettings
from a2d.runs.shards import Task, translate_in_shards
from a2d.runs.workers import Workers
from a2d.text.corpus import read_corpus
from a2d.text.evaluation import closest
from a2d.text.pairs import Pair
from a2d.text.storage import StoredPairs

PAIRS = [pair for pair in read_corpus("builtin:de-dsb/valid") if len(pair.source) < 30][:22]
SOURCES = [pair.source for pair in PAIRS]
SEARCH = EvaluationSettings(beams=2, max_tokens=100)
NUMBERS = [Pair(str(number), f"reference {number}") for number in range(10)]
EXCLAIMED = [f"{number}!" for number in range(10)]
ODD = ("a\u2028b", "a\u0085b", "a\x0bb\x0cb", "a\rb", "a\nb", "a\x1cb", " a\t b ", "\n", "")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Folder, model and tokenizer; translations depend on the source."""
    return talkative([text for pair in PAIRS for text in pair], tmp_path_factory.mktemp("teacher"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 4)


@pytest.fixture
def echo(monkeypatch):
    """Replace translation by appending `!`; returns the list of translated sentences."""
    translated = []

    def append(model, tokenizer, sentences, count, **search):
        if "trouble" in sentences:
            raise RuntimeError("trouble")
        translated.extend(sentences)
        return [[f"{sentence}!"] for sentence in sentences]

    monkeypatch.setattr(shards, "n_best", append)
    monkeypatch.setattr(shards, "load_to_run", lambda path: None)
    monkeypatch.setattr(shards, "load_tokenizer", lambda path: None)
    return translated


def translated(pairs, folder, teacher="nobody", events=None, engine="transformers", **options):
    report = print if events is None else events.append
    settings = SequenceSettings(engine=engine, **options)
    with Workers(1, folder / "log", report) as workers:
        return list(translate_in_shards(pairs, folder, Task(teacher, SEARCH, settings), workers))


def shard(folder, number):
    return folder / f"shard-{number:05}.jsonl"


def test_are_the_teachers_in_order(teacher, tmp_path):
    folder, model, tokenizer = teacher
    events = []
    texts = translated(PAIRS, tmp_path, folder, events)
    expected = translate(model, tokenizer, SOURCES, beams=2, max_tokens=100)
    assert texts == [one_line(text) for text in expected]
    assert len(set(texts)) > len(texts) / 2  # a wrong order would be noticed
    assert sorted(tmp_path.iterdir()) == [shard(tmp_path, number) for number in range(6)]
    assert {event.task for event in events} == {f"teacher's translations: {tmp_path.name}"}
    assert [event.completed for event in events] == sorted(event.completed for event in events)
    assert (events[0].completed, events[-1].completed, events[-1].total) == (0, 22, 22)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9])
def test_are_as_many_as_sentences(echo, tmp_path, count):
    assert translated(NUMBERS[:count], tmp_path) == EXCLAIMED[:count]
    assert echo == [pair.source for pair in NUMBERS[:count]]
    assert len(list(tmp_path.iterdir())) == -(-count // 4)


def test_have_one_line_for_every_sentence(echo, tmp_path):
    texts = translated([Pair(text, "") for text in ODD], tmp_path)
    assert [line.split() for line in texts] == [f"{text}!".split() for text in ODD]
    assert echo == list(ODD)  # sources stay unchanged


class TestShards:
    def test_every_line_names_its_sentence(self, echo, tmp_path):
        translated(NUMBERS, tmp_path)
        lines = [
            json.loads(line)
            for n in range(3)
            for line in shard(tmp_path, n).read_text().splitlines()
        ]
        assert [line["id"] for line in lines] == list(range(10))
        assert len({line["sum"] for line in lines}) == 10

    def test_finished_ones_are_used_again(self, echo, tmp_path):
        translated(NUMBERS, tmp_path)
        shard(tmp_path, 2).unlink()
        echo.clear()
        assert translated(NUMBERS, tmp_path) == EXCLAIMED
        assert echo == ["8", "9"]

    def test_goes_on_where_it_was_interrupted(self, echo, tmp_path):
        with pytest.raises(RuntimeError, match="trouble"):
            translated([*NUMBERS[:9], Pair("trouble", "")], tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        assert translated(NUMBERS, tmp_path) == EXCLAIMED
        assert echo == [pair.source for pair in NUMBERS]

    @pytest.mark.parametrize("seed", range(9))
    def test_mixed_up_or_damaged_ones_are_made_again(self, echo, tmp_path, seed):
        translated(NUMBERS, tmp_path)
        dice = random.Random(seed)
        number, other = dice.sample(range(3), 2)
        path = shard(tmp_path, number)
        lines = path.read_text().splitlines(keepends=True)
        damages = (
            lambda: shutil.copy(shard(tmp_path, other), path),
            lambda: path.write_text("".join(reversed(lines))),
            lambda: path.write_text("".join(lines[:-1])),
            lambda: path.write_text("".join(lines + lines[:1])),
            lambda: path.write_text("".join(lines)[:-5]),
            lambda: path.write_text("".join(lines).replace("translation", "text")),
            lambda: path.write_text("".join(lines).replace("!", "?")),
            lambda: path.write_text("[]\n" * len(lines)),
            lambda: path.write_bytes(b"\xff" * 10),
        )
        damages[seed]()
        echo.clear()
        assert translated(NUMBERS, tmp_path) == EXCLAIMED
        assert echo == [pair.source for pair in NUMBERS[4 * number : 4 * number + 4]]

    def test_of_other_sentences_are_made_again(self, echo, tmp_path):
        translated(NUMBERS, tmp_path)
        echo.clear()
        changed = [*NUMBERS[:6], Pair("six", ""), *NUMBERS[7:]]
        assert translated(changed, tmp_path)[6] == "six!"
        assert echo == ["4", "5", "six", "7"]


class TestSharedWork:
    """Several workers, here threads, get a few shards at a time."""

    class Threads:
        def __init__(self, count):
            self.count, self.report, self.groups = count, print, []
            self._pool = ThreadPoolExecutor(count)

        def submit(self, task, shards, *arguments):
            self.groups.append(len(shards))
            return self._pool.submit(task, shards, *arguments, self.report)

    @pytest.mark.parametrize(("seconds", "largest"), [(0.0, 1), (0.1, 7), (60.0, 7)])
    def test_groups_grow_with_the_speed(self, echo, tmp_path, monkeypatch, seconds, largest):
        monkeypatch.setattr(shards, "GROUP_SECONDS", seconds)
        workers = self.Threads(2)
        pairs = [Pair(str(number), "") for number in range(60)]
        task = Task("nobody", SEARCH, SequenceSettings(engine="transformers"))
        texts = list(translate_in_shards(pairs, tmp_path, task, workers))
        assert texts == [f"{number}!" for number in range(60)]
        assert sorted(echo) == sorted(pair.source for pair in pairs)  # none twice
        assert workers.groups[:2] == [1, 1]
        assert sum(workers.groups) == 15
        assert max(workers.groups) <= largest


def test_one_worker_gets_a_bounded_group(echo, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_GROUP", 2)
    workers = TestSharedWork.Threads(1)
    task = Task("nobody", SEARCH, SequenceSettings(engine="transformers"))
    assert list(translate_in_shards(NUMBERS, tmp_path, task, workers)) == EXCLAIMED
    assert workers.groups == [2, 1]


class TestNBest:
    def test_the_first_is_the_translation(self, teacher):
        _, model, tokenizer = teacher
        several = n_best(model, tokenizer, ["", *SOURCES], 3, beams=4)
        assert [hypotheses[0] for hypotheses in several] == translate(
            model, tokenizer, ["", *SOURCES], beams=4
        )
        assert several[0] == [""] * 3
        assert sum(len(set(hypotheses)) > 1 for hypotheses in several[1:]) > len(SOURCES) / 2

    def test_the_closest_to_the_reference_is_used(self, teacher, tmp_path):
        folder, model, tokenizer = teacher
        several = n_best(model, tokenizer, SOURCES, 2, beams=2, max_tokens=100)
        second = [
            Pair(source, hypotheses[1]) for source, hypotheses in zip(SOURCES, several, strict=True)
        ]
        texts = translated(second, tmp_path, folder, n_best=2)
        assert texts == [one_line(pair.target) for pair in second]

    def test_closest(self):
        texts = ["ganz anders", "ein Haus am See", "ein Haus"]
        assert closest(texts, "ein Haus am Seeufer") == texts[1]
        assert closest(texts, "?") == texts[0]
        assert closest(["allein"], "x") == "allein"

    def test_more_than_beams_is_refused(self):
        with pytest.raises(UserError, match=r"n_best is 6: a search with 5 beams finds fewer"):
            load_recipe("methods", ["sequences.n_best=6"])


class TestCTranslate2:
    @pytest.mark.parametrize("name", ["opus", "nllb", "t5"])
    def test_finds_what_transformers_finds(self, name, tmp_path):
        teacher = tmp_path / "teacher"
        released(name, teacher)
        (tmp_path / "ours").mkdir()
        (tmp_path / "theirs").mkdir()
        theirs = translated(PAIRS, tmp_path / "theirs", str(teacher), engine="ctranslate2")
        ours = translated(PAIRS, tmp_path / "ours", str(teacher))
        assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 20
        assert not (tmp_path / "theirs/teacher").exists()

    def test_a_damaged_conversion_of_an_interrupted_run_is_made_again(self, tmp_path):
        released("opus", teacher := tmp_path / "opus")
        task = Task(str(teacher), SEARCH, SequenceSettings(engine="ctranslate2"))
        folder = shards._export(task, tmp_path)
        weights = (folder / "model.bin").read_bytes()
        (folder / "model.bin").write_bytes(weights[:-9] + bytes([weights[-9] ^ 64]) + weights[-8:])
        assert shards._export(task, tmp_path) == folder
        assert (folder / "model.bin").read_bytes() == weights

    def test_models_that_it_cannot_take(self, tmp_path):
        model, _ = released("bart", tmp_path / "bart")
        model.config.decoder_attention_heads = 4
        model.config.save_pretrained(tmp_path / "bart")
        with pytest.raises(UserError, match="2 heads in the encoder and 4 in the decoder"):
            translated(PAIRS, tmp_path, str(tmp_path / "bart"), engine="ctranslate2")


def test_several_workers_share_a_stored_corpus(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 1000)  # the value in other processes
    folder, *_ = teacher
    pairs = StoredPairs(PAIRS[number % len(PAIRS)] for number in range(2010))
    (tmp_path / "shards").mkdir()
    task = Task(folder, EvaluationSettings(beams=1), SequenceSettings(engine="ctranslate2"))
    with Workers(2, tmp_path / "log", lambda event: None) as workers:
        texts = list(translate_in_shards(pairs, tmp_path / "shards", task, workers))
    assert len(texts) == 2010
    assert texts[: len(PAIRS)] == texts[1980:2002]
    assert len(set(texts)) > len(PAIRS) / 2
    assert len(list((tmp_path / "shards").iterdir())) == 3
