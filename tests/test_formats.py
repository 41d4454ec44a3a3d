"""Lists of corpora, columns, scores, encodings, entities and languages."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2d import corpora
from a2d.errors import UserError
from a2d.text.corpus import from_arguments, places, read_corpus
from a2d.text.entities import unescape_entities
from a2d.text.formats import FORMATS, format_of
from a2d.text.languages import is_language, names_language, same_language
from a2d.text.pairs import Pair

PAIRS = [Pair("Guten Tag, Welt", "Dobry źeń, swět"), Pair('Er sagt "ja"', 'Wón groni "jo"')]
LANGUAGES = ("de", "dsb")


def read(spec, languages=LANGUAGES):
    return read_corpus(spec, "train", languages)


def refused(spec, *words, languages=LANGUAGES):
    with pytest.raises(UserError) as caught:
        read(spec, languages)
    message = str(caught.value)
    assert message.startswith("train: ")
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def write_file(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def table(rows, delimiter=","):
    """Return a table as Python's csv module writes it."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def warning(caplog):
    (record,) = caplog.records
    return record.getMessage()


class TestTableOfFormats:
    def test_suffixes_are_unique(self):
        suffixes = [suffix for form in FORMATS.values() for suffix in form.suffixes]
        assert len(suffixes) == len(set(suffixes))
        assert all(form.read or form.read_two for form in FORMATS.values())

    @pytest.mark.parametrize(
        ("name", "form"), [("x.tmx.gz", "translation memory"), ("x.de", "plain text")]
    )
    def test_by_name(self, tmp_path, name, form):
        assert format_of(tmp_path / name).name == form


class TestLists:
    def test_mixed_formats(self, tmp_path):
        mixed = [
            write_file(tmp_path / "a.tsv", "a\tb\n"),
            write_file(tmp_path / "c.de", "c\nC\n"),
            write_file(tmp_path / "d.dsb", "d\nD\n"),
            {"path": write_file(tmp_path / "e.csv", "e,x,f\n"), "source": 1, "target": 3},
            [write_file(tmp_path / "g.txt", "g\n"), write_file(tmp_path / "h.txt", "h\n")],
            write_file(tmp_path / "i.json", '[{"de": "i", "dsb": "j"}]'),
        ]
        want = ["ab", "cd", "CD", "ef", "gh", "ij"]
        assert read(mixed) == [Pair(*pair) for pair in want]
        names = [path.rpartition("/")[2] for path in places(mixed)]
        assert names == ["a.tsv", "c.de", "d.dsb", "e.csv", "g.txt", "h.txt", "i.json"]

    def test_text_files_without_tabs_are_paired_and_others_are_tables(self, tmp_path):
        sides = [write_file(tmp_path / f"{n}.txt", f"{n}\n") for n in "ab"]
        tables = [write_file(tmp_path / f"{n}.txt", f"{n}\t{n.upper()}\n") for n in "cd"]
        assert read([*sides, *tables]) == [("a", "b"), ("c", "C"), ("d", "D")]
        assert read([tables[0], *sides, tables[1]]) == [("c", "C"), ("a", "b"), ("d", "D")]

    def test_an_unpaired_file_is_refused(self, tmp_path):
        one, other, third = (write_file(tmp_path / f"x.{n}", "x\n") for n in ("de", "dsb", "hsb"))
        pairs = write_file(tmp_path / "x.tsv", "a\tb\n")
        for spec in ([one, other, third], [third, pairs], [pairs, third], [third, pairs, other]):
            refused(spec, f"{third} holds one language", "next to each other")

    def test_missing_files(self, tmp_path):
        pairs = write_file(tmp_path / "x.tsv", "a\tb\n")
        refused([pairs, str(tmp_path / "none.tmx")], "there is no", "none.tmx")
        refused([pairs, str(tmp_path / "none.de")], "there is no", "none.de")

    def test_sides_in_the_wrong_order(self, tmp_path):
        sides = [write_file(tmp_path / f"train.de-dsb.{n}", "x\n") for n in ("dsb", "de")]
        refused(sides, "list them in the other order", *sides)
        assert read(sides[::-1]) == [("x", "x")]
        assert read(sides, ("dsb", "de")) == read(sides, None) == [("x", "x")]

    def test_malformed_or_empty_file_in_a_list(self, tmp_path, caplog):
        good = write_file(tmp_path / "good.tsv", "a\tb\nc\td\n")
        refused([good, write_file(tmp_path / "bad.tsv", "a\n")], "bad.tsv, line 1 has 1 column")
        assert read([good, write_file(tmp_path / "empty.tsv", "")]) == [("a", "b"), ("c", "d")]
        refused([str(tmp_path / "empty.tsv")] * 2, "empty")

    def test_catalogues_of_one_language_are_not_paired(self, tmp_path):
        def catalogue(name, language, source, target):
            header = f'msgid ""\nmsgstr "Language: {language}\\n"\n\n'
            return write_file(tmp_path / name, f'{header}msgid "{source}"\nmsgstr "{target}"\n')

        one = catalogue("a.po", "dsb", "Ja", "Jo")
        other = catalogue("b.po", "dsb", "Nein", "Ně")
        german = catalogue("c.po", "de", "Nein", "Nicht doch")
        assert read([one, other]) == [("Ja", "Jo"), ("Nein", "Ně")]
        assert read([one, german, other]) == [("Ja", "Jo"), ("Nicht doch", "Ně")]
        assert read([german, other]) == [("Nicht doch", "Ně")]
        refused([other, german], f"{german} translates into 'de'", "the target is 'dsb'")
        refused([[other, german]], f"{other} is in 'dsb'", "but is listed as 'de'")


