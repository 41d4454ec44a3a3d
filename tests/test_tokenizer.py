"""Vocabularies: no text is lost, training is reproducible, files load without a2d."""

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrained import released
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from a2d.errors import UserError
from a2d.models import tokenizer as tokenizers
from a2d.models.loading import new_model
from a2d.models.tokenizer import (
    BYTES,
    END,
    PADDING,
    UNKNOWN,
    check_same_vocabulary,
    load_tokenizer,
    train_tokenizer,
)
from a2d.text.corpus import read_corpus

TEXTS = [text for pair in read_corpus("builtin:de-dsb/valid")[:400] for text in pair]
SIZE = 700
# 2000 characters, all equally frequent: more than fit into the alphabet.
MANY_CHARACTERS = [
    "".join(chr(0x4E00 + 10 * line + column) for column in range(10)) for line in range(200)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, SIZE)


def round_trip(tokenizer, text):
    return tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


def tidy(text):
    """Reduce spaces to single ones inside the text; other kinds of space stay."""
    return re.sub(" +", " ", text).strip(" ")


class TestRoundTrip:
    # The tokenizer writes U+2581 for a space, as SentencePiece does.
    CHARACTERS = st.characters(codec="utf-8", exclude_characters="▁")

    @settings(deadline=None)
    @given(st.text(CHARACTERS).map(tidy))
    def test_any_text_survives(self, tokenizer, text):
        assert round_trip(tokenizer, text) == text

    @settings(deadline=None)
    @given(st.text(st.sampled_from("aäś ,.'!?-<>0x41/s\u00a0\u200b日😀\u0301")).map(tidy))
    def test_awkward_text_survives(self, tokenizer, text):
        assert round_trip(tokenizer, text) == text

    @pytest.mark.parametrize("text", ["a , b .", "don 't", "a\tb", "e\u0301", "<0x41>", "\ufffd"])
    def test_nothing_is_cleaned_up(self, tokenizer, text):
        assert round_trip(tokenizer, text) == text

    def test_unknown_characters_are_spelled_in_bytes(self, tokenizer):
        assert tokenizer.tokenize("ü日") != tokenizer.tokenize("日")
        assert [t for t in tokenizer.tokenize("日") if t in BYTES] == ["<0xE6>", "<0x97>", "<0xA5>"]
        assert tokenizer.unk_token_id not in tokenizer("日 😀")["input_ids"]

    def test_the_space_mark_comes_back_as_a_space(self, tokenizer):
        assert round_trip(tokenizer, "a▁b") == "a b"

    def test_names_of_special_tokens_in_a_text_are_text(self, tokenizer):
        text = "a </s> b<pad> <unk>"
        assert tokenizer(text)["input_ids"].count(tokenizer.eos_token_id) == 1
        assert round_trip(tokenizer, text) == text


class TestLayout:
    def test_special_tokens(self, tokenizer):
        vocabulary = tokenizer.get_vocab()
        assert (tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token) == (
            END,
            UNKNOWN,
            PADDING,
        )
        assert (vocabulary[END], vocabulary[UNKNOWN], vocabulary[PADDING]) == (0, 1, SIZE - 1)
        assert tokenizer.pad_token_id == SIZE - 1
        assert tokenizer.eos_token_id == 0

    def test_ids_have_no_gap(self, tokenizer):
        assert len(tokenizer) == SIZE
        assert sorted(tokenizer.get_vocab().values()) == list(range(SIZE))

    def test_names_of_special_tokens_in_the_corpus_leave_no_gap(self):
        texts = TEXTS + ["x</s> y</s> z<pad> <0x41>q"] * 500
        vocabulary = train_tokenizer(texts, SIZE).get_vocab()
        assert sorted(vocabulary.values()) == list(range(SIZE))
        assert (vocabulary[END], vocabulary[PADDING]) == (0, SIZE - 1)

    def test_frequent_words_are_one_token(self, tokenizer):
        assert tokenizer.tokenize("Datei und")[-1] == "▁und"


class TestSize:
    @pytest.mark.parametrize(
        "texts", [TEXTS[:1], TEXTS[:2], TEXTS[:20], ["ab"], MANY_CHARACTERS], ids=range(5)
    )
    def test_too_small_a_corpus_names_a_size_that_works(self, texts):
        with pytest.raises(UserError, match="too small for a vocabulary of 8000 tokens") as caught:
            train_tokenizer(texts, 8000)
        feasible = int(re.search(r"vocabulary\.size to at most (\d+)\.", str(caught.value))[1])
        assert len(train_tokenizer(texts, feasible)) == feasible


