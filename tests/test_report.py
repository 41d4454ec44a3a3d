"""The report: its figures are sacreBLEU's, its text is harmless, its inputs are checked."""

import gzip
import json
import math
import random
import re
from dataclasses import fields
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from typer.testing import CliRunner

from a2d import UserError
from a2d.cli import app
from a2d.method.formulas import FORMULAS
from a2d.report.analysis import analyse
from a2d.report.comparison import Comparison, Gain, System
from a2d.report.details import Details
from a2d.report.page import write_page
from a2d.runs.page import report
from a2d.runs.results import Row
from a2d.text.corpus import read_corpus
from a2d.text.pairs import Pair
from a2d.text.rarity import rarest_words

PAIRS = read_corpus("builtin:de-dsb/test")[:120]
SOURCES = [pair.source for pair in PAIRS]
REFERENCES = [pair.target for pair in PAIRS]
WEIGHTLESS = {"weights": [[math.nan]], "student": 1, "teacher": 1}
HOSTILE = [
    "</script><script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title = 'owned'\">",
    "{{ 7 * 7 }} ${document.title = 'owned'} <!-- ]]>",
    "\u2028 \u202egnp.exe \x1b[31m \ufffe",
]


def damaged(share, seed):
    """Drop the first word of a share of the references."""
    rng = random.Random(seed)
    return [r.partition(" ")[2] if rng.random() < share else r for r in REFERENCES]


def comparison(**changes):
    systems = [
        System("teacher", "teacher", damaged(0.2, 1), "teacher", "3+3×4", 2_000_000, 20.0),
        System("kd-seed1", "kd", damaged(0.5, 2), "student", "1+1×4", 1_000_000, 40.0, 60.0),
        System("kd-seed2", "kd", damaged(0.5, 3), "student", "1+1×4", 1_000_000, 40.0, 62.0),
    ]
    values = {"systems": systems, "sources": SOURCES, "references": REFERENCES, **changes}
    return Comparison(**{"title": "Test", "pair": ("de", "dsb"), "rarest": None, **values})


class Page(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.data = [], [], None
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)
        if self.tags and self.tags[-1][1].get("id") == "page-data" and self.data is None:
            self.data = json.loads(data)


def test_scores_are_those_of_sacrebleu():
    compared = comparison()
    analysis = analyse(compared)
    teacher, students = analysis.groups
    for system in compared.systems:
        estimates = analysis.estimates[system.name]
        for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
            score = metric.corpus_score(system.hypotheses, [REFERENCES]).score
            assert estimates[name].score == pytest.approx(score)
            assert 0 < estimates[name].margin < 20
    for name in ("bleu", "chrf"):
        first, second = (analysis.estimates[f"kd-seed{seed}"][name] for seed in (1, 2))
        assert students.scores[name] == pytest.approx((first.score + second.score) / 2)
        assert students.spreads[name] == pytest.approx(abs(first.score - second.score) / 2**0.5)
        assert students.p_values[name] == max(first.p_value, second.p_value)
        assert teacher.p_values[name] is None
        assert teacher.spreads[name] == analysis.estimates["teacher"][name].margin


def test_ranges_partition_the_segments():
    rarest = [index % 150 for index in range(len(SOURCES))]
    by_length, by_rarity = analyse(comparison(rarest=rarest)).buckets
    # The only segment with a count of 0 is too few to show.
    assert dict(zip(by_rarity.labels, by_rarity.sizes, strict=True)) == {
        "1–9": 9,
        "10–99": 90,
        "100 or more": 20,
    }
    assert sum(by_length.sizes) == sum(len(source.split()) <= 20 for source in SOURCES)
    short = [i for i, source in enumerate(SOURCES) if len(source.split()) <= 5]
    assert by_length.sizes[0] == len(short)
    lines = comparison().systems[0].hypotheses
    score = CHRF().corpus_score([lines[i] for i in short], [[REFERENCES[i] for i in short]]).score
    assert by_length.chrf["teacher"][0] == pytest.approx(score)


