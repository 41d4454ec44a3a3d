"""Pretrained teachers of every family, from a folder to a student that transformers reads."""

import json

import pytest
from plain import without_a2d
from pretrained import FAMILIES, LANGUAGES, PAIRS, released
from rich.console import Console
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from a2d.errors import UserError
from a2d.models.decoding import translate
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.models.loading import load_model
from a2d.models.teachers import prepare_teacher, set_target_language
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.card import snippet
from a2d.runs.execution import carry_out
from a2d.runs.lines import read_lines
from a2d.runs.recipe import load_recipe
from a2d.runs.stages.models import Teacher
from a2d.text.batching import tokenise

USUAL = ["opus", "nllb"]
"""Releases that are always tested: one of each kind of tokenizer. Tests of families see all."""
every_release = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.full] if n not in USUAL else []) for n in FAMILIES],
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for name, part in {"train": PAIRS[:40], "valid": PAIRS[40:46], "test": PAIRS[46:52]}.items():
        text = "".join(f"{pair.source}\t{pair.target}\n" for pair in part)
        (folder / f"{name}.tsv").write_text(text, "utf-8")
    return folder


def settings(corpus, teacher, name):
    shape = "encoder_layers: 2, decoder_layers: 1, heads: 4, width: 24, feed_forward: 40"
    return [
        *(f"corpus.{part}={corpus / part}.tsv" for part in ("train", "valid", "test")),
        f"teacher={{path: {teacher}, trim: true, cache: true}}",
        *([f"teacher.languages=[{', '.join(LANGUAGES[name])}]"] if name in LANGUAGES else []),
        f"students=[{{{shape}}}]",
        "methods=[seqkd+a2d, {method: a2d, student_start: teacher}]",
        "training={num_train_epochs: 1, max_tokens: 512, learning_rate: 0.001, warmup_steps: 0}",
        "evaluation={beams: 2, samples: 1}",
        "compute.parallel=1",
    ]


@every_release
def test_from_folder_to_student(name, corpus, tmp_path):
    """A run trims, caches, translates and distils; transformers alone translates identically."""
    teacher, _ = released(name, tmp_path / "teacher", heads=2)
    console = Console(record=True, width=120)
    run = tmp_path / "run"
    carry_out(load_recipe("methods", settings(corpus, tmp_path / "teacher", name)), run, console)
    assert f"of the teacher's {teacher.config.vocab_size:,} tokens." in console.export_text()
    students = [path for path in (run / "models").iterdir() if (path / "config.json").exists()]
    assert len(students) == 2
    sources = read_lines(run / "corpus/test.source.txt")
    outputs = set()
    for folder in students:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        assert type(model) is type(teacher)
        assert model.config.vocab_size < teacher.config.vocab_size
        translations = translate(model, AutoTokenizer.from_pretrained(folder), sources, beams=2)
        expected = read_lines(run / f"translations/test/{folder.name}/hypotheses.txt")
        assert [" ".join(text.split()) for text in translations] == expected
        outputs |= {folder.name + text for text in expected if text}
    assert len(outputs) > 1 or name == "pegasus"  # it ends at once after this short training
    assert without_a2d(snippet(str(folder)), sources, tmp_path) == expected
    saved = json.loads((folder / "generation_config.json").read_text())
    assert saved["num_beams"] == 2
    assert 128 <= saved["max_length"] <= 200


class TestLanguages:
    @pytest.mark.parametrize("name", LANGUAGES)
    def test_translations_begin_as_targets_do(self, name, tmp_path):
        model, tokenizer = released(name, tmp_path)
        code = tokenizer.convert_tokens_to_ids({"m2m100": "__cs__"}.get(name, LANGUAGES[name][1]))
        set_target_language(model, tokenizer)
        inputs = tokenizer([PAIRS[0].source], return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=3, num_beams=2)[0].tolist()
        if name == "mbart":
            assert output[0] == code
            assert model.generation_config.forced_bos_token_id is None
        else:
            assert output[:2] == [tokenizer.eos_token_id, code]

    @pytest.mark.parametrize(("name", "code"), [("m2m100", "cs"), ("nllb", "ces_Latn")])
    def test_unknown_ones(self, name, code, tmp_path):
        released(name, tmp_path)
        with pytest.raises(UserError, match=r"knows no language .*xx"):
            load_tokenizer(tmp_path, ("xx", code))
        with pytest.raises(UserError, match=r"knows no language .*xx"):
            load_tokenizer(tmp_path, (code, "xx"))

    def test_of_one_that_knows_none(self, tmp_path):
        released("opus", tmp_path)
        with pytest.raises(UserError, match="knows one language pair only"):
            load_tokenizer(tmp_path, ("de", "cs"))

    @pytest.mark.parametrize("trim", [True, False])
    def test_must_be_named(self, corpus, tmp_path, trim):
        released("nllb", tmp_path / "teacher")
        recipe = load_recipe(
            "methods",
            [*settings(corpus, tmp_path / "teacher", "opus"), f"teacher.trim={trim}"],
        )
        with pytest.raises(UserError, match=r"teacher knows many languages: name two with teacher"):
            carry_out(recipe, tmp_path / "run", Console())


