"""Repairs of texts while they are read, and messages about corpora without pairs."""

import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from a2d.errors import UserError
from a2d.runs.recipe import load_recipe
from a2d.runs.splits import read_splits
from a2d.text.corpus import read_corpus
from a2d.text.entities import printable

LANGUAGES = ("en", "de")
ENGLISH = "The quick brown fox jumps over the lazy dog number"
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund Nummer"


def write_file(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def refused(spec, *words):
    with pytest.raises(UserError) as caught:
        read_corpus(spec, "train", LANGUAGES)
    for word in words:
        assert word in str(caught.value)


class TestControlCharacters:
    @pytest.mark.parametrize(
        ("text", "plain"),
        [
            ("a\x00b\x07c\x1b[31m\x7f", "abc[31m"),
            (
                "it\x92s \x93so\x94 \x96 \x80 5\x81",
                "it’s “so” – € 5",
            ),  # none of these encodings has 0x81
            ("a\tb\nc\u0085d\u2028e\u00a0f\u00adg\u200dh", None),
        ],
    )
    def test_removed(self, text, plain):
        assert printable(text) == (text if plain is None else plain)

    def test_are_counted(self, tmp_path, caplog):
        path = write_file(
            tmp_path / "x.tsv", "a\x07b\tc\nd\te\x92f\nplain\u00a0x\ty\u00adz\n\x08\tx\n"
        )
        want = [("ab", "c"), ("d", "e’f"), ("plain\u00a0x", "y\u00adz"), ("", "x")]
        assert read_corpus(path) == want
        assert warnings(caplog) == [
            f"corpus: Control characters were removed from 3 pairs of {path}, for example "
            r"'a\x07b'."
        ]

    def test_the_example_shows_the_change(self, tmp_path, caplog):
        text = "A sentence that is long before the \x07 fault, and long after it as well, for sure"
        read_corpus(write_file(tmp_path / "x.tsv", f"{text}\tx\n"))
        (message,) = warnings(caplog)
        assert r"… before the \x07 fault, and long" in message

    def test_byte_order_marks_of_files_put_together(self, tmp_path):
        path = write_file(tmp_path / "x.tsv", "\ufeffa\tb\n\ufeffc\td\n\u200b \ufeff\te\u2060 \n")
        assert read_corpus(path) == [("a", "b"), ("c", "d"), ("", "e")]


class TestNoPairs:
    def test_message_names_skipped_entries(self, tmp_path):
        rows = "".join(f"0.{n}\ta\tb\n" for n in range(7))
        path = write_file(tmp_path / "x.tsv", rows)
        spec = {"path": path, "source": 2, "target": 3, "score": 1, "min_score": 0.9}
        refused(spec, f"every entry of {path} was skipped (7 with a score below 0.9)")

    def test_one_empty_file_of_several(self, tmp_path, caplog):
        empty = write_file(tmp_path / "x.tsv", "\n")
        assert read_corpus([empty, write_file(tmp_path / "y.tsv", "a\tb\n")]) == [("a", "b")]
        assert warnings(caplog) == [f"corpus: {empty} contains no pair."]


def test_skipped_entries_count_as_entries(tmp_path, caplog):
    rows = "".join(f"{score}\ta\tb\n" for score in [0.1] * 6 + ["?"] * 2 + [0.9])
    path = write_file(tmp_path / "x.tsv", rows)
    spec = {"path": path, "source": 2, "target": 3, "score": 1, "min_score": 0.5}
    assert read_corpus(spec) == [("a", "b")]
    assert "2 of 9 entries are malformed" in warnings(caplog)[0]


class TestNull:
    """Databases export missing translations as null."""

    def test_json(self, tmp_path, caplog):
        records = [{"en": f"a{n}", "de": None if n % 3 else f"b{n}"} for n in range(9)]
        path = write_file(tmp_path / "x.json", json.dumps(records))
        want = [("a0", "b0"), ("a3", "b3"), ("a6", "b6")]
        assert read_corpus(path, languages=LANGUAGES) == want
        assert warnings(caplog) == [f"corpus: Skipped entries of {path}: 6 without 'de'."]

    def test_parquet(self, tmp_path, caplog):
        path = tmp_path / "x.parquet"
        table = pyarrow.table({"source": ["a", None, None], "target": ["b", "c", None]})
        pyarrow.parquet.write_table(table, path)
        assert read_corpus(path) == [("a", "b")]
        reasons = "1 without 'source', 1 without 'source' and 'target'"
        assert warnings(caplog) == [f"corpus: Skipped entries of {path}: {reasons}."]


@pytest.mark.parametrize("entity", ["&nbsp;", "&eacute;"])
@pytest.mark.parametrize("rest", ["", "<tu><tuv xml:lang='en'><seg>R&D</seg></tuv></tu>"])
def test_memories_with_entities_of_html(tmp_path, caplog, entity, rest):
    units = [
        f"<tu><tuv xml:lang='en'><seg>a{entity}{n}</seg></tuv>"
        f"<tuv xml:lang='de'><seg>b &amp; {entity}c</seg></tuv></tu>\n"
        for n in range(3)
    ]
    path = write_file(tmp_path / "x.tmx", f"<tmx><body>\n{''.join(units)}{rest}</body></tmx>")
    text = {"&nbsp;": (" ", ""), "&eacute;": ("é", "é")}[entity]
    want = [(f"a{text[0]}{n}", f"b & {text[1]}c") for n in range(3)]
    assert read_corpus(path, languages=LANGUAGES) == want
    assert len(warnings(caplog)) == bool(rest)
    assert all("1 of 4 entries are malformed" in warning for warning in warnings(caplog))


@pytest.mark.parametrize(
    ("name", "words"), [("x.en.zip", "unpack it"), ("x.tar.gz", "unpack it"), ("x.XLSX", "(.csv)")]
)
def test_archives_and_spreadsheets_are_no_plain_text(tmp_path, name, words):
    path = write_file(tmp_path / name, "PK a line\n")
    refused(path, path, words)
    refused([path, path], path, words)


class TestTables:
    def test_a_first_row_without_a_score_is_not_a_header(self, tmp_path, caplog):
        rows = "".join(f"{score}\ta{n}\tb\n" for n, score in enumerate(["nan", 1, 2, "", 3]))
        spec = {"source": 2, "target": 3, "score": 1, "min_score": 2}
        path = write_file(tmp_path / "x.tsv", rows)
        assert read_corpus({"path": path, **spec}) == [("a2", "b"), ("a4", "b")]
        (warning,) = warnings(caplog)
        assert warning.startswith("corpus: 2 of 5 entries are malformed")
        headed = write_file(tmp_path / "y.tsv", f"quality\tsource\ttarget\n{rows[8:]}")
        assert read_corpus({"path": headed, **spec})[0] == ("a2", "b")

    def test_a_spreadsheets_quotes_are_refused(self, tmp_path):
        rows = [(f"a{n}", f'say ""b"" {n}') for n in range(5)]
        quoted = "".join(f'"{a}"\t"{b}"\n' for a, b in rows)
        refused(
            write_file(tmp_path / "x.tsv", quoted), "every text in quotes", "name the file .csv"
        )
        want = [(a, b.replace('""', '"')) for a, b in rows]
        assert read_corpus(write_file(tmp_path / "x.csv", quoted)) == want
        some = write_file(tmp_path / "y.tsv", quoted + "c\td\n")
        assert read_corpus(some)[0] == ('"a0"', '"say ""b"" 0"')


class TestHeldOut:
    """Validation and test pairs in other languages are counted; no rule drops them."""

    def splits(self, folder, test, *overrides):
        pairs = [(f"{ENGLISH} {n}", f"{GERMAN} {n}") for n in range(30)]
        table = "".join(f"{a}\t{b}\n" for a, b in pairs)
        corpus = {
            "train": write_file(folder / "train.tsv", table),
            "valid": write_file(folder / "valid.tsv", table),
            "test": write_file(folder / "test.tsv", "".join(f"{a}\t{b}\n" for a, b in test(pairs))),
            "source_language": "en",
            "target_language": "de",
            "limit": "null",
        }
        settings = [f"corpus.{key}={value}" for key, value in corpus.items()]
        return read_splits(load_recipe("methods", [*settings, *overrides]))

    def test_swapped_sides_are_refused(self, tmp_path):
        def swapped(pairs):
            return [(b, a) for a, b in pairs]

        with pytest.raises(UserError, match=r"test: 100% of the source texts look like 'de'"):
            self.splits(tmp_path, swapped, "corpus.cleaning.language=auto")
        assert len(self.splits(tmp_path, swapped, "corpus.cleaning.language=false").test) == 30

    def test_pairs_in_other_languages_are_counted_and_kept(self, tmp_path, caplog):
        french = ("The fox", "Le rapide renard brun saute par-dessus le chien paresseux")

        def test(pairs):
            return [*pairs, french, french]

        assert len(self.splits(tmp_path, test, "corpus.cleaning.language=auto").test) == 32
        assert warnings(caplog) == [
            "test: 2 of 32 pairs have a side that looks like another language; they are kept."
        ]
