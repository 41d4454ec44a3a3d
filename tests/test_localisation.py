"""Translation memories, XLIFF, gettext and Fluent files, valid and broken."""

import gettext
import gzip
import logging
import unicodedata
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import polib
import pyarrow
import pytest
from fluent.syntax import FluentSerializer, ast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a2d.errors import UserError
from a2d.text import localisation
from a2d.text.corpus import read_corpus
from a2d.text.pairs import Languages, Pair, Selection, normal_pair

LANGUAGES = ("de", "dsb")
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


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


def skipped(caplog):
    """Return the only warning's message."""
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    return record.getMessage()


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
SENTENCES = st.lists(WORDS, min_size=1).map(" ".join)
SAMPLES = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=5)


def expected(rows):
    return [Pair(*(unicodedata.normalize("NFC", side) for side in row)) for row in rows]


FAULTS = ("R&D", "a < b", "wenn x<5", "&nbsp", "\x01", "</seg>", "<bpt>", "</tuv>")
"""Texts that are invalid XML in their unit."""


def unit(**texts):
    variants = "".join(f'<tuv xml:lang="{c}"><seg>{t}</seg></tuv>' for c, t in texts.items())
    return f"<tu>{variants}</tu>\n"


def memory(path, *units):
    header = '<tmx version="1.4"><header srclang="de"/><body>\n'
    path.write_text(f"{XML}{header}{''.join(units)}</body></tmx>\n", "utf-8")
    return path