class TestArguments:
    def test_paths_and_mappings(self):
        assert from_arguments([]) is None
        assert from_arguments(["a.tsv"]) == "a.tsv"
        assert from_arguments(["a.de", "a.dsb"]) == ["a.de", "a.dsb"]
        mapping = "{path: x.csv, source: 1, target: dsb, score: s, min_score: 0.7}"
        want = {"path": "x.csv", "source": 1, "target": "dsb", "score": "s", "min_score": 0.7}
        assert from_arguments([mapping]) == want

    @pytest.mark.parametrize("text", ["{path: x.csv", "{path:x.csv, source: 1, target: 2}"])
    def test_no_yaml(self, text):
        with pytest.raises(
            UserError, match=rf"'\{text}' is not a YAML mapping: .* space after each colon"
        ):
            from_arguments([text])


class TestColumns:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_csv_as_python_writes_it(self, tmp_path, delimiter):
        path = write_file(tmp_path / "x.csv", table(PAIRS, delimiter))
        assert read(path) == PAIRS

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(*[st.text(st.sampled_from('ab ,;"\n\tä'), min_size=1)] * 2), min_size=1),
        st.sampled_from(",;"),
    )
    def test_round_trip(self, tmp_path_factory, rows, delimiter):
        path = tmp_path_factory.getbasetemp() / "x.csv"
        header = [("source", "target")]  # declares the delimiter
        write_file(path, table(header + rows, delimiter))
        want = [tuple(" ".join(t.split()) if "\n" in t else t.strip() for t in row) for row in rows]
        assert read({"path": str(path), "source": "source", "target": "target"}) == want

    @pytest.mark.parametrize(
        "header",
        [
            "id,source,target",
            "ID,SRC,TGT",
            "x,Source text,target_segment",
            "x,de,dsb",
            "x,de-DE,dsb_DE",
            "x,German,Lower Sorbian",
        ],
    )
    @pytest.mark.parametrize("suffix", ["csv", "tsv"])
    def test_header(self, tmp_path, header, suffix):
        text = f"{header}\n1,ja,jo\n2,nein,ně\n"
        text = text.replace(",", "\t") if suffix == "tsv" else text
        assert read(write_file(tmp_path / f"x.{suffix}", text)) == [("ja", "jo"), ("nein", "ně")]

    def test_header_in_any_order(self, tmp_path):
        path = write_file(tmp_path / "x.csv", "dsb,de\njo,ja\n")
        assert read(path) == [("ja", "jo")]
        assert read(path, ("dsb", "de")) == [("jo", "ja")]

    @pytest.mark.parametrize("first", ["Quelle,Ziel", "no,ne", "Source,x", "de,de"])
    def test_no_header_if_it_may_be_a_text(self, tmp_path, first):
        path = write_file(tmp_path / "x.csv", f"{first}\nja,jo\n")
        assert read(path) == [tuple(first.split(",")), ("ja", "jo")]

    def test_chosen(self, tmp_path):
        path = write_file(tmp_path / "x.csv", "id,de,en,dsb\n1,ja,yes,jo\n")
        assert read({"path": path, "source": "en", "target": "DSB"}) == [("yes", "jo")]
        assert read({"path": path, "source": 4, "target": 3}) == [("jo", "yes")]
        refused({"path": path, "source": "fr", "target": "de"}, "no column 'fr'", "'id', 'de'")
        refused({"path": path, "source": 1, "target": 5}, "4 columns, but no column 5")
        refused({"path": path, "source": 0, "target": 1}, "'source' is 0", "counted from 1")
        refused({"path": path, "source": 2, "target": 2}, "one key for both sides")
        for keys in ({"source": "dsb", "target": "de"}, {"source": "x.hsb", "target": "y.German"}):
            languages = ("de", keys["source"][-3:])
            refused({"path": path, **keys}, "swap 'source' and 'target'", languages=languages)
        plain = write_file(tmp_path / "y.tsv", "0.9\tja\tjo\n0.8\tnein\tně\n")
        assert read({"path": plain, "source": 2, "target": 3}) == [("ja", "jo"), ("nein", "ně")]
        refused(plain, "has 3 column(s) instead of 2", f"{{path: {plain}, source: 1, target: 2}}")

    def test_delimiter_as_spreadsheets_name_it(self, tmp_path):
        path = write_file(tmp_path / "x.csv", "sep=;\nde;dsb\na, b;c, d\n")
        assert read(path) == [("a, b", "c, d")]

    def test_texts_of_any_length(self, tmp_path):
        long = "ja, " * 50_000
        assert read(write_file(tmp_path / "x.csv", f'"{long}",jo\n')) == [(long.strip(), "jo")]

    def test_rows_of_other_lengths_are_reported(self, tmp_path, caplog):
        text = 'source,target\na,b\nc\nd,e,f\n"g, h",i\n\n"x\ny",z\n'
        path = write_file(tmp_path / "x.csv", text)
        assert read(path) == [("a", "b"), ("g, h", "i"), ("x y", "z")]
        assert warning(caplog).startswith(
            f"train: 2 of 5 entries are malformed and were skipped: {path}, line 3 has 1 column(s)"
        )

    def test_an_open_quote_spoils_only_its_line(self, tmp_path, caplog):
        rows = [(f"Satz {n}", f"sada {n}") for n in range(300)]
        text = table(rows[:100]) + '"offen,jo\n' + table(rows[100:]) + '"zu"viel,jo\n'
        path = write_file(tmp_path / "x.csv", text)
        assert read(path) == rows
        assert f"{path}, line 101 opens a quote that is not closed" in warning(caplog)
        assert f"{path}, line 302 has a stray quote" in warning(caplog)

    def test_quotes_of_tables_with_tabs_are_text(self, tmp_path):
        assert read(write_file(tmp_path / "x.tsv", '"a\t"b"\n')) == [('"a', '"b"')]

    def test_other_languages(self, tmp_path):
        rows = "Une phrase assez longue,Una frase bastante larga\n" * 3
        for header in ("fr,es", "French,Spanish"):
            path = write_file(tmp_path / "x.csv", f"{header}\n{rows}")
            refused(path, header[:2], "the languages are 'de' and 'dsb'")
        assert len(read({"path": path, "source": 1, "target": 2})) == 4