def interrupt(*_, **__):
    raise KeyboardInterrupt


class TestSourcePrefix:
    PREFIX = "translate German to Czech: "

    def test_goes_before_sources_alone(self, tmp_path):
        _, plain = released("t5", tmp_path)
        tokenizer = load_tokenizer(tmp_path, prefix=self.PREFIX)
        tokenizer.save_pretrained(tmp_path)
        again = load_tokenizer(tmp_path)
        tokens = tokenise(PAIRS[:9], again)
        assert tokens["input_ids"] == [
            plain(self.PREFIX + pair.source)["input_ids"] for pair in PAIRS[:9]
        ]
        assert tokens["labels"] == [plain(pair.target)["input_ids"] for pair in PAIRS[:9]]

    def test_outlasts_a_vocabulary_that_is_named(self, corpus, tmp_path, monkeypatch):
        released("t5", tmp_path / "teacher", heads=2)
        recipe = load_recipe(
            "methods",
            [
                *settings(corpus, tmp_path / "teacher", "t5"),
                "teacher.trim=false",
                f'teacher.source_prefix="{self.PREFIX}"',
                f"vocabulary.path={tmp_path / 'teacher'}",
            ],
        )
        monkeypatch.setattr(Teacher, "carry_out", interrupt)
        with pytest.raises(KeyboardInterrupt):
            carry_out(recipe, tmp_path / "run", Console())
        again = load_tokenizer(tmp_path / "run/vocabulary")
        assert again.init_kwargs["source_prefix"] == self.PREFIX

    def test_travels_from_the_recipe_to_what_is_shipped(self, corpus, tmp_path):
        """Student and exported model translate like transformers with the prefix in the text."""
        released("t5", tmp_path / "teacher", heads=2)
        run = tmp_path / "run"
        overrides = settings(corpus, tmp_path / "teacher", "t5")
        recipe = load_recipe(
            "methods",
            [*overrides, f'teacher.source_prefix="{self.PREFIX}"', "methods=[a2d]"],
        )
        carry_out(recipe, run, Console())
        sources = read_lines(run / "corpus/test.source.txt")
        (folder,) = (run / "models").glob("a2d*")
        model, tokenizer = load_model(folder).eval(), AutoTokenizer.from_pretrained(folder)
        for text, expected in zip(
            sources,
            read_lines(run / f"translations/test/{folder.name}/hypotheses.txt"),
            strict=True,
        ):
            inputs = tokenizer(self.PREFIX + text, return_tensors="pt")
            assert tokenizer.unk_token_id not in inputs["input_ids"]
            output = model.generate(**inputs)
            translation = tokenizer.decode(output[0], skip_special_tokens=True)
            assert " ".join(translation.split()) == expected
        export(folder, tmp_path / "exported")
        assert ExportedModel(tmp_path / "exported").translate(sources, beams=2) == translate(
            model, tokenizer, sources, beams=2
        )


def test_an_untrimmed_one_is_left_alone(tmp_path):
    model, _ = released("m2m100", tmp_path / "teacher")
    size = model.config.vocab_size
    folder = tmp_path / "ready"
    assert prepare_teacher(str(tmp_path / "teacher"), folder, ("de", "cs")) == (size, size)
    ready = load_model(folder)
    assert all(
        ready.state_dict()[name].equal(weight) for name, weight in model.state_dict().items()
    )
    assert load_tokenizer(folder).tgt_lang == "cs"
    assert ready.generation_config.forced_bos_token_id == load_tokenizer(folder).get_lang_id("cs")


@pytest.mark.parametrize(
    "key", ["teacher.trim=true", "teacher.languages=[de, cs]", 'teacher.source_prefix="a: "']
)
def test_settings_of_pretrained_teachers_alone(key):
    with pytest.raises(UserError, match="for a pretrained teacher: give its path"):
        load_recipe("methods", [key])
