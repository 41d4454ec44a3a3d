"""Scores of hypotheses with both engines, for several families; splitting of long texts."""

import math
import pickle
import subprocess
import sys

import pytest
import torch
from pretrained import released
from transformers import GenerationConfig

from a2d import UserError
from a2d.models.export import export
from a2d.models.hypotheses import EMPTY, Hypothesis, join
from a2d.models.teachers import set_target_language
from a2d.models.tokenizer import load_tokenizer
from a2d.models.translator import LongSentence, Translator, open_translator, split_sentences
from a2d.text.corpus import read_corpus

SOURCES = [pair.source for pair in read_corpus("builtin:de-dsb/train")[200:500]]
SOURCES = [source for source in SOURCES if 5 < len(source) < 40][:8]


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 2, "length_penalty": 0.4}, {"suppress_tokens": [20, 21]}]
)
@pytest.mark.parametrize("name", ["opus", "nllb", "t5"])
def test_scores_of_both_engines_agree(name, settings, tmp_path):
    """NLLB forces the code of the language, OPUS-MT bans padding."""
    model, tokenizer = released(name, tmp_path / "model", layers=(1, 1))
    set_target_language(model, tokenizer)
    model.generation_config.update(max_length=9, **settings)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "fast")
    for beams in (1, 3):
        plain, fast = (
            open_translator(str(tmp_path / kind), beams=beams).n_best(SOURCES, beams, scored=True)
            for kind in ("model", "fast")
        )
        pairs = [
            pair
            for lists in zip(plain, fast, strict=True)
            for pair in zip(*lists, strict=True)
            if pair[0].text == pair[1].text and pair[0].tokens == pair[1].tokens
        ]
        assert len(pairs) > 0.7 * beams * len(SOURCES)
        for one, other in pairs:
            assert 1 <= one.tokens < 9
            assert -20 < one.score < 0
            assert one.score == pytest.approx(other.score, abs=1e-3)
            assert one.score == one.log_probability / one.tokens


def test_scores_are_missing_unless_requested(tmp_path):
    released("opus", tmp_path, layers=(1, 1))
    ((hypothesis,),) = open_translator(str(tmp_path), beams=1).n_best(["ein"])
    assert math.isnan(hypothesis.score)
    assert hypothesis.tokens > 0


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("no end", ["no end"]),
        ("One. Two! Three? 4 … five", ["One.", "Two!", "Three?", "4 … five"]),
        (
            "Before e.g. this. “After.” Next (one.) End",
            ["Before e.g. this.", "“After.”", "Next (one.)", "End"],
        ),
        ("Über 3.5 km. Ärger… Ende.", ["Über 3.5 km.", "Ärger…", "Ende."]),
        ("これは一つ。「二つ。」三つ", ["これは一つ。", "「二つ。」", "三つ"]),
        (" . . ", [".", "."]),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences
    assert "".join("".join(sentences).split()) == "".join(text.split())


class Recorder:
    """Search that returns two hypotheses of each sentence, with its number of tokens."""

    def __init__(self):
        self.encoded = []

    def __call__(self, encoded, count, *, beams, max_tokens, scored, progress):
        self.encoded += encoded
        progress(len(encoded))
        return [
            [Hypothesis(f"{len(ids)}.{n}", 2, -1.0 - n) for n in range(count)] for ids in encoded
        ]


@pytest.fixture
def recorded():
    """Translator of the embedded tokenizer with 12 positions, and the search that it calls."""
    search = Recorder()
    tokenizer = load_tokenizer("builtin:en-pt")
    return Translator(search, tokenizer, 12, GenerationConfig(num_beams=2)), search, tokenizer


def test_long_texts_are_split_and_joined(recorded):
    translator, search, tokenizer = recorded
    sentences = ["The file is open.", "Close it now!", "Is the window closed?"]
    lengths = [len(ids) for ids in tokenizer(sentences)["input_ids"]]
    counts = []
    lists = translator.n_best(
        ["", " ".join(sentences), sentences[0]], 2, scored=True, progress=counts.append
    )
    assert list(map(len, search.encoded)) == [*lengths, lengths[0]]
    assert lists[0] == [EMPTY, EMPTY]
    assert lists[1] == [
        Hypothesis(" ".join(f"{length}.{n}" for length in lengths), 6, 3 * (-1.0 - n))
        for n in range(2)
    ]
    assert lists[2] == [Hypothesis(f"{lengths[0]}.{n}", 2, -1.0 - n) for n in range(2)]
    assert counts == [3]


def test_a_long_sentence_is_refused_with_its_number(recorded):
    translator, search, _ = recorded
    with pytest.raises(
        LongSentence, match=r"text 2 has a sentence of .* at most 12: split"
    ) as error:
        translator.n_best(["Short.", "Short. " + "word " * 12])
    assert error.value.index == 1
    assert search.encoded == []
    copy = pickle.loads(pickle.dumps(error.value))
    assert (copy.index, str(copy)) == (1, str(error.value))
    assert isinstance(copy, UserError)


def test_parts_without_text_leave_no_space():
    parts = [Hypothesis("a", 1, -1.0), Hypothesis("", 1, -2.0), Hypothesis("b", 2, -3.0)]
    assert join(parts) == Hypothesis("a b", 4, -6.0)
    assert join(parts).score == -1.5
    assert EMPTY.score == 0


def test_threads_are_set(tmp_path):
    released("opus", tmp_path, layers=(1, 1))
    before = torch.get_num_threads()
    try:
        open_translator(str(tmp_path), beams=1, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_exports_need_no_models_of_transformers():
    program = (
        "import sys; import a2d.models.translator, a2d.progress, a2d.text.streams; "
        "print({'transformers.modeling_utils', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "set()\n"