class TestScores:
    ROWS = (("laser", "de", "dsb"), ("1.2", "a", "A"), ("0,9", "b", "B"), ("1.05", "c", "C"))

    @pytest.mark.parametrize("kind", ["csv", "csv by number", "tsv", "jsonl", "tmx"])
    def test_pairs_below_the_minimum_are_counted(self, tmp_path, kind, caplog):
        keys = {"source": "de", "target": "dsb", "score": "laser", "min_score": 1.05}
        records = [dict(zip(self.ROWS[0], row, strict=True)) for row in self.ROWS[1:]]
        if kind == "jsonl":
            text = "\n".join(map(json.dumps, records))
        elif kind == "tmx":
            units = (
                f'<tu><prop type="laser">{r["laser"]}</prop><tuv xml:lang="de"><seg>{r["de"]}</seg>'
                f'</tuv><tuv xml:lang="dsb"><seg>{r["dsb"]}</seg></tuv></tu>'
                for r in records
            )
            text = f"<tmx><body>{''.join(units)}</body></tmx>"
        else:
            text = table(self.ROWS, "\t" if kind == "tsv" else ";")
            if "number" in kind:
                keys |= {"source": 2, "target": 3, "score": 1}
        path = write_file(tmp_path / f"x.{kind.split()[0]}", text)
        assert read({"path": path, **keys}) == [("a", "A"), ("c", "C")]
        assert warning(caplog) == f"train: Skipped entries of {path}: 1 with a score below 1.05."

    def test_no_number(self, tmp_path, caplog):
        path = write_file(
            tmp_path / "x.tsv", "a\tb\t0.9\nc\td\thigh\ne\tf\tnan\n" + "g\th\t1\n" * 3
        )
        spec = {"path": path, "source": 1, "target": 2, "score": 3, "min_score": 0.5}
        assert read(spec) == [("a", "b"), *[("g", "h")] * 3]
        assert "line 2 has 'high' as its score 3" in warning(caplog)

    def test_incomplete_score_settings(self, tmp_path):
        path = write_file(tmp_path / "x.csv", "source,target,s\na,b,1\n")
        keys = {"score": "s", "min_score": 1}
        assert read({"path": path, **keys}) == [("a", "b")]
        refused({"path": path, "score": "s"}, "both 'score' and 'min_score'")
        refused({"path": path, **keys, "min_score": "x"}, "'min_score' is 'x'")
        other = write_file(tmp_path / "y.csv", "x,y,s\na,b,1\n")
        refused({"path": other, **keys}, "'x', 'y', 's'", "choose those of its texts")


