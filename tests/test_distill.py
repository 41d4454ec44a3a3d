"""`a2d distill`: a teacher and a translation memory become a model with a card."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from plain import without_a2d
from pretrained import LANGUAGES, PAIRS, released
from rich.console import Console
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from a2d import UserError
from a2d.__main__ import main
from a2d.families import Geometry
from a2d.models.decoding import translate
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.runs import hub
from a2d.runs.card import _hub_datasets, write_card
from a2d.runs.distill import distill as work
from a2d.runs.lines import read_lines
from a2d.runs.recipe import load_recipe
from a2d.runs.results import read
from a2d.runs.verdict import Quality, Verdict, Yardstick, advise
from a2d.text.corpus import read_corpus
from a2d.text.evaluation import score
from a2d.training.teacher_cache import TeacherCache

QUICK = (
    "training.evaluate_every=1",
    "evaluation={beams: 2, samples: 1}",
    "corpus.limit=60",
    "teacher.cache=true",
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "tiny-de-dsb"
    released("opus", folder, layers=(3, 2))
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pairs = read_corpus("builtin:de-dsb/train")[:440]
    path = tmp_path_factory.mktemp("data") / "memory.tsv"
    path.write_text("".join(f"{p.source}\t{p.target}\n" for p in pairs), "utf-8")
    return str(path)


def run(teacher, data, output, **options):
    console = Console(record=True, width=120)
    # Forced, because the teacher is untrained.
    options = {"student": "2x1", "epochs": 1, "overrides": QUICK, "force": True} | options
    run.verdict = work(teacher, [data], ("de", "dsb"), output, console, **options)
    return console.export_text()


@pytest.fixture(scope="module")
def distilled(teacher, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "small"
    return output, run(teacher, data, output, trim=True, licence="mpl-2.0")


def test_writes_a_model_that_transformers_reads(distilled, teacher):
    output, _ = distilled
    model = AutoModelForSeq2SeqLM.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert Geometry.of(model.config) == (2, 1, 2, 2)
    assert (
        model.config.vocab_size < AutoModelForSeq2SeqLM.from_pretrained(teacher).config.vocab_size
    )
    assert not (output / "stage.json").exists()
    run = output.with_name("small.run")
    sources = read_lines(run / "corpus/test.source.txt")
    assert len(sources) >= 20
    student = next((run / "translations/test").glob("a2d*/hypotheses.txt"))
    hypotheses = translate(model, tokenizer, sources, beams=2)
    assert [" ".join(text.split()) for text in hypotheses] == read_lines(student)


def test_the_card_has_the_scores(distilled):
    output, _ = distilled
    card = ModelCard.load(output / "README.md")
    assert card.data.language == ["de", "dsb"]
    assert card.data.license == "mpl-2.0"
    assert card.data.base_model is None  # a local folder means nothing to other users
    run = output.with_name("small.run")
    student = next((run / "translations/test").glob("a2d*/hypotheses.txt"))
    scores = score(read_lines(student), read_lines(run / "corpus/test.reference.txt"))
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {"bleu": round(scores.bleu, 2), "chrf": round(scores.chrf, 2)}
    _, row, export = read(run / "results/test")
    assert export.refused  # such a student cannot translate
    assert "CTranslate2, int8" not in card.text
    assert f"| {row.parameters / 1e6:.1f}M | {row.bleu:.2f} | {row.chrf:.2f} |" in card.text
    assert re.search(r"sentence by sentence, of at most \d+ tokens", card.text)
    assert re.search(r"\nMade with a2d \S+, torch \S+, transformers \S+, sacrebleu \S+", card.text)
    for part in ("tiny-de-dsb", "60 sentence pairs (memory.tsv)", *scores.signatures.values()):
        assert part in card.text


def test_the_card_shows_names_and_data_as_they_are(distilled, tmp_path):
    folder = distilled[0].with_name("small.run")
    recipe, quality = load_recipe(folder / "recipe.yaml"), Quality(30.0, 60.0)
    verdict = Verdict(quality, Yardstick(quality, Quality(1.0, 2.0), 1.0), 0.75)
    name, text, address = "{{ 1/0 }}", "{% raw %} <a> & [b](http:c)\u202e", "{% if x %}<é>"
    write_card(tmp_path, name, recipe, folder / "results/test", None, text, verdict, address)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == name
    assert f"# {name}\n" in card.text
    shown = r"{% raw %} \<a\> & \[b\](http:c)\\u202e"
    assert f"learned from {shown}.\n\n{verdict.summary}\n\n|" in card.text
    assert f'from_pretrained("{address}")' in card.text
    assert "\n- It translates sentence by sentence.\n" in card.text
    assert "Not fit" not in card.text


def test_datasets_of_the_hub_are_named_in_the_card(tmp_path):
    (tmp_path / "saved").mkdir()
    specs = ["a.tsv", {"dataset": "Helsinki-NLP/opus-100"}, {"dataset": str(tmp_path / "saved")}]
    assert _hub_datasets(specs) == ["Helsinki-NLP/opus-100"]
    assert _hub_datasets("a.tsv") == _hub_datasets({"path": "a.tsv"}) == []


def snippet_of(card):
    """The program in a model card."""
    return re.fullmatch(r".*?```python\n(.*?)```.*", card.read_text("utf-8"), re.DOTALL)[1]


def test_the_cards_program_reproduces_the_translations(distilled):
    output, _ = distilled
    run = output.with_name("small.run")
    sources = read_lines(run / "corpus/test.source.txt")
    student = next((run / "translations/test").glob("a2d*/hypotheses.txt"))
    with_gap = [sources[0], "", *sources[1:]]
    output_lines = without_a2d(snippet_of(output / "README.md"), with_gap, output.parent)
    assert output_lines.pop(1) == ""
    assert output_lines == read_lines(student)


def test_an_existing_folder_is_not_changed(distilled, teacher, data):
    output, _ = distilled
    before = (output / "README.md").read_bytes()
    with pytest.raises(UserError, match="small exists already: choose another --output"):
        run(teacher, data, output)
    assert (output / "README.md").read_bytes() == before


def test_an_interrupted_distillation_is_resumed(distilled, teacher, data, tmp_path):
    finished = distilled[0].with_name("small.run")
    shutil.copytree(finished, tmp_path / "small.run")
    text = run(teacher, data, tmp_path / "small", trim=True)
    assert "Already trained: a2d-2+1x2-seed1." in text
    weights = [(f / "model.safetensors").read_bytes() for f in (distilled[0], tmp_path / "small")]
    assert weights[0] == weights[1]


@pytest.mark.full
def test_heads_need_not_divide_the_width_in_families_without_that_rule(data, tmp_path):
    released("t5", tmp_path / "teacher", heads=5)
    run(str(tmp_path / "teacher"), data, tmp_path / "small", source_prefix="go: ")
    config = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "small").config
    assert (config.d_model, config.num_heads, config.d_kv) == (24, 5, 12)
    sources = read_lines(tmp_path / "small.run/corpus/test.source.txt")
    student = next((tmp_path / "small.run/translations/test").glob("a2d*/hypotheses.txt"))
    program = snippet_of(tmp_path / "small/README.md")
    assert "go: " in program
    assert without_a2d(program, sources, tmp_path) == read_lines(student)


@pytest.mark.parametrize(
    "name", ["nllb", *(pytest.param(n, marks=pytest.mark.full) for n in ("t5", "mbart50", "bart"))]
)
def test_a_marian_student_of_another_family(name, data, tmp_path):
    released(name, tmp_path / "teacher")
    run(
        str(tmp_path / "teacher"),
        data,
        tmp_path / "small",
        start="marian",
        trim=True,
        student="2x1-16",
        teacher_languages=LANGUAGES.get(name),
    )
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "small")
    assert (model.config.model_type, model.config.d_model) == ("marian", 16)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "small")
    sources = read_lines(tmp_path / "small.run/corpus/test.source.txt")
    hypotheses = translate(model, tokenizer, sources, beams=2)
    student = next((tmp_path / "small.run/translations/test").glob("a2d*/hypotheses.txt"))
    assert [" ".join(text.split()) for text in hypotheses] == read_lines(student)
    export(tmp_path / "small", tmp_path / "fast")
    # Beams of an untrained student often have equal scores.
    hypotheses = translate(model, tokenizer, sources, beams=1)
    assert ExportedModel(tmp_path / "fast").translate(sources, beams=1) == hypotheses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "6"}, "'6' is not a shape of a student"),
        ({"student": "4x1"}, "a student with 4 encoder layers cannot start from a teacher with 3"),
        ({"student": "2x1-24-40-5"}, "width 24 cannot be split into 5 heads"),
        ({"student": "2x1-48"}, "a student of width 48 cannot start from a teacher of width 24"),
        ({"method": "a3d"}, "unknown method 'a3d'"),
        ({"overrides": ["training.epoch=3"]}, "unknown key 'training.epoch'"),
        ({"teacher_languages": ("de", "cs")}, "knows one language pair only"),
        ({"overrides": ["seeds=[1, 2]"]}, "distill makes one student"),
        ({"overrides": ["methods=[kd, a2d]"]}, "distill makes one student"),
        ({"overrides": ["training.max_steps=3"]}, "--epochs and training.max_steps both limit"),
        (
            {"hours": 1, "overrides": ["training.max_hours=2"]},
            "--hours and training.max_hours both limit",
        ),
    ],
)
def test_mistakes_are_reported_before_training(teacher, data, tmp_path, options, message):
    with pytest.raises(UserError) as caught:
        run(teacher, data, tmp_path / "small", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("small.run/models/*/checkpoints"))


@pytest.mark.parametrize(
    ("student", "start", "message"),
    [
        ("2x1-21", "teacher", "width 21 cannot be split into 2 heads"),
        ("2x1-48-96-4", "teacher", "a student of width 48 cannot start from a teacher of width 24"),
        ("2x1-20-40-4", "marian", "20 cannot be split into 4 heads of an even size"),
        ("2x1-20-40-4", "random", "20 cannot be split into 4 heads of an even size"),
    ],
)
def test_shapes_are_checked_before_the_corpus_is_read(
    teacher, tmp_path, monkeypatch, student, start, message
):
    monkeypatch.setattr("a2d.runs.run.read_splits", None)
    with pytest.raises(UserError, match=message):
        run(teacher, "builtin:de-dsb/train", tmp_path / "small", student=student, start=start)
    assert not list(tmp_path.iterdir())


def test_another_shape_in_a_run_is_told(distilled, teacher, data, tmp_path):
    shutil.copytree(distilled[0].with_name("small.run"), tmp_path / "small.run")
    (earlier,) = (tmp_path / "small.run/models").glob("a2d-*")
    shutil.rmtree(tmp_path / "small.run/exports")
    (tmp_path / "small.run/models/a2d-1x1.partial.diverged").mkdir()
    text = run(teacher, data, tmp_path / "small", trim=True, student="1x1")
    assert f"also holds {earlier.name}, of other settings: kept" in " ".join(text.split())
    assert earlier.exists()


def test_too_little_to_hold_out(teacher, tmp_path):
    path = tmp_path / "few.tsv"
    path.write_text("".join(f"{p.source}\t{p.target}\n" for p in PAIRS[:100]), "utf-8")
    with pytest.raises(UserError, match=r"test: the \d+ training pairs are too few to hold out"):
        run(teacher, str(path), tmp_path / "small")


class TestGates:
    def test_a_dry_run_shows_the_plan_and_leaves_nothing(self, teacher, data, tmp_path):
        text = run(teacher, data, tmp_path / "small", dry_run=True, trim=True)
        assert re.search(r"Warning: \d+ training pairs cannot make a good student", text)
        assert run.verdict is None
        assert not list(tmp_path.iterdir())
        for part in ("60 training", "at most", "of warm-up", "GB free", "nothing was trained"):
            assert part in text

    @pytest.mark.parametrize("cached", [True, False])
    def test_a_dry_run_measures_updates_with_the_cache(
        self, teacher, data, tmp_path, monkeypatch, cached
    ):
        read = []

        class Spy(TeacherCache):
            def __init__(self, folder, dataset, teacher):
                super().__init__(folder, dataset, teacher)
                read.append(len(dataset))

        monkeypatch.setattr("a2d.runs.training.TeacherCache", Spy)
        overrides = [*QUICK, f"teacher.cache={cached}"]
        text = run(teacher, data, tmp_path / "small", dry_run=True, overrides=overrides)
        assert read == [60] * cached
        assert ("1 min before, to store the teacher's outputs" in " ".join(text.split())) is cached

    def test_a_student_of_a_random_teacher_fails(self, distilled):
        output, text = distilled
        card = ModelCard.load(output / "README.md").text
        assert "**Not fit for use.**" in card
        assert "no better than copying the source" in " ".join(text.split())
        verdict = json.loads(output.with_name("small.run").joinpath("verdict.json").read_text())
        sources, references = (
            read_lines(output.with_name("small.run") / f"corpus/valid.{side}.txt")
            for side in ("source", "reference")
        )
        copy = score(sources, references)
        assert verdict["yardstick"]["copy"] == [copy.bleu, copy.chrf]
        assert verdict["passed"] is False
        page = output.with_name("small.run").joinpath("report.html").read_text("utf-8")
        assert "<strong>Not fit for use.</strong> The student keeps" in page
        (advice,) = verdict["advice"]
        assert advice.startswith("The teacher translates the validation set no better than copied")
        assert advice.split(" (")[0] in page

    def test_a_later_verdict_replaces_that_of_the_page(
        self, distilled, teacher, data, tmp_path, monkeypatch
    ):
        shutil.copytree(distilled[0].with_name("small.run"), tmp_path / "small.run")
        monkeypatch.setattr(Verdict, "passed", True)
        run(teacher, data, tmp_path / "small", trim=True)
        assert "Not fit for use" not in (tmp_path / "small.run/report.html").read_text("utf-8")

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_a_teacher_that_is_no_better_than_copies_is_refused(
        self, teacher, data, tmp_path, dry_run
    ):
        message = "no better than copied sources .*: check --source and --target"
        with pytest.raises(UserError, match=message):
            run(teacher, data, tmp_path / "small", trim=True, force=False, dry_run=dry_run)
        assert not list(tmp_path.glob("small.run/models/*.partial"))

    @pytest.mark.parametrize(
        ("teacher", "doubted"),
        [(Quality(6, 21), False), (Quality(5, 30), True), (Quality(30, 20), True)],
    )
    def test_teachers_to_doubt(self, teacher, doubted):
        yardstick = Yardstick(teacher, Quality(5, 20), 1.0)
        assert (yardstick.doubt is not None) is doubted

    @pytest.mark.parametrize(("force", "uploads"), [(False, []), (True, ["me/small"])])
    def test_a_failing_student_is_uploaded_only_by_force(
        self, distilled, teacher, data, tmp_path, monkeypatch, force, uploads
    ):
        shutil.copytree(distilled[0].with_name("small.run"), tmp_path / "small.run")
        uploaded = []
        monkeypatch.setattr("a2d.runs.distill.check_hub", lambda name: f"to {name}, as me")
        monkeypatch.setattr("a2d.runs.distill.push", lambda folder, name: uploaded.append(name))
        text = run(teacher, data, tmp_path / "small", trim=True, push_to="me/small", force=force)
        assert uploaded == uploads
        assert ("was not uploaded" in text) is not force
        assert not run.verdict.passed

    def test_a_failing_student_has_an_exit_code(
        self, distilled, teacher, data, tmp_path, monkeypatch
    ):
        shutil.copytree(distilled[0].with_name("small.run"), tmp_path / "small.run")
        command = ["a2d", "distill", "--teacher", teacher, "--data", data, "--source", "de"]
        command += ["--target", "dsb", "--student", "2x1", "--trim", "--epochs", "1"]
        command += ["--output", str(tmp_path / "small"), *QUICK]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 3
        assert (tmp_path / "small/model.safetensors").exists()

    @pytest.mark.parametrize(
        ("student", "least_share", "passed"),
        [
            (Quality(30, 60), 0.75, True),
            (Quality(30, 59), 0.75, False),
            (Quality(30, 59), 0.7, True),
            (Quality(4, 80), 0.75, False),  # its BLEU is below that of copied sources
        ],
    )
    def test_quality_that_passes(self, student, least_share, passed):
        yardstick = Yardstick(Quality(40, 80), Quality(5, 20), 1.0)
        verdict = Verdict(student, yardstick, least_share)
        assert verdict.passed is passed
        assert f"{student.chrf:.1f} of 80.0" in verdict.summary

    def test_a_student_of_a_teacher_to_doubt_fails(self):
        """The teacher went on by --force: a share of its chrF says nothing."""
        yardstick = Yardstick(Quality(0.0, 8.3), Quality(0.1, 7.0), 1.0)
        verdict = Verdict(Quality(0.3, 8.1), yardstick, 0.75)
        assert not verdict.passed
        assert "its teacher is no better than copying the source" in verdict.summary

    @pytest.mark.parametrize(
        ("hours", "seconds", "advice"),
        [
            (None, 100.0, "train longer (--epochs, or training.max_steps)"),
            (1.0, 100.0, "train longer (--epochs, or training.max_steps)"),  # updates ended it
            (1.0, 2701.0, "raise --hours"),
        ],
    )
    def test_advice_names_the_limit_that_ended_the_training(self, hours, seconds, advice):
        training = SimpleNamespace(max_hours=hours)
        model = SimpleNamespace(training=training, method=SimpleNamespace(student_start="teacher"))
        assert advice in advise(model, 10**6, True, seconds)[0]
        assert "improving" not in " ".join(advise(model, 10**6, False, seconds))

    def test_a_student_without_scores_fails(self):
        yardstick = Yardstick(Quality(0, 0), Quality(0, 0), 1.0)
        assert not Verdict(Quality(0, 0), yardstick, 0.75).passed


class TestUpload:
    @pytest.mark.parametrize(
        ("name", "token", "message"),
        [
            ("no/such/name", "x", "not the name of a repository"),
            ("me/small", None, "log in by `hf auth login`"),
            ("me/small", "x", r"refuses the token \(bad token\)"),
        ],
    )
    def test_is_checked_before_a_training(self, monkeypatch, name, token, message):
        def refuse(self):
            raise ValueError("bad token")

        monkeypatch.setattr("a2d.runs.hub.get_token", lambda: token)
        monkeypatch.setattr("huggingface_hub.HfApi.whoami", refuse)
        with pytest.raises(UserError, match=message):
            hub.check_hub(name)

    def test_uploads_the_folder(self, tmp_path, monkeypatch):
        calls = []
        for name in ("create_repo", "upload_folder"):
            monkeypatch.setattr(
                f"huggingface_hub.HfApi.{name}", lambda self, *a, **k: calls.append((a, k))
            )
        hub.push(tmp_path, "me/small")
        assert calls == [
            (("me/small",), {"exist_ok": True}),
            ((), {"repo_id": "me/small", "folder_path": tmp_path}),
        ]

    @pytest.mark.parametrize(
        ("error", "message"),
        [(ConnectionError("no network\nat all"), "no network"), (TimeoutError(), "TimeoutError")],
    )
    def test_failure_is_reported(self, tmp_path, monkeypatch, error, message):
        def refuse(*_, **__):
            raise error

        monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
        with pytest.raises(UserError, match=rf"uploaded to 'me/small' \({message}\): .*hf upload"):
            hub.push(tmp_path, "me/small")
