"""Exports are compared with their models: faithful ones are kept, others refused with examples."""

import json
import re
import shutil

import ctranslate2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sacrebleu.metrics import BLEU, CHRF
from typer.testing import CliRunner

from a2d import UserError
from a2d.cli import app
from a2d.files import seal
from a2d.models import export as exporting
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.models.fidelity import Fidelity, Original, check_fidelity, compare_translations
from a2d.models.loading import load_model
from a2d.runs import results
from a2d.runs.card import write_card
from a2d.runs.execution import carry_out
from a2d.runs.exporting import export_checked, find_pairs
from a2d.runs.recipe import load_recipe
from a2d.runs.stages.students import Student
from a2d.runs.verdict import Quality, Verdict, Yardstick
from a2d.teachers import model_path
from a2d.text.corpus import read_corpus

PAIRS = read_corpus("builtin:en-pt/valid", languages=("en", "pt"))[:50]
SOURCES, REFERENCES = (list(side) for side in zip(*PAIRS, strict=True))
TEACHER = "builtin:en-pt"
LONGEST = 50
"""Most tokens of a reference, with its start: a model that does not end translations stops here."""


def fidelity(**changes):
    values = {
        "quantization": "int8",
        "sentences": 100,
        "changed": 30,
        "bleu": 30.0,
        "chrf": 60.0,
        "original_bleu": 30.0,
        "original_chrf": 60.0,
        "examples": [],
    }
    return Fidelity(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"bleu": 29.75, "chrf": 59.75}, None),
        ({"bleu": 29.6}, "BLEU falls from 30.00 to 29.60, by more than 0.3"),
        ({"chrf": 59.6}, "chrF falls from 60.00 to 59.60, by more than 0.3"),
        ({"bleu": 29.6, "bleu_p": 0.2}, None),
        ({"bleu": 28.9, "bleu_p": 0.2}, "BLEU falls from 30.00 to 28.90"),
        ({"bleu": 29.6, "bleu_p": 0.02}, "BLEU falls from 30.00 to 29.60"),
        ({"bleu": 29.6, "bleu_p": 0.2, "chrf": 59.6}, "chrF falls from 60.00 to 59.60"),
        ({"chrf": float("nan")}, "chrF falls from 60.00 to nan"),
        ({"original_chrf": 0.2, "chrf": 0.2}, "the original has 0.2 chrF on the validation set"),
        ({"quantization": "float32"}, "30 of 100 translations differ"),
        ({"quantization": "float32", "changed": 2}, None),
    ],
)
def test_an_export_is_refused_for_its_loss(changes, problem):
    found = fidelity(**changes).problem(0.3)
    assert (found is None) if problem is None else problem in found


def test_a_loss_that_few_pairs_cannot_show_is_accepted_and_named():
    before = ["a b c d e", "f g h i j", "k l m n o", "p q r s t"] * 15
    after = [*before[:58], "k l m n x", "p q r s t"]
    few = compare_translations("int8", before, before, before, after)
    assert few.original_bleu - few.bleu > 0.3
    assert few.problem(0.3) is None
    shown = []
    check_fidelity(few, 0.3, shown.append)
    loss = few.original_bleu - few.bleu
    assert shown[-1].startswith(f"BLEU falls by {loss:.2f} (p = ")
    assert shown[-1].endswith("which may be chance: 60 validation pairs are too few to tell.")
    many = compare_translations("int8", before * 20, before * 20, before * 20, after * 20)
    assert many.bleu == pytest.approx(few.bleu)  # the same loss, of many pairs
    assert many.doubt(0.3) is None
    assert "BLEU falls" in many.problem(0.3)
    with pytest.raises(UserError, match="is not faithful"):
        check_fidelity(many, 0.3, print)
    assert few.doubt(1) is None  # within the limit


@settings(max_examples=20)  # each resamples the sentences
@given(st.lists(st.sampled_from([("a b c d", "a b c d"), ("a b c d", "x")]), min_size=1))
def test_translations_are_counted_and_scored(pairs):
    before, after = map(list, zip(*pairs, strict=True))
    references = ["a b c e"] * len(pairs)
    found = compare_translations("int8", before, references, before, after)
    assert found.changed == sum(a != b for a, b in pairs)
    assert found.bleu == BLEU().corpus_score(after, [references]).score
    assert found.original_chrf == CHRF().corpus_score(before, [references]).score
    assert len(found.examples) == min(3, found.changed)