TEXTS = {
    "x.tsv": "ja\tjo\nnein\tně\n",
    "x.csv": "de,dsb\nja,jo\nnein,ně\n",
    "x.jsonl": '{"de": "ja", "dsb": "jo"}\n{"de": "nein", "dsb": "ně"}\n',
    "x.json": '[{"de": "ja", "dsb": "jo"},\n{"de": "nein", "dsb": "ně"}]\n',
    "x.po": 'msgid "ja"\nmsgstr "jo"\n\nmsgid "nein"\nmsgstr "ně"\n',
    "x.tmx": "<tmx><body>"
    + "".join(
        f'<tu><tuv xml:lang="de"><seg>{a}</seg></tuv><tuv xml:lang="dsb"><seg>{b}</seg></tuv>'
        "</tu>\n"
        for a, b in (("ja", "jo"), ("nein", "ně"))
    )
    + "</body></tmx>",
}

ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


class TestEncodings:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    @pytest.mark.parametrize("name", TEXTS)
    def test_unicode(self, tmp_path, name, encoding, caplog):
        path = write_file(tmp_path / name, TEXTS[name], encoding)
        assert read(path) == [("ja", "jo"), ("nein", "ně")]
        assert not caplog.records

    @pytest.mark.parametrize("mark", ["\ufeff", ""])
    def test_of_two_files(self, tmp_path, mark):
        sides = [
            write_file(tmp_path / f"x.{code}", mark + text, "utf-16-be")
            for code, text in (("de", "ja\r\nnein\r\n"), ("dsb", "jo\r\nn\u010a\u0a0d\r\n"))
        ]
        assert read(sides) == [("ja", "jo"), ("nein", "n\u010a\u0a0d")]
        messages = [
            write_file(tmp_path / f"{code}.ftl", mark + f"a = {text}\n", "utf-16-le")
            for code, text in (("de", "ja"), ("dsb", "jo"))
        ]
        assert read(messages) == [("ja", "jo")]

    def test_cyrillic_without_a_mark(self, tmp_path):
        rows = [("слово за словом", "фраза за фразой")] * 20
        text = "".join(f"{a}\t{b}\n" for a, b in rows)
        assert read(write_file(tmp_path / "x.tsv", text, "utf-16-le")) == rows

    def test_broken_lines_of_utf_16(self, tmp_path, caplog):
        data = TEXTS["x.tsv"].encode("utf-16-le") + b"\x00\xd8x\x00\t\x00y\x00\n\x00"
        (tmp_path / "x.tsv").write_bytes(b"\xff\xfe" + data)
        assert read(tmp_path / "x.tsv") == [("ja", "jo"), ("nein", "ně")]
        assert "line 3 is not valid UTF-16" in warning(caplog)