def test_gains_over_other_methods_are_shown_with_their_tests(tmp_path):
    gains = [{"kd": Gain(1.5, 0.01)}, {"kd": Gain(2.5, 0.2)}]
    systems = [
        System("teacher", "teacher", damaged(0.2, 1), "teacher"),
        System("a2d-seed1", "a2d", damaged(0.5, 2), "student", gains=gains[0]),
        System("a2d-seed2", "a2d", damaged(0.5, 3), "student", gains=gains[1]),
        System("a2d small", "a2d", damaged(0.5, 4), "student", "1+1", gains=gains[0]),
    ]
    write_page(tmp_path / "page.html", comparison(systems=systems))
    text = " ".join(" ".join(Page(tmp_path / "page.html").texts).split())
    assert "over kd" in text
    assert "+2.00" in text
    assert "+2.00*" not in text.replace(" *", "*")  # one of the two seeds is not significant
    assert "+1.50*" in text.replace(" *", "*")


def test_domains_are_scored_apart():
    domains = ["ui"] * 60 + ["help"] * 40 + [f"rare {number}" for number in range(20)]
    *_, by_domain = analyse(comparison(domains=domains)).buckets
    assert by_domain.labels[:2] == ["ui", "help"]
    # Nine domains of one segment are too small to show; the eleventh and later ones are one.
    assert by_domain.labels[2:] == ["others"]
    assert by_domain.sizes == [60, 40, 12]
    lines = comparison().systems[1].hypotheses
    score = CHRF().corpus_score(lines[60:100], [REFERENCES[60:100]]).score
    assert by_domain.chrf["kd-seed1"][1] == pytest.approx(score)


def test_the_page_holds_every_text_and_figure(tmp_path):
    write_page(tmp_path / "page.html", comparison())
    page = Page(tmp_path / "page.html")
    assert page.data["sources"] == SOURCES
    assert page.data["systems"][1]["hypotheses"] == damaged(0.5, 2)
    bleu = BLEU().corpus_score(damaged(0.2, 1), [REFERENCES]).score
    text = " ".join(" ".join(page.texts).split())
    assert f"{bleu:.2f}" in text
    assert "50% of its parameters" in text.replace("  ", " ").replace(" %", "%")


def test_useless_systems_are_called_so(tmp_path):
    systems = [System("teacher", "teacher", REFERENCES, "teacher")]
    systems.append(System("student", "student", SOURCES, "student"))
    write_page(tmp_path / "page.html", comparison(systems=systems))
    text = " ".join(" ".join(Page(tmp_path / "page.html").texts).split())
    copied = BLEU().corpus_score(SOURCES, [REFERENCES]).score
    assert f"student is no better than copying the sources ({copied:.1f} BLEU" in text
    assert "no better than" not in page_text(tmp_path, comparison())
    details = Details(verdict=["The student keeps 5%.", "Train longer."])
    refused = page_text(tmp_path, comparison(), details)
    assert "Not fit for use. The student keeps 5%. Train longer." in refused


def page_text(folder, *arguments):
    write_page(folder / "other.html", *arguments)
    return " ".join(" ".join(Page(folder / "other.html").texts).split())


def test_text_of_corpora_is_harmless(tmp_path):
    lines = [*HOSTILE, *REFERENCES[len(HOSTILE) :]]
    systems = [System(text, text, lines) for text in HOSTILE]
    plain = tmp_path / "plain.html"
    write_page(plain, comparison())
    write_page(
        tmp_path / "page.html",
        comparison(title=HOSTILE[0], sources=lines, references=lines, systems=systems),
    )
    page = Page(tmp_path / "page.html")
    assert page.data["sources"] == lines
    scripts = [tag for tag, _ in page.tags].count("script")
    assert scripts == [tag for tag, _ in Page(plain).tags].count("script")
    assert not any("onerror" in attributes for _, attributes in page.tags)


def test_the_page_needs_no_network(tmp_path):
    write_page(tmp_path / "page.html", comparison())
    for tag, attributes in Page(tmp_path / "page.html").tags:
        address = attributes.get("src") or attributes.get("href") or "#"
        assert address.startswith(("#", "data:")), (tag, address)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": REFERENCES[1:]}, "the references: 119 lines for 120 sources"),
        ({"systems": [System("a", "a", ["x"])]}, "a: 1 lines for 120 sources"),
        ({"systems": [System("a", "a", SOURCES)] * 2}, "two systems are called 'a'"),
        ({"systems": []}, "nothing to compare"),
    ],
)
def test_comparisons_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        comparison(**changes)


