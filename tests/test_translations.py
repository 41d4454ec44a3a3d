"""Translations of held-out sets: one sentence per line, and scores of the written lines."""

import json
from types import SimpleNamespace

import pytest
from sacrebleu.metrics import BLEU, CHRF
from toys import talkative

from a2d.models.loading import count_parameters
from a2d.runs.lines import one_line, read_lines, write_lines
from a2d.runs.settings import EvaluationSettings, MethodEntry
from a2d.runs.stages import translations
from a2d.runs.stages.models import Model
from a2d.runs.stages.translations import (
    HYPOTHESES,
    SCORES,
    Translations,
    sizes_in_short,
    translate_and_score,
)
from a2d.text.corpus import read_corpus

TEXTS = [pair.source for pair in read_corpus("builtin:de-dsb/valid")[:200]]
SOURCES = [text for text in TEXTS if len(text) < 30][:22]
SEARCH = EvaluationSettings(beams=2, max_tokens=100)
ODD = ("a\u2028b", "a\u0085b", "a\x0bb\x0cb", "a\rb", "a\nb", "a\x1cb", " a\t b ", "\n", "")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Folder, model and tokenizer; translations depend on the source."""
    return talkative(TEXTS, tmp_path_factory.mktemp("teacher"))


class TestLines:
    @pytest.mark.parametrize("text", ODD)
    def test_are_one_each_for_any_reader(self, tmp_path, text):
        write_lines(tmp_path / "a", ["x", text, "y"])
        content = (tmp_path / "a").read_text("utf-8")
        assert read_lines(tmp_path / "a") == content.splitlines() == ["x", one_line(text), "y"]
        assert content.count("\n") == 3

    def test_of_others_may_hold_odd_separators(self, tmp_path):
        (tmp_path / "a").write_bytes("x\u2028y\u0085\nz\n".encode())
        assert read_lines(tmp_path / "a") == ["x\u2028y\u0085", "z"]

    def test_of_an_empty_file(self, tmp_path):
        write_lines(tmp_path / "a", [])
        assert read_lines(tmp_path / "a") == []


def test_scores_are_those_of_the_lines_written(teacher, tmp_path, monkeypatch):
    folder, model, _ = teacher
    pairs = read_corpus("builtin:de-dsb/test")[:60]
    # Half of the translations are right; line separators do not survive in written lines.
    targets = {pair.source: f" {pair.target} ".replace(" ", "\u2028 ") for pair in pairs[::2]}

    def translated(network, tokenizer, sentences, **search):
        assert search["beams"] == 2
        return [targets.get(sentence, "něco druge") for sentence in sentences]

    monkeypatch.setattr(translations, "translate", translated)
    method = MethodEntry(method="baseline", name="b")
    job = Model(tmp_path / "model", {}, "b", folder, None, None, method, 1)
    stage = Translations(tmp_path / "translations", {}, job)
    sources, references = zip(*pairs, strict=True)
    translate_and_score(stage, folder, sources, references, SEARCH, print)

    lines = (stage.folder / HYPOTHESES).read_text("utf-8").splitlines()
    assert lines[:2] == [pairs[0].target, "něco druge"]
    assert len(lines) == len(pairs)
    figures = json.loads((stage.folder / SCORES).read_text())
    for name, metric in {"bleu": BLEU(), "chrf": CHRF()}.items():
        score = metric.corpus_score(lines, [references]).score
        assert 10 < figures[name] == pytest.approx(score)
        assert figures["signatures"][name] == str(metric.get_signature())
    assert figures["parameters"] == count_parameters(model)


@pytest.mark.parametrize(
    ("widths", "names"),
    [
        ([(160, 640), (160, 640)], {"teacher": "5+3x4", "student": "5+2x4"}),
        ([(160, 640), (80, 320)], {"teacher": "5+3x4-160-640", "student": "5+2x4-80-320"}),
    ],
)
def test_widths_are_named_where_they_differ(widths, names):
    sizes = [{"encoder_layers": 5, "decoder_layers": layers, "heads": "4"} for layers in (3, 2)]
    stages = [
        SimpleNamespace(
            model=SimpleNamespace(name=name, size=size, foreign=False),
            figures={**layers, "width": width, "feed_forward": feed_forward},
        )
        for name, size, layers, (width, feed_forward) in zip(
            ("teacher", "student"), (None, "5+2x4"), sizes, widths, strict=True
        )
    ]
    assert sizes_in_short(SimpleNamespace(all=lambda kind: stages)) == names