@pytest.fixture
def valid(tmp_path):
    path = tmp_path / "valid.tsv"
    path.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in PAIRS), "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def brief_teacher(tmp_path_factory):
    """The packaged teacher, whose translations have at most `LONGEST` tokens."""
    folder = tmp_path_factory.mktemp("teacher") / "en-pt"
    shutil.copytree(model_path(TEACHER), folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_length": LONGEST}))
    return str(folder)


def call(*arguments):
    return CliRunner().invoke(app, ["export", TEACHER, *arguments])


def test_a_faithful_export_is_written(tmp_path, valid):
    output = tmp_path / "fast"
    # Not int8: its loss differs between CPUs, and may be too much for so few sentences.
    result = call("--output", str(output), "--quantization", "float32", "--valid", valid)
    assert result.exit_code == 0, result.output
    assert "of 50 translations by greedy search differ" in result.output
    assert ctranslate2.contains_model(str(output))


def test_a_broken_export_is_refused_and_nothing_is_left(
    brief_teacher, tmp_path, valid, monkeypatch
):
    def load_other_weights(path):
        network = load_model(path)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in network.model.decoder.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        return network

    monkeypatch.setattr(exporting, "load_model", load_other_weights)
    console = Console(record=True, width=200)
    with pytest.raises(UserError, match=r"is not faithful: .*--max-loss"):
        export_checked(brief_teacher, tmp_path / "fast", "int8", [valid], None, 0.3, console)
    assert [path.name for path in tmp_path.iterdir()] == ["valid.tsv"]
    text = console.export_text()
    assert "translations differ" in text
    assert text.count("original ") == 3


def test_a_proof_that_shows_nothing_asks_for_other_text():
    with pytest.raises(UserError, match=r"cannot be proved: .*Give other validation text") as error:
        check_fidelity(fidelity(original_chrf=0.2, chrf=0.2), 0.3, print)
    assert "auto" not in str(error.value)


def test_a_wrong_conversion_needs_another_engine():
    with pytest.raises(
        UserError, match=r"the conversion to CTranslate2 is wrong: .*PyTorch"
    ) as error:
        check_fidelity(fidelity(quantization="float32", changed=50), 0.3, print)
    assert "auto" not in str(error.value)
    assert "greedy" in fidelity(quantization="float32").summary
    assert "greedy" not in fidelity().summary


@pytest.mark.parametrize("name", ["model.bin", "shared_vocabulary.json", "config.json"])
def test_a_damaged_export_is_refused(tmp_path, name):
    export(TEACHER, tmp_path / "fast", "int8")
    content = bytearray((tmp_path / "fast" / name).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9] = content[middle : middle + 9][::-1]
    (tmp_path / "fast" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"damaged: export it again \({name} is damaged\)"):
        ExportedModel(tmp_path / "fast")


def test_few_pairs_prove_nothing(tmp_path):
    (tmp_path / "few.tsv").write_text("Save the file.\tSalve o arquivo.\n" * 3)
    console = Console(quiet=True)
    arguments = tmp_path / "fast", "int8", [str(tmp_path / "few.tsv")], ("en", "pt")
    with pytest.raises(UserError, match=r"^3 validation pairs prove nothing: give at least 50"):
        export_checked(TEACHER, *arguments, 0.3, console)


def test_the_smallest_faithful_precision_is_found(tmp_path, valid, monkeypatch):
    tried = []

    def compare(model, exported, quantization, *arguments):
        tried.append(quantization)
        faithful = {"changed": 0} if quantization == "float32" else {"bleu": 28.0}
        return fidelity(quantization=quantization, **faithful)

    monkeypatch.setattr("a2d.runs.exporting.compare_export", compare)
    result = call("--output", str(tmp_path / "fast"), "--quantization", "auto", "--valid", valid)
    assert result.exit_code == 0, result.output
    assert tried == ["int8", "float32"]
    assert "int8 loses too much" in result.output
    assert "(float32)" in result.output
    assert ctranslate2.contains_model(str(tmp_path / "fast"))
    result = call("--output", str(tmp_path / "x"), "--quantization", "auto", "--unchecked")
    assert "chooses by the proof: remove --unchecked" in str(result.exception)


def test_the_original_translates_once_for_a_width(monkeypatch):
    widths = []
    monkeypatch.setattr("a2d.models.fidelity.load_to_run", lambda model: model)
    monkeypatch.setattr("a2d.models.fidelity.load_tokenizer", lambda model: model)
    monkeypatch.setattr(
        "a2d.models.fidelity.translate",
        lambda *_, beams, progress: widths.append(beams) or [f"with {beams}"],
    )
    original = Original("model", ["a"], beams=4)
    assert [original.translate(beams) for beams in (4, 4, 1, 4)] == [
        ["with 4"],
        ["with 4"],
        ["with 1"],
        ["with 4"],
    ]
    assert widths == [4, 1]


def test_without_validation_text_the_remedy_is_named(tmp_path):
    with pytest.raises(UserError, match="give one by --valid, or skip the proof by --unchecked"):
        export_checked(TEACHER, tmp_path / "fast", "int8", [], None, 0.3, Console())
    result = call("--output", str(tmp_path / "fast"), "--unchecked")
    assert result.exit_code == 0
    assert ctranslate2.contains_model(str(tmp_path / "fast"))


def test_the_validation_set_of_a_model_s_run_is_found(tmp_path):
    for run in (tmp_path / "small.run", tmp_path / "runs/methods"):
        (run / "corpus").mkdir(parents=True)
        (run / "corpus/valid.source.txt").write_text("eins\nzwei\n")
        (run / "corpus/valid.reference.txt").write_text("jadno\ndwě\n")
        seal(run / "corpus")
    for model in (tmp_path / "small", tmp_path / "runs/methods/models/kd-1+1x4-seed1"):
        model.mkdir(parents=True)
        assert find_pairs(str(model)) == [("eins", "jadno"), ("zwei", "dwě")]
    assert find_pairs(str(tmp_path)) == find_pairs("me/small-de-en") == []
    with (tmp_path / "small.run/corpus/valid.source.txt").open("ab") as file:
        file.write(b"\xff\n")
    with pytest.raises(UserError, match="is damaged: repeat the run's command"):
        find_pairs(str(tmp_path / "small"))


GOOD = [
    "students.0={encoder_layers: 4, decoder_layers: 2, heads: 4, width: 160, feed_forward: 640}",
    "methods=[{method: kd, student_start: teacher}]",
]
"""A student that translates."""
USELESS = [
    "students.0={encoder_layers: 1, decoder_layers: 1, heads: 4, width: 32, feed_forward: 64}",
    "methods=[{method: kd, student_start: random}]",
]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    path = tmp_path_factory.mktemp("held out") / "valid.tsv"
    path.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in PAIRS), "utf-8")
    return path