class TestJsonKeys:
    @pytest.mark.parametrize("keys", [("src", "tgt"), ("German", "Lower Sorbian"), ("de", "DSB")])
    def test_key_names(self, tmp_path, keys):
        text = json.dumps({"id": 1, keys[1]: "jo", keys[0]: "ja"})
        assert read(write_file(tmp_path / "x.jsonl", text)) == [("ja", "jo")]


class TestJsonArrays:
    RECORDS = ({"source": "a", "target": "b"}, {"source": "c\n[{", "target": 'd"},\n{'})

    @pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
    @pytest.mark.parametrize("indent", [None, 2])
    def test_reads(self, tmp_path, name, indent):
        path = write_file(tmp_path / name, "\n " + json.dumps(self.RECORDS, indent=indent) + "\n")
        assert read(path) == [tuple(r.values()) for r in self.RECORDS]

    @pytest.mark.parametrize("text", ["[]", "[\n]\n"])
    def test_empty(self, tmp_path, text):
        refused(write_file(tmp_path / "x.json", text), "is empty")

    def test_invalid_objects_are_reported(self, tmp_path, caplog):
        good = json.dumps(self.RECORDS[0])
        text = f'[{good},\n{{"source": "x" "target": "y"}},\n{good},\n"z",\n{good},\n{good}\n'
        path = write_file(tmp_path / "x.json", text)
        assert read(path) == [("a", "b")] * 4
        message = warning(caplog)
        assert message.startswith("train: 3 of 7 entries are malformed")
        faults = ("line 2, object 2 is not valid JSON", "line 4, object 4 is not a JSON object")
        for fault in faults:
            assert f"{path}, {fault}" in message
        assert "an array of objects (and 1 more)" in message  # the array's end is missing


class TestEntities:
    @pytest.mark.parametrize(
        ("text", "plain"),
        [
            ("Tom &amp;amp; Jerry", "Tom & Jerry"),
            ("&amp;amp;quot;x&quot;", '"x"'),
            ("&#39;&#x2019;&lt;b&gt;", "'’<b>"),
            ("a&nbsp;b&#10;c", "a\u00a0b c"),
            ("R&D; AT&T &File &copyright &amp &brandName;", None),
            ("&#0;", "\ufffd"),
        ],
    )
    def test_unescaped(self, text, plain):
        assert unescape_entities(text) == (text if plain is None else plain)

    @given(st.text())
    def test_is_idempotent(self, text):
        assert unescape_entities(unescape_entities(text)) == unescape_entities(text)

    def test_are_counted(self, tmp_path, caplog):
        text = "a &amp;amp; b\tjo\nja\t&quot;jo&quot;\nR&D\tR&D\n"
        path = write_file(tmp_path / "x.tsv", text)
        assert read(path) == [("a & b", "jo"), ("ja", '"jo"'), ("R&D", "R&D")]
        assert warning(caplog) == (
            f"train: HTML entities were unescaped in 2 pairs of {path}, for example "
            "'a &amp;amp; b'."
        )

    def test_xml_escaped_several_times(self, tmp_path):
        units = (
            '<tu><tuv xml:lang="de"><seg>a &amp;amp;amp; b &amp;lt;</seg></tuv>'
            '<tuv xml:lang="dsb"><seg>&amp;quot;c&amp;quot; &amp; d</seg></tuv></tu>'
        )
        path = write_file(tmp_path / "x.tmx", f"<tmx><body>{units}</body></tmx>")
        assert read(path) == [("a & b <", '"c" & d')]


