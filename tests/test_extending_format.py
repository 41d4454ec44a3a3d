"""A corpus format from outside the package: the one of docs/extend.md."""

import gzip
import re
import sys

import pytest
from pages import ROOT, blocks
from rich.console import Console
from typer.testing import CliRunner

from a2d import plugins
from a2d.cli import app
from a2d.errors import UserError
from a2d.plugin_errors import plugin_error
from a2d.runs.corpus_record import hash_of_inputs
from a2d.runs.distill import distill
from a2d.runs.recipe import load_recipe
from a2d.runs.splits import read_splits
from a2d.text.corpus import read_corpus
from a2d.text.formats import FORMATS, PLAIN, Format, format_of, register_format
from a2d.text.pairs import Malformed, Omitted, Pair

(TEXT,) = [block.text for block in blocks(ROOT / "docs/extend.md") if "Format(" in block.text]
WORDS = [first + second for first in "abcde" for second in "klmnop"]


def content(noun):
    return "".join(f"{noun} {word} ||| {word} {noun}\n" for word in WORDS)


@pytest.fixture
def plugin(tmp_path):
    """Path of the plugin; its format is unregistered after the test."""
    path = tmp_path / "bars.py"
    path.write_text(TEXT)
    yield str(path)
    plugins.named.clear()
    plugins._digests.clear()
    sys.modules.pop("a2d_plugin_bars", None)
    FORMATS.pop("bars", None)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "train.BARS.gz"
    path.write_bytes(gzip.compress(content("Satz").encode()))
    for name, noun in {"valid": "Haus", "test": "Baum"}.items():
        (tmp_path / f"{name}.bars").write_text(content(noun))
    return str(path)


def test_is_read_with_its_damage_counted(plugin, tmp_path, caplog):
    plugins.load_plugins([plugin])
    path = tmp_path / "x.bars"
    path.write_bytes(b"a b ||| c\r\n\nbroken\nd|||e\n\xff ||| f\ng ||| h")
    assert read_corpus(path) == [Pair("a b", "c"), Pair("d", "e"), Pair("g", "h")]
    assert "2 of 5 entries are malformed" in caplog.text
    assert "x.bars, line 3 has 1 sides: write SOURCE ||| TARGET" in caplog.text


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a2d_data_reads_it(plugin, corpus, tmp_path, command):
    output = ["-o", str(tmp_path / "out.tsv")] if command == "convert" else []
    result = CliRunner().invoke(app, ["--plugin", plugin, "data", command, corpus, *output])
    assert result.exception is None, result.output
    assert "30" in result.output
    if output:
        assert len(read_corpus(output[1])) == 30


def test_a_run_reads_it_and_its_record_depends_on_the_plugin(plugin, corpus, tmp_path):
    held_out = [f"corpus.{name}={tmp_path / name}.bars" for name in ("valid", "test")]
    settings = [f"corpus.train={corpus}", *held_out]
    before = hash_of_inputs(load_recipe("methods", settings))
    recipe = load_recipe("methods", [*settings, f"plugins=[{plugin}]"])
    assert list(map(len, read_splits(recipe)[:3])) == [30, 30, 30]
    assert hash_of_inputs(recipe) != before


def test_distill_reads_it(plugin, corpus, tmp_path):
    console = Console(record=True, width=200)
    distill(
        "builtin:en-pt",
        [corpus],
        ("en", "pt"),
        tmp_path / "student",
        console,
        student="1x1",
        valid=[str(tmp_path / "valid.bars")],
        test=[str(tmp_path / "test.bars")],
        overrides=[f"plugins=[{plugin}]", "training={max_steps: 1}"],
        force=True,  # the corpus is none that the teacher knows
        dry_run=True,
    )
    assert "30 training pairs (30 read" in console.export_text()


def test_messages_list_it(plugin, tmp_path):
    (tmp_path / "x.unknown").write_text("x")
    with pytest.raises(UserError, match=r"a2d --plugin FILE") as caught:
        read_corpus(tmp_path / "x.unknown")
    assert "bars" not in str(caught.value)
    plugins.load_plugins([plugin])
    with pytest.raises(UserError, match=r"Fluent \(\.ftl\), plain text") as caught:
        read_corpus(tmp_path / "x.unknown")
    assert "bars (.bars)" in str(caught.value)
    assert format_of(tmp_path / "x.bars.zst").name == "bars"