class TestCompare:
    @pytest.fixture
    def files(self, tmp_path):
        texts = {"s": SOURCES, "r": REFERENCES, "one": damaged(0.2, 1), "two": damaged(0.5, 2)}
        for name, lines in texts.items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return tmp_path

    def call(self, files, *systems, **options):
        options = {"sources": "s", "references": "r", "output": "page.html", **options}
        places = {k: str(files / v) for k, v in options.items() if k not in ("source", "target")}
        arguments = [x for k, v in {**options, **places}.items() for x in (f"--{k}", v)]
        return CliRunner().invoke(app, ["compare", *systems, *arguments])

    def test_a_page_of_plain_files(self, files):
        with gzip.open(files / "two.gz", "wb") as file:
            file.write((files / "two").read_bytes())
        result = self.call(files, f"mine={files / 'one'}", str(files / "two.gz"))
        assert result.exit_code == 0, result.output
        data = Page(files / "page.html").data
        assert [system["label"] for system in data["systems"]] == ["mine", "two"]
        assert data["systems"][1]["hypotheses"] == damaged(0.5, 2)

    def test_the_reason_why_languages_are_not_judged_is_true(self, files):
        judged = "Of languages, only their scripts were judged: "
        self.call(files, f"mine={files / 'one'}")
        text = " ".join(" ".join(Page(files / "page.html").texts).split())
        assert f"{judged}no languages were given (--source and --target)." in text
        assert "identifier is not installed" not in text
        error = self.call(files, f"mine={files / 'one'}").exception
        assert "exists already: choose another name, or add --overwrite" in str(error)
        (files / "page.html").unlink()
        self.call(files, f"mine={files / 'one'}", source="de", target="dsb")
        text = " ".join(" ".join(Page(files / "page.html").texts).split())
        assert f"{judged}the identifier is not installed, or does not know" in text
        assert "no languages were given" not in text

    def test_bad_inputs_are_named(self, files):
        (files / "latin").write_bytes("Müller\n".encode("latin-1") * 120)
        cases = {
            "there is no": (f"a={files / 'missing'}",),
            "latin, line 1 is not valid UTF-8": (f"a={files / 'latin'}",),
            "NAME=FILE": ("=x",),
            "two systems": (f"a={files / 's'}", f"a={files / 'r'}"),
        }
        for message, systems in cases.items():
            error = self.call(files, *systems).exception
            assert isinstance(error, UserError)
            assert message in str(error)
        error = self.call(files, str(files / "one"), output="page.pdf").exception
        assert "end it in .html" in str(error)
        error = self.call(files, str(files / "one"), domains="latin").exception
        assert "latin, line 1 is not valid UTF-8" in str(error)
        error = self.call(files, str(files / "one"), source="de").exception
        assert "both --source and --target" in str(error)
        assert not (files / "page.html").exists()


def test_folders_without_results_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        report(tmp_path / "missing")
    with pytest.raises(UserError, match="has no results"):
        report(tmp_path)
    (tmp_path / "small").mkdir()
    (tmp_path / "small.run").mkdir()
    with pytest.raises(UserError, match=r"is a student: .*small\.run"):
        report(tmp_path / "small")


