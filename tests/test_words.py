"""Encoding by words gives exactly the tokens that the tokenizer gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretrained import FAMILIES, LANGUAGES, PAIRS, tokenizer_of

from a2d.models.tokenizer import train_tokenizer
from a2d.text import words
from a2d.text.words import WordEncoder, encodes_words, text_encoder

TOKENIZER = train_tokenizer([text for pair in PAIRS for text in pair], 700)
WORDS = st.sampled_from(
    ["", "a", "Datei", "źěło", "▁", "x▁y", "</s>", "a<pad>b", "<0x41>", "日本", "é", "\t", "\u00a0"]
) | st.text(max_size=4)


def test_trained_tokenizers_encode_words():
    assert encodes_words(TOKENIZER)
    assert isinstance(text_encoder(TOKENIZER, "text"), WordEncoder)


@given(st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=5))
def test_tokens_are_those_of_the_tokenizer(texts):
    expected = TOKENIZER(texts, truncation=True)["input_ids"] if texts else []
    assert text_encoder(TOKENIZER, "text")(texts).to_pylist() == expected


def test_real_text():
    for side, name in enumerate(("text", "text_target")):
        texts = [pair[side] for pair in PAIRS]
        expected = TOKENIZER(**{name: texts}, truncation=True)["input_ids"]
        assert text_encoder(TOKENIZER, name)(texts).to_pylist() == expected


def test_long_texts_are_cut():
    texts = ["ja " * count + "nein" for count in (5, 509, 510, 511, 512, 600)]
    encoded = text_encoder(TOKENIZER, "text")(texts).to_pylist()
    assert encoded == TOKENIZER(texts, truncation=True)["input_ids"]
    assert max(map(len, encoded)) == TOKENIZER.model_max_length


def test_words_beyond_the_table_are_encoded_too(monkeypatch):
    monkeypatch.setattr(words, "MAX_WORDS", 2)
    texts = [pair.source for pair in PAIRS]
    encoded = text_encoder(TOKENIZER, "text")(texts).to_pylist()
    assert encoded == TOKENIZER(texts, truncation=True)["input_ids"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_tokenizers_of_all_families(kind):
    tokenizer = tokenizer_of(kind)
    if kind in LANGUAGES:
        tokenizer.src_lang, tokenizer.tgt_lang = LANGUAGES[kind]
    for side, name in enumerate(("text", "text_target")):
        texts = [pair[side] for pair in PAIRS[:60]] + ["", "  zwei  Leerzeichen ", "a</s>b", "日"]
        expected = tokenizer(**{name: texts}, truncation=True)["input_ids"]
        assert text_encoder(tokenizer, name)(texts).to_pylist() == expected