class TestLanguages:
    def test_codes_and_names(self):
        for code in ("de", "deu", "ger", "de-AT", "deu_Latn", "DE"):
            assert same_language(code, "de"), code
            assert is_language(code)
        assert same_language("nb-NO", "no")
        assert not same_language("hsb", "dsb")
        assert not same_language("pt-BR", "pt-PT")
        assert names_language("german", "deu")
        assert not any(map(is_language, ("", "xx", "Text", "source", "d")))

    def test_agree_with_another_table(self):
        transformers = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
        for code, name in transformers.LANGUAGES.items():
            if is_language(code) and len(code) == 2 and code not in ("nn",):
                equal = names_language(name, code) or not is_language(name)
                assert equal, (code, name)

    @pytest.mark.parametrize("keys", [("fr", "it"), ("de", "fr"), ("hsb", "de")])
    def test_records_in_other_languages(self, tmp_path, keys):
        record = {"translation": dict(zip(keys, ("x", "y"), strict=True))}
        path = write_file(tmp_path / "x.jsonl", json.dumps(record))
        refused(path, *map(repr, keys), "the languages are 'de' and 'dsb'")
        chosen = {"source": f"translation.{keys[0]}", "target": f"translation.{keys[1]}"}
        assert read({"path": path, **chosen}) == [("x", "y")]

    def test_units_without_a_language_are_counted(self, tmp_path, caplog):
        def unit(*codes):
            variants = (f'<tuv xml:lang="{c}"><seg>{c}</seg></tuv>' for c in codes)
            return f"<tu>{''.join(variants)}</tu>\n"

        units = [("de", "dsb-DE"), ("de",), ("de", "en"), ("dsb",), ("fr", "en")]
        body = "".join(unit(*codes) for codes in units)
        path = write_file(tmp_path / "x.tmx", f"<tmx><body>{body}</body></tmx>")
        assert read(path) == [("de", "dsb-DE")]
        assert warning(caplog) == (
            f"train: Skipped entries of {path}: 2 without 'dsb', 1 without 'de', 1 without 'de' "
            "and 'dsb'."
        )

    def catalogue(self, path, header):
        lines = "".join(f'"{name}: {value}\\n"\n' for name, value in header.items())
        return write_file(path, f'msgid ""\nmsgstr ""\n{lines}\nmsgid "yes"\nmsgstr "ja"\n')

    def test_language_of_a_catalogue(self, tmp_path):
        path = self.catalogue(tmp_path / "x.po", {"Language": "de_DE"})
        assert read(path, ("en", "de")) == read(path, None) == [("yes", "ja")]
        refused(path, f"{path} translates into 'de_DE'", "the target is 'dsb'")
        refused(path, "X-Source-Language", languages=("de", "en"))
        path = self.catalogue(tmp_path / "x.po", {"Language": "de", "X-Source-Language": "en"})
        assert read(path, ("de", "en")) == [("ja", "yes")]

    def test_untranslated_messages_are_counted(self, tmp_path, caplog):
        header = 'msgid ""\nmsgstr "Language: dsb\\n"\n\n'
        entries = (
            'msgid "a"\nmsgstr "b"\n\nmsgid "c"\nmsgstr ""\n\n#, fuzzy\nmsgid "d"\nmsgstr "e"\n'
        )
        path = write_file(tmp_path / "x.po", header + entries)
        assert read(path) == [("a", "b")]
        assert warning(caplog) == f"train: Skipped entries of {path}: 2 without a translation."


class TestPackaged:
    @pytest.fixture
    def packaged(self, tmp_path, monkeypatch):
        folder = tmp_path / "de-dsb"
        folder.mkdir()
        (folder / "LICENSE").write_text("MPL")
        (folder / "README.md").write_text("where from")
        write_file(folder / "memory.tmx", TEXTS["x.tmx"])
        write_file(folder / "entities.tsv", "a &amp;amp;\tb\n")
        monkeypatch.setattr(corpora, "files", lambda name: tmp_path)

    @pytest.mark.usefixtures("packaged")
    def test_any_format(self):
        assert corpora.names() == ["de-dsb/entities", "de-dsb/memory"]
        assert read("builtin:de-dsb/memory") == [("ja", "jo"), ("nein", "ně")]
        names = ["builtin:de-dsb/memory", "builtin:de-dsb/entities"]
        assert read(names)[2:] == [("a &amp;amp;", "b")]  # unchanged
        refused("builtin:de-dsb/memory", "no unit in both", languages=("de", "en"))