def run_with(folder, held_out, teacher, *overrides):
    recipe = load_recipe(
        "distill",
        [
            f"teacher.path={teacher}",
            "corpus.limit=300",
            f"corpus.valid={held_out}",
            f"corpus.test={held_out}",
            "training.sized=false",
            "training.max_steps=4",
            "training.max_tokens=256",
            "training.bf16=false",
            "evaluation.beams=2",
            *overrides,
        ],
    )
    return carry_out(recipe, folder, Console(quiet=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory, held_out, brief_teacher):
    exports = "export={quantizations: [int8, float32], max_loss: 5}"
    return run_with(tmp_path_factory.mktemp("run") / "run", held_out, brief_teacher, *GOOD, exports)


def test_exports_have_rows_of_their_own(run):
    rows = results.read(run.folder / "results/test")
    assert [row.label for row in rows] == ["teacher", "kd", "kd int8", "kd float32"]
    references = results.read_compressed(run.folder / "results/test/references.txt.gz")
    for row in rows[2:]:
        model = run.folder / "exports" / row.name / "model"
        sources = results.read_compressed(run.folder / "results/test/sources.txt.gz")
        lines = [" ".join(t.split()) for t in ExportedModel(model).translate(sources, beams=2)]
        path = run.folder / f"results/test/hypotheses/{row.name}.txt.gz"
        assert lines == results.read_compressed(path)
        assert row.bleu == pytest.approx(BLEU().corpus_score(lines, [references]).score)
        assert row.size_bytes == (model / "model.bin").stat().st_size
        assert row.sentences_per_second is None or row.sentences_per_second > 0
    _, student, int8, float32 = (row.size_bytes for row in rows)
    assert int8 < float32 < 1.1 * student


def test_the_card_names_them(run, tmp_path):
    quality = Quality(20.0, 40.0)
    verdict = Verdict(quality, Yardstick(quality, Quality(1.0, 2.0), 1.0), 0.75)
    write_card(
        tmp_path, "small", run.recipe, run.folder / "results/test", None, "text", verdict, "small"
    )
    card = (tmp_path / "README.md").read_text("utf-8")
    *_, int8, float32 = results.read(run.folder / "results/test")
    for row in (int8, float32):
        figures = rf"{row.parameters / 1e6:.1f}M | {row.bleu:.2f} | {row.chrf:.2f}"
        assert re.search(rf"CTranslate2, {row.quantization} \| \S+ \| {re.escape(figures)}", card)


def test_the_report_has_their_fidelity(run):
    exports = json.loads((run.folder / "results/test/details.json").read_text())["exports"]
    assert [export["quantization"] for export in exports] == ["int8", "float32"]
    assert all(export["sentences"] > 0 for export in exports)
    assert "faithful" in (run.folder / "report.html").read_text("utf-8")


def test_a_refused_export_is_named_and_not_kept(tmp_path, held_out, brief_teacher):
    settings = held_out, brief_teacher, *USELESS
    run = run_with(tmp_path / "run", *settings, "export={quantizations: [int8]}")
    reason = "too little for a loss to show"  # the student cannot translate at all
    row = results.read(run.folder / "results/test")[-1]
    assert row.label == "kd int8 (refused)"
    assert reason in row.refused
    assert row.size_bytes is None
    assert row.sentences_per_second is None
    assert list((run.folder / "exports").rglob("model.bin")) == []
    text = (run.folder / "report.html").read_text("utf-8")
    assert "refused: the original has" in text
    assert "Its export" not in text
    log = (run.folder / "run.log").read_text("utf-8")
    assert "was refused: the original has" in log
    assert "--quantization auto" in log
    run = run_with(run.folder, *settings, "export={quantizations: auto}")
    labels = [row.label for row in results.read(run.folder / "results/test")]
    assert labels[2:] == ["kd int8 (refused)"]  # no other data type helps


def test_the_first_data_type_that_is_not_refused_is_found(
    run, held_out, brief_teacher, tmp_path, monkeypatch
):
    problem = Fidelity.problem

    def refuse(fidelity, max_loss=0.3):
        return "it is int8" if fidelity.quantization == "int8" else problem(fidelity, max_loss)

    monkeypatch.setattr(Fidelity, "problem", refuse)
    shutil.copytree(
        run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("exports", "recipe.yaml")
    )
    exports = "export={quantizations: auto, max_loss: 5}"
    run = run_with(tmp_path / "run", held_out, brief_teacher, *GOOD, exports)
    rows = results.read(run.folder / "results/test")
    assert [row.label for row in rows[2:]] == ["kd int8 (refused)", "kd float32"]
    models = [path.parent.parent.name for path in (run.folder / "exports").rglob("model.bin")]
    assert models == ["kd-4+2x4-seed1-float32"]
    assert "was refused: it is int8.\n" in (run.folder / "run.log").read_text("utf-8")
    monkeypatch.setattr("a2d.runs.stages.exports.export", None)
    carry_out(run.recipe, run.folder, Console(quiet=True))


def test_a_finished_run_exports_nothing_again(run, monkeypatch):
    monkeypatch.setattr("a2d.runs.stages.exports.export", None)
    carry_out(run.recipe, run.folder, Console(quiet=True))


def test_a_loss_on_the_test_set_is_told(run, tmp_path, monkeypatch):
    shutil.copytree(run.folder, tmp_path / "run")
    copy = carry_out(run.recipe, tmp_path / "run", Console(quiet=True))
    log = tmp_path / "run/run.log"
    assert "BLEU on the test set" not in log.read_text("utf-8")
    student = copy.one(Student).name
    (bleu,) = (
        row.bleu for row in results.read(tmp_path / "run/results/test") if row.name == student
    )
    for name in ("int8", "float32"):
        path = tmp_path / f"run/exports/{student}-{name}/scores.json"
        lower = {"int8": bleu - 5.5, "float32": bleu - 9}[name]  # the run accepts a loss of 5
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bleu": lower}))
    monkeypatch.setattr("a2d.stage.damage", lambda *args, **kwargs: None)
    carry_out(run.recipe, tmp_path / "run", Console(quiet=True))
    warnings = re.findall(r"The export \S+ loses [0-9.]+ BLEU", log.read_text("utf-8"))
    assert warnings == [f"The export {student}-int8 loses 5.5 BLEU"]


def test_a_lost_export_is_made_again(run):
    place = run.folder / "exports/kd-4+2x4-seed1-int8"
    before = (place / "hypotheses.txt").read_bytes()
    shutil.rmtree(place / "model")
    carry_out(run.recipe, run.folder, Console(quiet=True))
    assert (place / "hypotheses.txt").read_bytes() == before
    assert (place / "model/model.bin").exists()


def test_students_that_cannot_be_exported_are_refused_before_the_training(tmp_path):
    shape = "{encoder_layers: 1, decoder_layers: 1, heads: 4, decoder_heads: 2}"
    recipe = load_recipe("methods", [f"students=[{shape}]", "export.quantizations=[int8]"])
    with pytest.raises(UserError, match="cannot be exported: students have different numbers"):
        carry_out(recipe, tmp_path / "run", Console(quiet=True))
    assert not (tmp_path / "run").exists()