class TestDamagedResults:
    """A results folder, written by hand, with one file damaged."""

    @pytest.fixture
    def folder(self, tmp_path):
        names = ("teacher", "kd-seed1")
        rows = [
            {field.name: None for field in fields(Row)}
            | {"name": name, "pair": "de-dsb", "method": name, "setting": "", "student": "1+1x4"}
            | {"seed": 1, "bleu": 1.0, "chrf": 1.0, "quantization": "", "refused": ""}
            for name in names
        ]
        corpus = {"source_language": "de", "target_language": "dsb"}
        evaluation = {"split": "test", "beams": 1}
        recipe = {"name": "x", "corpus": corpus, "evaluation": evaluation}
        details = {"corpus": {"cleaning": {"read": 9}, "sizes": {"train": 8}}, "curves": {}}
        contents = {
            "scores.json": rows,
            "run.json": {"recipe": recipe, "versions": {"a2d": "1"}, "signatures": {}},
            "details.json": details,
            "energy.json": {"watt_hours": 1.0, "seconds": 60.0},
        }
        (tmp_path / "hypotheses").mkdir()
        for name, content in contents.items():
            (tmp_path / name).write_text(json.dumps(content))
        texts = {"sources": SOURCES, "references": REFERENCES, "rarest": ["1"] * len(SOURCES)}
        texts |= {f"hypotheses/{name}": damaged(0.2, 1) for name in names}
        for name, lines in texts.items():
            data = "".join(f"{line}\n" for line in lines).encode()
            (tmp_path / f"{name}.txt.gz").write_bytes(gzip.compress(data))
        return tmp_path

    def test_the_folder_is_valid(self, folder):
        assert Page(report(folder)).data["sources"] == SOURCES

    @pytest.mark.parametrize("name", ["scores.json", "run.json", "details.json", "energy.json"])
    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b"null", b'"x"', b'[{"name": 1}]', b"\xff", b"[" * 10**5],
        ids=["empty", "open", "list", "null", "text", "records", "not UTF-8", "deep"],
    )
    def test_of_json_are_named_with_the_mend(self, folder, name, content):
        (folder / name).write_bytes(content)
        self.check(folder, name)

    @pytest.mark.parametrize(
        ("name", "content", "place"),
        [
            ("scores.json", [{"name": 1}], "0.name"),
            ("scores.json", [{"bleu": "x"}], "0.bleu"),
            ("scores.json", [{"chrf": math.nan}], "0.chrf"),
            ("run.json", {"recipe": {"name": 3}}, "recipe.name"),
            ("run.json", {"recipe": []}, "recipe"),
            ("run.json", {"versions": {"a2d": 1}}, "versions.a2d"),
            ("details.json", {"exports": [{"name": "x"}]}, "exports.0.sentences"),
            ("details.json", {"curves": {"kd": [{"step": "x"}]}}, "curves.kd.0.step"),
            ("details.json", {"alignments": {"a2d": 3}}, "alignments.a2d"),
            ("details.json", {"attention": [{"source": None}]}, "attention.0.source"),
            ("details.json", {"corpus": {"cleaning": {}, "sizes": {"x": 1}}}, "corpus.sizes.x"),
            (
                "details.json",
                {"alignments": {"a2d": {"cross": WEIGHTLESS}}},
                "alignments.a2d.cross",
            ),
            ("scores.json", [{"parameters": 10**400}], "0.parameters"),
            ("scores.json", [{"train_seconds": math.inf}], "0.train_seconds"),
            ("energy.json", {"watt_hours": 1e400}, "watt_hours"),
        ],
    )
    def test_of_wrong_types_are_named_with_the_place(self, folder, name, content, place):
        path = folder / name
        right = json.loads(path.read_text())
        merged = [right[0] | content[0]] if isinstance(right, list) else right | content
        path.write_text(json.dumps(merged))
        self.check(folder, name, rf"is damaged \(ValueError: {re.escape(place)}[.:]")

    @pytest.mark.parametrize(
        "name",
        ["sources.txt.gz", "references.txt.gz", "rarest.txt.gz", "hypotheses/kd-seed1.txt.gz"],
    )
    @pytest.mark.parametrize(
        "content",
        [b"", b"plain", gzip.compress(b"\xff\n"), gzip.compress(b"a\n" * 99)[:-12]],
        ids=["empty", "not packed", "not UTF-8", "cut"],
    )
    def test_of_text_are_named_with_the_mend(self, folder, name, content):
        (folder / name).write_bytes(content)
        self.check(folder, name)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("maps", "***"),
            ("maps", "AAAA"),
            ("queries", 10**9),
            ("channels", 0),
            ("strongest", []),
            ("strongest", [9]),
            ("cross", None),
        ],
    )
    def test_of_attention_are_found(self, folder, key, value):
        maps = {"channels": 1, "queries": 1, "keys": 1, "heads": 1, "maps": "/w=="}
        group = {"teacher": dict(maps), "student": dict(maps), "strongest": [0]}
        groups = {name: json.loads(json.dumps(group)) for name in ("encoder", "decoder", "cross")}
        tokens = {f"{side}Tokens": ["a"] for side in ("source", "target", "input")}
        texts = {"source": "a", "reference": "b", "student": "kd"}
        path = folder / "details.json"
        details = json.loads(path.read_text())

        def write():
            attention = [{**texts, **tokens, "groups": groups}]
            path.write_text(json.dumps(details | {"attention": attention}))

        write()
        report(folder)
        if key == "cross":
            del groups["cross"]
        elif key == "strongest":
            groups["cross"]["strongest"] = value
        else:
            groups["cross"]["teacher"][key] = value
        write()
        self.check(folder, "details.json")

    @pytest.mark.parametrize("counts", ["-5\n" * len(SOURCES), "x\n" * len(SOURCES)])
    def test_of_counts_are_found(self, folder, counts):
        (folder / "rarest.txt.gz").write_bytes(gzip.compress(counts.encode()))
        self.check(folder, "rarest.txt.gz")

    def test_other_numbers_of_counts_are_refused(self, folder):
        (folder / "rarest.txt.gz").write_bytes(gzip.compress(b"1\n"))
        with pytest.raises(UserError, match=r"the counts of words: 1 lines for 120 sources"):
            report(folder)

    def test_long_lines_are_refused(self, folder):
        texts = gzip.compress(("a" * 60_000 + "\n").encode() + b"a\n" * (len(SOURCES) - 1))
        (folder / "hypotheses/kd-seed1.txt.gz").write_bytes(texts)
        self.check(folder, "hypotheses/kd-seed1.txt.gz")

    @pytest.mark.parametrize(
        "name", ["sources.txt.gz", "rarest.txt.gz", "details.json", "energy.json"]
    )
    @pytest.mark.parametrize("target", ["nothing", "itself"])
    def test_of_links_are_named(self, folder, name, target):
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name if target == "itself" else folder / "nothing")
        problem = "cannot be read" if target == "itself" else "is missing"
        self.check(folder, name, problem)

    def test_a_missing_file_is_named_with_the_mend(self, folder):
        (folder / "run.json").unlink()
        self.check(folder, "run.json", "is missing")

    def check(self, folder, name, problem="is damaged"):
        message = f"{folder / name} {problem}.*: repeat the run's command, which writes it again"
        with pytest.raises(UserError, match=message):
            report(folder)