class TestDeterminism:
    @pytest.mark.parametrize("texts", [TEXTS, TEXTS + MANY_CHARACTERS], ids=["few", "many"])
    def test_same_text_gives_the_same_vocabulary(self, texts):
        first, second = (train_tokenizer(iter(texts), 1000) for _ in range(2))
        assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.text(alphabet=" ab▁\u00a0é", max_size=9), min_size=1, max_size=40))
    def test_texts_that_the_trainer_reads_as_one_give_the_same_tokens(self, texts):
        joined = tokenizers._learn(texts, 20)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenizers, "TEXTS_AT_ONCE", 1)
            assert tokenizers._learn(texts, 20) == joined

    def test_also_in_another_process(self, tokenizer):
        program = (
            "import json, sys; from a2d.models.tokenizer import train_tokenizer; "
            f"print(train_tokenizer(json.load(sys.stdin), {SIZE}).backend_tokenizer.to_str())"
        )
        other = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(TEXTS),
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(other.stdout) == json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.fixture(scope="module")
def model_folder(tokenizer, tmp_path_factory):
    """A saved Marian model: its config.json must not make transformers look for SentencePiece."""
    folder = tmp_path_factory.mktemp("model")
    new_model(
        tokenizer, encoder_layers=1, decoder_layers=1, heads=2, width=8, feed_forward=8
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == "marian"
    return folder


class TestFiles:
    @pytest.mark.parametrize("load", [AutoTokenizer.from_pretrained, load_tokenizer])
    def test_load_beside_a_model(self, tokenizer, model_folder, load):
        copy = load(model_folder)
        check_same_vocabulary(tokenizer, copy)
        assert copy(TEXTS[:50])["input_ids"] == tokenizer(TEXTS[:50])["input_ids"]
        assert copy.model_max_length == tokenizer.model_max_length
        for text in [*TEXTS[:50], "a , b .", "日本 😀"]:
            assert round_trip(copy, text) == text

    @pytest.mark.parametrize("content", [None, "{}", '{"version"'])
    def test_missing_or_damaged(self, tmp_path, content):
        if content is not None:
            (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match="no tokenizer at") as caught:
            load_tokenizer(tmp_path)
        assert str(tmp_path) in str(caught.value)


class TestComparison:
    def test_same(self, tokenizer):
        check_same_vocabulary(tokenizer, train_tokenizer(TEXTS, SIZE))

    def test_swapped_tokens_are_named(self, tokenizer):
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        ids = description["model"]["vocab"]
        ids["a"], ids["b"] = ids["b"], ids["a"]
        swapped = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(description)),
            eos_token=END,
            unk_token=UNKNOWN,
            pad_token=PADDING,
        )
        message = f"'a' is {ids['b']} in the teacher's, {ids['a']} in the student's"
        with pytest.raises(UserError, match=re.escape(message)):
            check_same_vocabulary(tokenizer, swapped)

    def test_token_of_one_side_only_is_named(self, tokenizer):
        with pytest.raises(UserError, match=f"{SIZE} and {SIZE - 1} tokens") as caught:
            check_same_vocabulary(tokenizer, train_tokenizer(TEXTS, SIZE - 1))
        token = re.search(r"'(.+?)' is", str(caught.value))[1]
        assert token in tokenizer.get_vocab()

    @pytest.mark.parametrize("name", ["pad_token", "eos_token"])
    def test_special_tokens_count_too(self, tokenizer, name):
        other = train_tokenizer(TEXTS, SIZE)
        setattr(other, name, UNKNOWN)
        with pytest.raises(UserError, match=f"differ in {name}_id"):
            check_same_vocabulary(tokenizer, other)


@pytest.mark.parametrize("name", ["t5", "mt5", "opus", "nllb", "bart"])
def test_a_folder_without_tokenizer_files_has_no_tokenizer(name, tmp_path):
    released(name, tmp_path)
    for path in tmp_path.iterdir():
        if path.name not in ("config.json", "generation_config.json", "model.safetensors"):
            path.unlink()
    with pytest.raises(UserError, match="no tokenizer at"):
        load_tokenizer(tmp_path)