def reader(path, selection):
    yield "a", "b"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "table"}, "a format 'table' exists already"),
        ({"name": PLAIN.name}, "exists already"),
        ({"suffixes": (".tsv",)}, r"\.tsv is a suffix of 'table': choose another"),
        ({"suffixes": ".odd"}, "its type is tuple"),
        ({"suffixes": ("",)}, "'' cannot be its suffix"),
        ({"name": "a/b"}, "'a/b' cannot be the name of a Format"),
        ({"suffixes": ()}, "give a tuple"),
        ({"suffixes": (".gz",)}, "'.gz' cannot be its suffix"),
        ({"suffixes": (".zip",)}, "cannot be its suffix"),
        ({"suffixes": ("odd",)}, "cannot be its suffix"),
        ({"suffixes": (".a.b",)}, "cannot be its suffix"),
        ({"suffixes": (".ODD",)}, "cannot be its suffix"),
        ({"read": None}, "has no reader"),
        ({"read": lambda path: iter(())}, "called with 2 arguments: path, selection"),
        ({"read_two": reader}, "called with 3 arguments: source, target, selection"),
    ],
)
def test_a_malformed_one_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        register_format(Format(**{"name": "odd", "suffixes": (".odd",), "read": reader} | settings))
    assert "odd" not in FORMATS


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (reader, r"yields \('a', 'b'\)"),
        (lambda path, selection: None, "returns None"),
        (
            lambda path, selection: iter([Pair(b"a", "b")]),
            r"yields Pair\(source=b'a', target='b'\)",
        ),
        (lambda path, selection: iter([Pair("a\ud800", "b")]), "yields half a character, Pair.*"),
        (lambda path, selection: iter([Omitted(["a"])]), "yields Omitted.*"),
        (lambda path, selection: iter([Malformed("x", ["a"])]), "yields Malformed.*"),
    ],
)
def test_a_reader_of_other_things_is_named(tmp_path, read, problem):
    (tmp_path / "x.odd").write_text("x")
    register_format(Format("odd", (".odd",), read))
    try:
        with pytest.raises(
            UserError,
            match=rf"reader of .*x\.odd, .* \(.*_format\.py, line \d+\), {problem}: it must",
        ):
            read_corpus(tmp_path / "x.odd")
    finally:
        del FORMATS["odd"]


FAULTY = """
from itertools import starmap
from a2d.text.formats import Format, register_format
from a2d.text.pairs import normal_pair

def read(path, selection):
    yield normal_pair("a", "b")
    yield (
        "c", "d")

def apply(path, selection):
    return starmap(normal_pair, [("a", "b"), ("c",)])

def join(source, target, selection):
    return starmap(normal_pair, [("a", "b"), (1, 2)])

def parse(path, selection):
    yield normal_pair("a", {}["x"])

register_format(Format("bars", (".bars",), READ, READ_TWO))
"""


@pytest.mark.parametrize(
    ("read", "read_two", "message"),
    [
        ("read", None, r"read \(.*bars\.py, line 8\), yields \('c', 'd'\)"),
        ("apply", None, r"the plugin .*bars\.py fails in line 11 \(TypeError"),
        ("None", "join", r"the plugin .*bars\.py fails in line 14 \(TypeError"),
        ("parse", None, r"the plugin .*bars\.py fails in line 18 \(KeyError: 'x'\)"),
    ],
)
def test_an_error_of_a_reader_names_file_and_line(plugin, tmp_path, read, read_two, message):
    text = FAULTY.replace("READ_TWO", str(read_two)).replace("READ", read)
    (tmp_path / "bars.py").write_text(text)
    plugins.load_plugins([plugin])
    files = [tmp_path / "x.bars", tmp_path / "y.bars"][: 1 + (read_two is not None)]
    for path in files:
        path.write_text("x")
    with pytest.raises((UserError, TypeError, KeyError)) as caught:
        read_corpus([files] if read_two else files[0])
    error = caught.value
    assert re.search(message, str(error if isinstance(error, UserError) else plugin_error(error)))
