"""`a2d bench`: figures of models in processes of their own, as a table and as JSON."""

import io
import json
import shutil
import sys

import pytest
from rich.console import Console
from toys import talkative

from a2d import UserError
from a2d.__main__ import main
from a2d.machine import peak_memory
from a2d.models.decoding import translate
from a2d.models.export import export
from a2d.models.loading import load_model
from a2d.models.tokenizer import load_tokenizer
from a2d.models.translator import LongSentence
from a2d.runs import benchmarking
from a2d.runs.benchmarking import Measurement, legend_of, read_sample, table_of
from a2d.text.corpus import read_corpus

TEXTS = [pair.source for pair in read_corpus("builtin:de-dsb/train")[:200]]
SOURCES = [text for text in TEXTS if len(text) < 40][:12]


@pytest.fixture
def a2d(monkeypatch, capsys):
    """Function that measures; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["a2d", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder, network, _ = talkative(TEXTS, tmp_path_factory.mktemp("model"))
    network.generation_config.update(max_length=12, num_beams=2)
    network.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_models_and_exports_are_measured(a2d, model, tmp_path):
    export(model, tmp_path / "fast")
    (tmp_path / "in").write_text("\n".join(["", *SOURCES]))
    arguments = ["--input", tmp_path / "in", "--rounds", 3, "--sentences", 5, "--threads", 1]
    code, out, err = a2d(model, tmp_path / "fast", *arguments, "--json", tmp_path / "json")
    assert code == 0, err
    assert "5 sentences, rounds: 3, threads: 1." in out
    assert f"2 {tmp_path / 'fast'} (CTranslate2, beam 2)\n" in out
    assert "benchmark: 8/8 (100%)" in err
    summary = json.loads((tmp_path / "json").read_text("utf-8"))
    first, second = summary["models"]
    assert (first["engine"], second["engine"]) == ("transformers", "CTranslate2")
    assert (first["model"], second["model"]) == (model, str(tmp_path / "fast"))
    sample = [SOURCES[place] for place in (0, 3, 6, 8, 11)]  # evenly spaced: 0, 2.75, 5.5, …
    network, tokenizer = load_model(model), load_tokenizer(model)
    texts = translate(network, tokenizer, sample, beams=2)
    written = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    for figures in (first, second):
        assert figures["beams"] == 2
        assert 0 < figures["load_seconds"] < 600
        assert 50e6 < figures["peak_bytes"] < 50e9
        speeds, tokens = figures["sentences_per_second"], figures["tokens_per_second"]
        assert speeds["low"] <= speeds["median"] <= speeds["high"]
        assert len(speeds["rounds"]) == 3
        for speed, token_speed in zip(speeds["rounds"], tokens["rounds"], strict=True):
            # Another segmentation may have fewer tokens than the generated one.
            assert 0.5 * written <= 5 * token_speed / speed <= 12 * 5
        for p50, p95 in zip(
            figures["p50_seconds"]["rounds"], figures["p95_seconds"]["rounds"], strict=True
        ):
            assert 0 < p50 <= p95
    weights = (tmp_path / "fast/model.bin").stat().st_size
    assert weights < second["disk_bytes"] < weights + 1e6


@pytest.mark.parametrize("kind", ["model", "export"])
def test_the_size_on_disk_is_that_of_the_model_alone(model, tmp_path, kind):
    folder = tmp_path / "model"
    if kind == "export":
        export(model, folder)
    else:
        shutil.copytree(model, folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    tokenizer = load_tokenizer(folder)
    assert benchmarking._disk_bytes(str(folder), tokenizer) == size
    others = ["history.json", "stage.json", "manifest.json", "alignment.safetensors", "plot.png"]
    others += ["pytorch_model.bin", "training_args.bin", "trainer_state.json", "README.md"]
    for name in others:
        (folder / name).write_bytes(b"x" * 1000)
    assert benchmarking._disk_bytes(str(folder), tokenizer) == size


class TestMistakes:
    def test_missing_model(self, a2d, tmp_path):
        (tmp_path / "in").write_text("a\n")
        code, out, err = a2d(tmp_path / "no", "--input", tmp_path / "in", "--rounds", 1)
        assert (code, out) == (2, "")
        assert "Error: no model at" in err

    @pytest.mark.parametrize(
        ("content", "message"), [(None, "there is no"), ("\n \n", "has no sentences")]
    )
    def test_input(self, a2d, model, tmp_path, content, message):
        if content is not None:
            (tmp_path / "in").write_text(content)
        code, out, err = a2d(model, "--input", tmp_path / "in")
        assert (code, out) == (2, "")
        assert message in err

    def test_large_input(self, a2d, model, tmp_path, monkeypatch):
        monkeypatch.setattr("a2d.runs.benchmarking._MAX_CHARACTERS", 5)
        (tmp_path / "in").write_text("abc\nabc\n")
        code, _, err = a2d(model, "--input", tmp_path / "in")
        assert code == 2
        assert "has more than 5 characters in its first 2 lines: give a smaller file." in err

    def test_folder_of_figures(self, a2d, model, tmp_path):
        code, _, err = a2d(model, "--input", tmp_path / "in", "--json", tmp_path / "no/json")
        assert code == 2
        assert "there is no folder" in err

    def test_a_sentence_that_is_too_long_is_named_by_its_line(self, tmp_path, monkeypatch):
        class Process:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def call(self, task, *arguments):
                if task is benchmarking._load:
                    return {}
                raise LongSentence(1, 700, 512)

        monkeypatch.setattr(benchmarking, "_Process", Process)
        (tmp_path / "in").write_text("a\n\n\nb\n")
        sample = read_sample(tmp_path / "in", 10)
        with pytest.raises(UserError, match=r"in, line 4 has a sentence of 700 tokens.* is m\."):
            benchmarking.measure(["m"], sample, print, rounds=1)


def test_rounds_alternate_between_models(monkeypatch, tmp_path):
    calls = []

    class Process:
        def __enter__(self):
            self.name = len({name for name, _ in calls})
            return self

        def __exit__(self, *_):
            pass

        def call(self, task, *_):
            calls.append((self.name, task))
            return {
                benchmarking._load: {"engine": "x"},
                peak_memory: 7,
                benchmarking._round: {"sentences_per_second": float(len(calls))},
            }.get(task)

    monkeypatch.setattr(benchmarking, "_Process", Process)
    (tmp_path / "in").write_text("a\n")
    figures = benchmarking.measure(
        ["one", "two"], read_sample(tmp_path / "in", 1), lambda _: None, rounds=3
    )
    order = [name for name, task in calls if task is benchmarking._round]
    assert order == [0, 1, 1, 0, 0, 1]
    assert [len(each.sentences_per_second) for each in figures] == [3, 3]
    assert [each.peak_bytes for each in figures] == [7, 7]


@pytest.mark.parametrize("scale", [0.05, 1, 20])
def test_the_table_fits_a_terminal(scale):
    values = [scale * value for value in (95.2, 101.9, 99.4)]
    row = Measurement(
        "Helsinki-NLP/opus-mt-de-en[x]", "transformers", 5, 3.25, 300_000_000, 12 * 10**9
    )
    row.sentences_per_second, row.tokens_per_second = values, [25 * value for value in values]
    row.p50_seconds, row.p95_seconds = [1 / value for value in values], [2 / v for v in values]
    console = Console(width=80, record=True, force_terminal=False, file=io.StringIO())
    console.print(table_of([row]))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    cells = text.splitlines()[2].split()
    assert cells[0] == "1"
    digits = {0.05: ("4.97", "124"), 1: ("99.4", "2,485"), 20: ("1,988", "49,700")}
    assert tuple(cells[1:3]) == digits[scale]
    assert cells[5:] == ["12,000", "3.25", "300"]
    assert (
        text.splitlines()[3].split()[0]
        == {0.05: "4.76–5.10", 1: "95.2–102", 20: "1,904–2,038"}[scale]
    )
    assert legend_of([row, row]).splitlines() == [
        "1 Helsinki-NLP/opus-mt-de-en[x] (transformers, beam 5)",
        "2 Helsinki-NLP/opus-mt-de-en[x] (transformers, beam 5)",
    ]
