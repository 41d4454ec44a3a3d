"""Commands of `a2d data`: counts of known faults, and files with the cleaned pairs."""

import gzip
import json
import random

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from a2d.cli import app
from a2d.errors import UserError
from a2d.quoting import shorten
from a2d.runs.recipe import make_cleaning
from a2d.text.cleaning import clean
from a2d.text.corpus import read_corpus
from a2d.text.held_out import overlap
from a2d.text.inspection import Inspection, inspect
from a2d.text.pairs import Pair
from a2d.text.writing import write_pairs

RULES = {
    "max_words": 250,
    "max_ratio": 3.0,
    "min_letters": None,
    "drop_copies": False,
    "consistent": False,
    "languages": None,
    "deduplicate": True,
}
ENGLISH = "The quick brown fox jumps over the lazy dog number"
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund Nummer"
FRENCH = "Le rapide renard brun saute par-dessus le chien paresseux"


def letters(number):
    """Write a number as a word: near repetitions have the same letters."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def write_faults(folder):
    """Write a corpus of two files with known faults; return its paths and number of pairs."""
    good = [(f"{ENGLISH} {letters(n)}", f"{GERMAN} {letters(n)}") for n in range(1000, 1200)]
    rows = list(good)
    rows += [(f"{ENGLISH} {letters(n)}", "") for n in range(7)]
    rows += [(f"{ENGLISH} {letters(n)}", "w " * 251) for n in range(20, 25)]
    rows += [(f"{ENGLISH} {letters(n)}", f"ja {letters(n)}") for n in range(30, 41)]
    rows += [(f"{ENGLISH} {letters(n)}", f"{FRENCH} {letters(n)}") for n in range(50, 63)]
    rows += good[:9]
    rows += [(f"{a.upper()}!", b) for a, b in good[20:24]]
    rows += [(f"{a} {n}", f"{b} {n + 1}") for n, (a, b) in enumerate(good[30:36])]
    rows += [
        (f"{a} &amp;amp; {letters(n)}", f"{b} q{letters(n)}")
        for n, (a, b) in enumerate(good[40:43])
    ]
    random.Random(0).shuffle(rows)
    lines = ["\t".join(row) for row in rows[:150]] + ["one column"] * 8
    (folder / "a.tsv").write_text("\n".join(lines), "utf-8")
    records = [{"en": a, "de": b} for a, b in rows[150:]]
    (folder / "b.json").write_text(json.dumps(records), "utf-16")
    heldout = [(good[50][0].lower(), "x"), ("y", f"{good[60][1]}!"), ("new", "neu")]
    (folder / "test.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in heldout))
    return [str(folder / name) for name in ("a.tsv", "b.json")], len(rows)


@pytest.fixture(scope="module")
def inspection(tmp_path_factory) -> Inspection:
    folder = tmp_path_factory.mktemp("faults")
    spec, count = write_faults(folder)
    rules = RULES | {"languages": ("en", "de")}
    inspection = inspect(spec, rules, ("en", "de"), str(folder / "test.tsv"))
    assert inspection.pairs == count
    return inspection


class TestCounts:
    def test_files(self, inspection):
        assert [file.pairs for file in inspection.files] == [150, inspection.pairs - 150]
        assert [file.malformed for file in inspection.files] == [8, 0]
        assert sum(file.entities.pairs for file in inspection.files) == 3

    def test_rules(self, inspection):
        breaking = {name: finding.breaking for name, finding in inspection.rules.items()}
        assert breaking == {
            "empty": 7,
            "too_long": 5,
            "ratio": 16,  # the long pairs too
            "letters": 0,
            "copies": 0,
            "inconsistent": 6,
            "language": 13,
            "duplicates": 9,
            "near duplicates": 9 + 4 + 6,
        }
        dropped = {name: finding.dropped for name, finding in inspection.rules.items()}
        assert dropped == {
            "empty": 7,
            "too_long": 5,
            "ratio": 11,
            "letters": None,
            "copies": None,
            "inconsistent": None,
            "language": 13,
            "duplicates": 9,
            "near duplicates": None,
        }
        assert inspection.remaining == inspection.pairs - 45

    def test_leakage(self, inspection):
        (leak,) = inspection.leaks
        assert (leak.pairs, leak.leaking) == (3, 2)
        assert [example.number for example in leak.examples] == [1, 2]

    def test_remaining_by_file(self, inspection):
        assert sum(inspection.remaining_by_file) == inspection.remaining
        assert len(inspection.remaining_by_file) == 2

    def test_examples_name_file_and_number(self, inspection):
        for name, finding in inspection.rules.items():
            for example in finding.examples:
                pairs = read_corpus(example.place, languages=("en", "de"))
                assert pairs[example.number - 1] == (example.source, example.target), name

    def test_lengths_and_languages(self, inspection):
        assert inspection.lengths["target"]["words"]["longest"] == 251
        assert inspection.lengths["source"]["words"]["median"] == 11
        assert inspection.languages["source"]["en"] > 0.9
        assert 0.8 < inspection.languages["target"]["de"] < 1


EXTRA_RULES = {"drop_copies": True, "consistent": True, "min_letters": 0.7}


@pytest.mark.parametrize("deduplicate", [False, True, "near"])
@pytest.mark.parametrize(
    "extra", [{}, {"drop_copies": True, "consistent": True, "min_letters": 0.7}]
)
def test_agrees_with_cleaning(tmp_path, deduplicate, extra):
    pairs = read_corpus("builtin:de-dsb/train")[:800]
    pairs += [*pairs[::50], Pair("", "x"), Pair("", "x"), Pair("gleich", "gleich")]
    write_pairs(pairs, tmp_path / "x.jsonl")
    rules = RULES | extra | {"deduplicate": deduplicate}
    inspection = inspect(str(tmp_path / "x.jsonl"), rules)
    report = clean(pairs, **rules)[1]
    counts = {name: f.dropped for name, f in inspection.rules.items() if f.dropped is not None}
    if deduplicate == "near":
        counts["duplicates"] = counts.pop("near duplicates")
    assert counts == report.dropped
    assert inspection.remaining == report.remaining


def test_files_that_a_training_refuses_are_reported(tmp_path):
    (tmp_path / "x.tsv").write_text("a\tb\nc\nd\n")
    inspection = inspect(str(tmp_path / "x.tsv"), RULES)
    assert "2 of 3 entries are malformed" in str(inspection.files[0].refusal)
    (tmp_path / "x.tsv").write_text("c\nd\n")
    with pytest.raises(UserError, match="data: 2 of 2 entries are malformed"):
        inspect(str(tmp_path / "x.tsv"), RULES)


class TestLeakage:
    """Held-out pairs as a training reads them, compared with pairs after cleaning."""

    def inspected(self, folder, data, heldout, **rules):
        (folder / "data.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in data), "utf-8")
        (folder / "held.tsv").write_text(heldout, "utf-8")
        paths = str(folder / "data.tsv"), str(folder / "held.tsv")
        return inspect(paths[0], RULES | rules, ("en", "de"), paths[1])

    def test_empty_sides_and_dropped_pairs_do_not_leak(self, tmp_path):
        data = [("one", ""), ("two", "zwei"), ("three", "drei" * 20), ("", "vier")]
        heldout = "five\t\nsix\tdrei" + "drei" * 19 + "\ntwo\t\n\tvier\nseven\tzwei\n"
        inspection = self.inspected(tmp_path, data, heldout)
        (leak,) = inspection.leaks
        assert (leak.pairs, leak.empty, leak.leaking) == (2, 3, 1)
        assert [example.number for example in leak.examples] == [5]
        remaining = clean([Pair(*row) for row in data], **RULES)[0]
        complete = [pair for pair in read_corpus(str(tmp_path / "held.tsv")) if all(pair)]
        assert overlap(remaining, complete) == 1
        assert inspection.remaining_by_file == [len(remaining)]

    def test_faults_of_held_out_files_are_reported(self, tmp_path):
        heldout = "a\tb\n" * 3 + "one\ntwo\n"
        (leak,) = self.inspected(tmp_path, [("x", "y")], heldout).leaks
        assert leak.reading.malformed == 2
        arguments = [str(tmp_path / "data.tsv"), "--against", str(tmp_path / "held.tsv")]
        output = CliRunner().invoke(app, ["data", "inspect", *arguments]).stdout
        assert "2 of 5 entries are malformed and were skipped" in output
        output = CliRunner().invoke(app, ["data", "inspect", "--json", *arguments]).stdout
        assert json.loads(output)["leakage"][0]["malformed"] == 2

    def test_languages_of_the_held_out(self, tmp_path):
        data = [(f"{ENGLISH} {letters(n)}", f"{GERMAN} {letters(n)}") for n in range(20)]
        heldout = "".join(f"{ENGLISH} x\t{b}\n" for _, b in data) + f"{ENGLISH} y\t{FRENCH}\n"
        (leak,) = self.inspected(tmp_path, data, heldout, languages=("en", "de")).leaks
        assert leak.others == 1
        swapped = "".join(f"{b}\t{a}\n" for a, b in data)
        with pytest.raises(UserError, match=r"against: .*held.tsv: 100% of the source texts"):
            self.inspected(tmp_path, data, swapped, languages=("en", "de"))


def test_quoted_texts_are_one_line_without_control_characters():
    assert shorten("a\nb\x1b[2J\u202e") == "a\\nb\\x1b[2J\\u202e"
    assert shorten("x" * 100, 10) == "x" * 9 + "…"


class TestWriting:
    PAIRS = (Pair('a "b", c', "źeń"), Pair("tab\there", "two\nlines\u2028"), Pair("<b>&", "x"))

    @pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.gz", "tsv", "tsv.gz", "TSV"])
    def test_round_trip(self, tmp_path, ending):
        path = tmp_path / f"x.{ending}"
        write_pairs(self.PAIRS, path)
        table = "tsv" in ending.lower()
        plain = [Pair("tab here", "two lines\u2028".rstrip())] if table else [self.PAIRS[1]]
        want = [self.PAIRS[0], *plain, self.PAIRS[2]]
        assert read_corpus(path) == [Pair(*(text.strip() for text in pair)) for pair in want]
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    def test_with_other_readers(self, tmp_path):
        write_pairs(self.PAIRS, tmp_path / "x.parquet")
        rows = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
        assert [tuple(row.values()) for row in rows] == list(self.PAIRS)
        write_pairs(self.PAIRS, tmp_path / "x.jsonl.gz")
        with gzip.open(tmp_path / "x.jsonl.gz", "rt", encoding="utf-8") as file:
            assert [tuple(json.loads(line).values()) for line in file] == list(self.PAIRS)

    def test_all_or_nothing(self, tmp_path):
        def broken():
            yield self.PAIRS[0]
            raise RuntimeError

        (tmp_path / "x.tsv").write_text("old\told\n")
        with pytest.raises(RuntimeError):
            write_pairs(broken(), tmp_path / "x.tsv")
        assert [file.name for file in tmp_path.iterdir()] == ["x.tsv"]
        assert (tmp_path / "x.tsv").read_text() == "old\told\n"


def test_rules_of_the_command_line():
    assert make_cleaning(()).language == "auto"
    assert make_cleaning(["max_ratio=2", "corpus.cleaning.deduplicate=near"]).max_ratio == 2
    for wrong, words in (
        ("max_ratioo=2", "did you mean 'max_ratio'"),
        ("max_words=0", "greater"),
        ("deduplicate=maybe", "'deduplicate' is 'maybe': it must be true, false or 'near'"),
        ("drop_copies=maybe", "it must be true or false"),
    ):
        with pytest.raises(UserError, match=words):
            make_cleaning([wrong])


class TestCommands:
    def run(self, *arguments):
        result = CliRunner().invoke(app, ["data", *map(str, arguments)], env={"COLUMNS": "80"})
        if isinstance(result.exception, UserError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    LANGUAGES = ("--source", "en", "--target", "de")

    def test_inspect(self, tmp_path):
        files, count = write_faults(tmp_path)
        output = self.run(
            "inspect", *files, *self.LANGUAGES, "--against", tmp_path / "test.tsv", "max_words=200"
        )
        assert f"Cleaning keeps {count - 45} of {count} pairs." in output
        assert "max_words=200" in output
        assert "Leakage: 2 of 3 pairs" in output
        tables = [line for line in output.splitlines() if "malformed and were" not in line]
        assert max(len(line) for line in tables if "/" not in line) <= 80

    def test_long_names_and_totals(self, tmp_path):
        files = [tmp_path / f"{'long-' * 15}{n}.tsv" for n in range(2)]
        for path in files:
            path.write_text("a\tb\n" * 3 + "one\n")
        output = self.run("inspect", *files)
        lines = output.splitlines()
        (end,) = [n for n, line in enumerate(lines) if line.startswith("together")]
        rows = lines[: end + 1]
        assert max(map(len, rows)) <= 80
        assert rows[-1].split() == ["together", "6", "2", "0", "0", "1"]
        names = "".join(line[:40].split(" ")[0] for line in rows[1:-1])
        assert names == "".join(path.name for path in files)

    def test_json(self, tmp_path):
        files, count = write_faults(tmp_path)
        inspection = json.loads(self.run("inspect", *files, *self.LANGUAGES, "--json"))
        assert (inspection["pairs"], inspection["kept"]) == (count, count - 45)
        assert inspection["rules"]["language"]["dropped"] == 13
        assert inspection["files"][0]["malformed"] == 8
        assert inspection["leakage"] == []

    def test_markup_in_texts_is_printed_literally(self, tmp_path):
        (tmp_path / "x.tsv").write_text("[red]a[/]\t\n[/bold]\t\nja\tjo\n")
        assert "[red]a[/] →" in self.run("inspect", tmp_path / "x.tsv")

    def test_convert(self, tmp_path):
        files, count = write_faults(tmp_path)
        arguments = ("convert", *files, *self.LANGUAGES, "-o", tmp_path / "clean.parquet")
        output = " ".join(self.run(*arguments).split())
        assert f"{count} pairs read, dropped: empty 7, too_long 5, ratio 11, language 13" in output
        assert len(read_corpus(tmp_path / "clean.parquet")) == count - 45
        with pytest.raises(UserError, match=r"exists already: .* --overwrite"):
            self.run(*arguments)
        self.run(*arguments, "--overwrite", "language=false", "max_ratio=null")
        assert len(read_corpus(tmp_path / "clean.parquet")) == count - 45 + 13 + 11
        several = ("-o", tmp_path / "part-*.tsv", "--pairs-per-file", count - 46)
        output = " ".join(self.run(*arguments[:-2], *several).split())
        assert output.endswith("part-*.tsv (2 files).")
        assert len(read_corpus(tmp_path / "part-*.tsv")) == count - 45

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("inspect", "max_ratio=2"), "no corpus is given"),
            (("inspect", "x.tsv", "--source", "de"), "both --source and --target"),
            (("inspect", "x.tsv", "language=true"), "needs languages"),
            (("convert", "x.tsv", "-o", "x.csv"), "no suffix of an output format"),
            (("convert", "x.tsv", "-o", "none/x.tsv"), "there is no folder none"),
            (("inspect", "none.tsv"), "there is no none.tsv"),
        ],
    )
    def test_mistakes(self, arguments, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "x.tsv").write_text("a\tb\n")
        with pytest.raises(UserError, match=words):
            self.run(*arguments)