class TestTranslationMemory:
    @given(SAMPLES)
    def test_reads_what_elementtree_writes(self, tmp_path_factory, rows):
        root = ElementTree.Element("tmx")
        body = ElementTree.SubElement(root, "body")
        for row in rows:
            unit = ElementTree.SubElement(body, "tu")
            for code, text in zip(LANGUAGES, row, strict=True):
                variant = ElementTree.SubElement(unit, "tuv", {"xml:lang": code})
                ElementTree.SubElement(variant, "seg").text = text
        path = tmp_path_factory.getbasetemp() / "x.tmx"
        ElementTree.ElementTree(root).write(path, "utf-8", xml_declaration=True)
        assert read(path) == expected(rows)

    def test_takes_the_two_languages_from_many_and_their_variants(self, tmp_path):
        path = memory(
            tmp_path / "x.tmx",
            unit(en="one", dsb="jaden", de="eins"),
            unit(**{"de-AT": "zwei", "DSB": "dwa"}),
            unit(**{"de-CH": "drü", "de": "drei", "dsb": "tśi"}),
            unit(de="nur deutsch", en="German only"),
        )
        assert read(path) == [("eins", "jaden"), ("zwei", "dwa"), ("drei", "tśi")]
        assert read({"path": path, "source": "dsb", "target": "en"}) == [("jaden", "one")]

    def test_inline_markup_is_removed_but_not_its_text(self, tmp_path):
        text = (
            '<bpt i="1">&lt;b&gt;</bpt>Hallo <hi>Welt</hi><ept i="1">&lt;/b&gt;</ept>\n  &amp; du'
        )
        assert read(memory(tmp_path / "x.tmx", unit(de=text, dsb="Witaj"))) == [
            ("Hallo Welt & du", "Witaj")
        ]

    def test_compressed(self, tmp_path):
        plain = memory(tmp_path / "x.tmx", unit(de="ja", dsb="jo")).read_bytes()
        (tmp_path / "x.tmx.gz").write_bytes(gzip.compress(plain))
        (tmp_path / "x.tmx.zst").write_bytes(pyarrow.compress(plain, "zstd", asbytes=True))
        assert read(tmp_path / "x.tmx.gz") == read(tmp_path / "x.tmx.zst") == [("ja", "jo")]

    def test_broken_units_are_skipped_and_reported(self, tmp_path, caplog):
        units = [unit(de=f"Satz {n}", dsb=f"Sada {n}") for n in range(20)]
        broken_unit = unit(de="Sie & ich", dsb="wy")
        path = memory(
            tmp_path / "x.tmx", *units[:10], broken_unit.replace("</tuv>", "", 1), *units[10:]
        )
        assert [pair.source for pair in read(path)] == [f"Satz {n}" for n in range(20)]
        assert f"1 of 21 entries are malformed and were skipped: {path}, line 13" in skipped(caplog)

    @given(
        st.lists(st.one_of(WORDS, st.sampled_from(FAULTS)), min_size=1),
        st.sampled_from(["utf-8", "utf-16", "iso-8859-2"]),
        st.integers(1, 400),
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_only_broken_units_are_skipped(self, tmp_path, monkeypatch, texts, encoding, block):
        monkeypatch.setattr("a2d.text.files._BLOCK_BYTES", block)
        encodable = [t for t in texts if t.encode(encoding, "ignore").decode(encoding) == t]
        path = tmp_path / "x.tmx"
        declared = XML.replace("UTF-8", "iso-8859-2") if encoding == "iso-8859-2" else ""
        units = [unit(de=t if t in FAULTS else escape(t), dsb="jo") for t in encodable]
        document = f"{declared}<tmx>\n<body>\n{''.join(units)}</body></tmx>"
        path.write_bytes(document.encode(encoding))
        entries = list(localisation.translation_memory(path, Selection(Languages(*LANGUAGES))))
        first = 4 if declared else 3
        assert [(e.source if isinstance(e, Pair) else e.where) for e in entries] == [
            f"{path}, line {first + n}" if t in FAULTS else normal_pair(t, "").source
            for n, t in enumerate(encodable)
        ]

    def test_bytes_of_another_encoding_spoil_their_unit_alone(self, tmp_path, caplog):
        path = memory(tmp_path / "x.tmx", unit(de="Fön", dsb="a"), *[unit(de="b", dsb="c")] * 2)
        path.write_bytes(path.read_bytes().replace("ö".encode(), b"\xf6"))
        assert read(path) == [("b", "c")] * 2
        assert f"1 of 3 entries are malformed and were skipped: {path}, line 3" in skipped(caplog)

    @pytest.mark.parametrize("end", ["", "</body>", '<tu><tuv xml:lang="de">'])
    def test_a_truncated_file_is_reported(self, tmp_path, end, caplog):
        path = memory(tmp_path / "x.tmx", *(unit(de=str(n), dsb="x") for n in range(5)))
        path.write_text(path.read_text().replace("</body></tmx>", end))
        assert len(read(path)) == 5
        assert f"1 of 6 entries are malformed and were skipped: {path}, line 9" in skipped(caplog)

    def test_the_first_of_several_variants_counts(self, tmp_path):
        path = memory(
            tmp_path / "x.tmx",
            unit(de="eins", dsb="a").replace(
                "<tu>", '<tu><tuv xml:lang="de"><seg>zuerst</seg></tuv>'
            ),
        )
        assert read(path) == [("zuerst", "a")]

    def test_other_variants_are_counted(self, tmp_path, caplog):
        both = unit(**{"de-CH": "wohl", "de-AT": "ja", "dsb": "jo"})
        path = memory(tmp_path / "x.tmx", both, unit(de="nein", dsb="ně"))
        assert read(path) == [("wohl", "jo"), ("nein", "ně")]
        assert "1 another variant of 'de' (name a region" in skipped(caplog)
        caplog.clear()
        assert read(path, languages=("de-AT", "dsb")) == [("ja", "jo"), ("nein", "ně")]
        assert not caplog.records

    def test_other_languages(self, tmp_path):
        path = memory(tmp_path / "x.tmx", unit(de="ja", en="yes"))
        refused(path, path, "no unit in both 'de' and 'dsb'", "'de', 'en'")
        refused(path, path, "name two", languages=None)

    def test_wrong_declaration_of_utf_16(self, tmp_path):
        path = memory(tmp_path / "x.tmx", *[unit(de="schön", dsb="rědny")] * 3)
        path.write_text(path.read_text().replace(XML, '<?xml version="1.0" encoding="UTF-16"?>'))
        assert read(path) == [("schön", "rědny")] * 3

    def test_invalid_xml(self, tmp_path):
        (tmp_path / "x.tmx").write_text("Guten Tag\tDobry źeń\n")
        refused(tmp_path / "x.tmx", "line 1 is not valid XML")

    def test_entities_and_comments(self, tmp_path):
        path = memory(tmp_path / "x.tmx", unit(de="a&nbsp;b<!-- c -->&auml;&lt;", dsb="jo"))
        entities = '<!DOCTYPE tmx SYSTEM "tmx14.dtd">'
        path.write_text(path.read_text().replace(XML, XML + entities))
        assert read(path) == [("a bä<", "jo")]

    def test_external_entities_are_not_read(self, tmp_path):
        (tmp_path / "secret").write_text("geheim")
        path = memory(tmp_path / "x.tmx", unit(de="ja &e; nein", dsb="jo"), unit(de="a", dsb="b"))
        entity = f'<!DOCTYPE tmx [<!ENTITY e SYSTEM "{tmp_path}/secret">]>'
        path.write_text(path.read_text().replace(XML, XML + entity))
        assert "geheim" not in str(read(path))


XLIFF_12 = """<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">
<file source-language="de-DE" target-language="dsb" original="x" datatype="plaintext"><body>
<trans-unit id="1"><source>Hallo <g id="1">Welt</g><x id="2"/></source>
  <target>Witaj <g id="1">swět</g><ph id="3">{0}</ph></target></trans-unit>
<trans-unit id="2"><source>leer</source></trans-unit>
<trans-unit id="3"><source>neu</source><target state="new">neu</target></trans-unit>
</body></file></xliff>"""
XLIFF_20 = """<xliff version="2.0" srcLang="de" trgLang="dsb"
 xmlns="urn:oasis:names:tc:xliff:document:2.0"><file id="f"><unit id="1">
<segment><source>Hallo <pc id="1">Welt</pc></source><target>Witaj <pc id="1">swět</pc></target>
</segment><segment state="initial"><source>neu</source><target>neu</target></segment></unit></file>
</xliff>"""


TRADOS = """<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2"
 xmlns:sdl="http://sdl.com/FileTypes/SdlXliff/1.0" sdl:version="1.0">
<file source-language="de-DE" target-language="dsb-DE" original="x" datatype="x">
<body><trans-unit id="1" translate="no"><source>x</source></trans-unit>
<trans-unit id="2"><source>Ja. Nein.</source>
<seg-source><mrk mtype="seg" mid="1">Ja.</mrk> <mrk mtype="seg" mid="2">Nein.</mrk></seg-source>
<target><mrk mtype="seg" mid="1">Jo.</mrk> <mrk mtype="seg" mid="2">Ně.</mrk></target>
<sdl:seg-defs><sdl:seg id="1" conf="Translated"/><sdl:seg id="2" conf="Draft"/></sdl:seg-defs>
</trans-unit></body></file></xliff>"""


def test_xliff_of_trados(tmp_path):
    path = tmp_path / "x.docx.sdlxliff"
    path.write_text(TRADOS, "utf-8-sig")
    assert read(path) == [("Ja.", "Jo."), ("Nein.", "Ně.")]


def test_segments_of_xliff_are_paired_by_their_marks(tmp_path):
    path = tmp_path / "x.xlf"
    second = '<mrk mtype="seg" mid="2">Ně.</mrk>'
    path.write_text(TRADOS.replace(second, ""), "utf-8")  # not translated yet
    assert read(path) == [("Ja.", "Jo.")]
    first = '<mrk mtype="seg" mid="1">Jo.</mrk>'
    path.write_text(TRADOS.replace(f"{first} {second}", f"{second} {first}"), "utf-8")
    assert read(path) == [("Ja.", "Jo."), ("Nein.", "Ně.")]


@pytest.mark.parametrize(
    ("around", "within", "pairs"),
    [("no", "", []), ("no", ' translate="yes"', [("a", "b")]), ("yes", ' translate="no"', [])],
)
def test_units_of_xliff_inherit_the_translate_attribute(tmp_path, around, within, pairs):
    path = tmp_path / "x.xlf"
    namespace = "urn:oasis:names:tc:xliff:document:2.0"
    path.write_text(
        f'<xliff version="2.0" srcLang="de" trgLang="dsb" xmlns="{namespace}"><file id="f">'
        f'<group id="g" translate="{around}"><unit id="1"{within}><segment><source>a</source>'
        "<target>b</target></segment></unit></group><unit id='2'><segment><source>c</source>"
        "<target>d</target></segment></unit></file></xliff>"
    )
    assert read(path) == [*pairs, ("c", "d")]


@pytest.mark.parametrize("text", [XLIFF_12, XLIFF_20], ids=["1.2", "2.0"])
class TestXliff:
    @pytest.fixture
    def path(self, tmp_path, text):
        path = tmp_path / "x.xlf"
        path.write_text(XML + text, "utf-8")
        return path

    @pytest.mark.parametrize("languages", [LANGUAGES, None, ("de", "dsb-DE")])
    def test_translated_segments(self, path, languages):
        assert read(path, languages) == [("Hallo Welt", "Witaj swět")]

    def test_backwards(self, path):
        assert read(path, ("dsb", "de")) == [("Witaj swět", "Hallo Welt")]

    def test_untranslatable_units_and_other_languages_are_skipped(self, path):
        text = path.read_text("utf-8")
        if "trgLang" in text:  # one document, one pair
            return
        file = text[text.index("<file") : text.index("</xliff>")]
        french = file.replace('"dsb"', '"fr"')
        marked = file.replace("<trans-unit", '<trans-unit translate="no"')
        path.write_text(text.replace(file, french + file + marked + french), "utf-8")
        assert read(path) == [("Hallo Welt", "Witaj swět")]

    def test_broken_segments_are_skipped_and_reported(self, path, caplog):
        text = path.read_text("utf-8")
        name = "segment" if "trgLang" in text else "trans-unit"
        start, end = text.index(f"<{name}"), text.index(f"</{name}>") + len(name) + 3
        unit = text[start:end]
        text = text.replace(unit, unit + unit.replace("Hallo", "R&D <x") + unit)
        path.write_text(text, "utf-8")
        assert read(path, ("dsb", "de")) == [("Witaj swět", "Hallo Welt")] * 2
        left_out = 1 if name == "segment" else 2
        assert f"1 of {3 + left_out} entries are malformed" in skipped(caplog)
        assert f"{left_out} without a translation" in skipped(caplog)

    def test_other_languages(self, path):
        refused(path, "translates from 'de", "to 'dsb'", "'en'", languages=("en", "dsb"))


CATALOGUE = """msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "File"
msgstr "Dataja"

msgctxt "verb"
msgid "File"
msgstr "Zapołožyś"

#, fuzzy
msgid "Edit"
msgstr "Wobźěłaś?"

msgid "one file\\n"
msgid_plural "many files\\n"
msgstr[0] "jadna dataja\\n"
msgstr[1] "dwě dataji\\n"
msgstr[2] "wjele datajow\\n"

msgid "missing"
msgstr ""

#~ msgid "old"
#~ msgstr "stary"
"""
ENTRIES = [
    ("File", "Dataja"),
    ("File", "Zapołožyś"),
    ("one file", "jadna dataja"),
    ("many files", "wjele datajow"),
]


class TestGettext:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "x.po"
        path.write_text(CATALOGUE, "utf-8")
        return path

    def test_translated_messages(self, path):
        assert read(path) == ENTRIES

    def test_compiled(self, path):
        polib.pofile(str(path)).save_as_mofile(str(path.with_suffix(".mo")))
        assert sorted(read(path.with_suffix(".mo"))) == sorted(ENTRIES)
        with path.with_suffix(".mo").open("rb") as file:  # an independent reader agrees
            assert gettext.GNUTranslations(file).pgettext("verb", "File") == "Zapołožyś"

    def test_two_catalogues_by_message(self, path, tmp_path):
        other = tmp_path / "de.po"
        text = CATALOGUE.replace("Dataja", "Datei").replace("Zapołožyś", "Ablegen")
        other.write_text(text.replace("wjele datajow", "viele").replace("missing", "gone"))
        assert read([other, path])[:2] == [("Datei", "Dataja"), ("Ablegen", "Zapołožyś")]
        assert read([other, path])[-1] == ("viele", "wjele datajow")

    @given(SAMPLES)
    def test_reads_what_polib_writes(self, tmp_path_factory, rows):
        rows = list(dict(rows).items())
        catalogue = polib.POFile()
        catalogue.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
        catalogue.extend(polib.POEntry(msgid=source, msgstr=target) for source, target in rows)
        path = tmp_path_factory.getbasetemp() / "written.po"
        catalogue.save(str(path))
        assert read(path) == expected(rows)

    def test_declared_encoding(self, path):
        text = CATALOGUE.replace("UTF-8", "ISO-8859-2").replace("Zapołožyś", "žyś")
        path.write_bytes(text.encode("iso-8859-2"))
        assert read(path)[1] == ("File", "žyś")
        path.write_bytes(text.replace("ISO-8859-2", "UTF-8").encode("iso-8859-2"))
        refused(path, "is not in the encoding that the file declares")

    @pytest.mark.parametrize("name", ["CHARSET", "utf8"])
    def test_undeclared_encoding(self, path, name):
        path.write_text("\ufeff" + CATALOGUE.replace("UTF-8", name), "utf-8")
        assert read(path) == ENTRIES

    def test_bytes_of_another_encoding_spoil_their_message_alone(self, path, caplog):
        path.write_bytes(path.read_bytes() + b'\nmsgid "Caf\xe9"\nmsgstr "x"\n')
        assert read(path) == ENTRIES
        assert "1 of 8 entries are malformed" in skipped(caplog)

    @pytest.mark.parametrize("fault", ['msgid "Open\nmsgstr "Wócyń"', "msgstr nothing", "Hallo!"])
    def test_broken_messages_are_skipped_and_reported(self, path, fault, caplog):
        head, _, tail = CATALOGUE.partition("\n\nmsgctxt")
        path.write_text(f"{head}\n\n{fault}\n\nmsgctxt{tail}", "utf-8")
        assert read(path) == ENTRIES
        assert f"1 of 8 entries are malformed and were skipped: {path}, line 7" in skipped(caplog)
        assert "1 obsolete" in skipped(caplog)

    def test_damaged_compiled_catalogue(self, tmp_path):
        catalogue = polib.POFile()
        catalogue.extend(polib.POEntry(msgid=f"m{n}", msgstr="x" * 50) for n in range(20))
        catalogue.save_as_mofile(str(tmp_path / "x.mo"))
        content = (tmp_path / "x.mo").read_bytes()
        for damaged in (b"nothing", b"", content[:3], content[:40], content[: len(content) // 2]):
            (tmp_path / "x.mo").write_bytes(damaged)
            refused(tmp_path / "x.mo", "is a damaged gettext catalogue")


class TestFluent:
    def pair(self, tmp_path, german, sorbian):
        for name, text in (("de", german), ("dsb", sorbian)):
            (tmp_path / f"{name}.ftl").write_text(text, "utf-8")
        return [tmp_path / "de.ftl", tmp_path / "dsb.ftl"]

    def test_values_attributes_terms_and_defaults(self, tmp_path):
        german = (
            "a = Hallo { $name }{ NUMBER($n) }\nm = Menü\n    .label = Datei\n-t = Marke\n"
            'b =\n    erste\n    zweite { "{" }\nonly = hier\n'
            "c = { $n ->\n    [one] eine\n   *[other] viele\n}\n"
        )
        sorbian = (
            "-t = Marka\na = Witaj { $name }\nb = jaden\nm = Menij\n    .label = Dataja\n"
            "c = { $n ->\n    [one] jadna\n    [few] někotare\n   *[other] wjele\n}\n"
        )
        assert read(self.pair(tmp_path, german, sorbian)) == [
            ("Marke", "Marka"),
            ("Hallo { $name }{ NUMBER($n) }", "Witaj { $name }"),
            ("erste zweite {", "jaden"),
            ("Menü", "Menij"),
            ("Datei", "Dataja"),
            ("viele", "wjele"),
        ]

    @given(SAMPLES)
    def test_reads_what_the_serializer_writes(self, tmp_path_factory, rows):
        plain = [[" ".join(side.translate(NO_SYNTAX).split()) for side in row] for row in rows]
        rows = [[side or "x" for side in row] for row in plain]
        folder = tmp_path_factory.getbasetemp()
        for number, name in enumerate(LANGUAGES):
            messages = [
                ast.Message(ast.Identifier(f"m{i}"), ast.Pattern([ast.TextElement(row[number])]))
                for i, row in enumerate(rows)
            ]
            text = FluentSerializer().serialize(ast.Resource(messages))
            (folder / f"{name}.ftl").write_text(text, "utf-8")
        assert read([folder / "de.ftl", folder / "dsb.ftl"]) == expected(rows)

    def test_broken_messages_are_skipped_and_reported(self, tmp_path, caplog):
        paths = self.pair(tmp_path, "a = ja\nbroken\nb = nein\n", "a = jo\nb = ně\n")
        assert read(paths) == [("ja", "jo"), ("nein", "ně")]
        assert f"1 of 3 entries are malformed and were skipped: {paths[0]}, line 2" in skipped(
            caplog
        )

    def test_a_single_file_is_refused(self, tmp_path):
        refused(self.pair(tmp_path, "a = ja", "a = jo")[0], "list two files")


NO_SYNTAX = str.maketrans("", "", "{}")