WORDS = st.lists(st.sampled_from(["ja", "Ja", "ně", "2", "dom,"]), max_size=5).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, max_size=6))
def test_rarest_words_are_counted_as_by_a_naive_count(held_out, training):
    def tokens(text):
        return text.casefold().replace(",", "").split()

    everything = [word for text in training for word in tokens(text)]
    expected = [min(map(everything.count, tokens(text)), default=0) for text in held_out]
    pairs = [[Pair(text, "x") for text in texts] for texts in (held_out, training)]
    assert rarest_words(*pairs) == expected


class TestIntermediateMaps:
    MAPS = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
    KEYS = torch.ones(4, 4, dtype=torch.bool)

    def test_one_weight_of_one_reproduces_a_map_in_the_geometric_formula(self):
        weights = torch.tensor([[0.0, 1.0, 0.0]])
        maps = FORMULAS["geometric"].intermediate(weights, self.MAPS, self.KEYS)
        torch.testing.assert_close(maps, self.MAPS[:, 1:2])

    def test_rows_sum_to_one_over_visible_keys(self):
        weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
        keys = self.KEYS.tril()
        for name in ("paper", "geometric"):
            maps = FORMULAS[name].intermediate(weights, self.MAPS, keys)
            torch.testing.assert_close(maps.sum(-1), torch.ones(1, 5, 4))
            assert not maps[..., ~keys].any()

    def test_the_paper_s_formula_is_a_softmax_of_the_combination(self):
        weights = torch.tensor([[0.5, -1.0, 2.0]])
        combined = 0.5 * self.MAPS[:, 0] - self.MAPS[:, 1] + 2 * self.MAPS[:, 2]
        maps = FORMULAS["paper"].intermediate(weights, self.MAPS, self.KEYS)
        torch.testing.assert_close(maps[:, 0], combined.exp() / combined.exp().sum(-1, True))

    def test_whole_maps_sum_to_one(self):
        maps = FORMULAS["official"].intermediate(torch.ones(2, 3), self.MAPS, self.KEYS)
        torch.testing.assert_close(maps.sum((-1, -2)), torch.ones(1, 2))
