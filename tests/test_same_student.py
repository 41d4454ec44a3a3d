"""Command, recipe and Python train the same student from the same settings."""

import json

import pytest
from datasets import load_from_disk
from pretrained import PAIRS, released
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from a2d import A2DConfig, A2DTrainer
from a2d.models.students import student_of
from a2d.runs.distill import distill
from a2d.runs.execution import carry_out
from a2d.runs.recipe import load_recipe

OVERRIDES = [
    "training.max_steps=12",
    "training.max_tokens=256",
    "training.learning_rate=1e-3",
    "training.evaluate_every=1",
    "training.bf16=false",
    "evaluation={beams: 2, samples: 0}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a teacher and the three parts of a corpus."""
    folder = tmp_path_factory.mktemp("folder")
    released("opus", folder / "teacher", layers=(3, 2))
    for name, pairs in {"train": PAIRS[:80], "valid": PAIRS[80:95], "test": PAIRS[95:110]}.items():
        text = "".join(f"{pair.source}\t{pair.target}\n" for pair in pairs)
        (folder / f"{name}.tsv").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def by_command(folder):
    """Weights of a student of `a2d distill`, and the folder of its run."""
    parts = ([str(folder / f"{name}.tsv")] for name in ("train", "valid", "test"))
    train, valid, test = parts
    distill(
        str(folder / "teacher"),
        train,
        ("de", "dsb"),
        folder / "small",
        Console(quiet=True),
        student="2x1",
        valid=valid,
        test=test,
        force=True,  # the teacher is untrained
        overrides=OVERRIDES,
    )
    return load_file(folder / "small/model.safetensors"), folder / "small.run"


def differences(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not first[name].equal(second[name])]


@pytest.mark.full
def test_by_a_recipe(folder, by_command):
    corpus = [f"corpus.{name}={folder / name}.tsv" for name in ("train", "valid", "test")]
    student = [
        "corpus.source_language=de",
        "corpus.target_language=dsb",
        f"teacher.path={folder / 'teacher'}",
        "students=[{encoder_layers: 2, decoder_layers: 1, heads: 2, width: 24, feed_forward: 40}]",
    ]
    recipe = load_recipe("distill", [*corpus, *student, *OVERRIDES])
    carry_out(recipe, folder / "run", Console(quiet=True))
    (weights,) = (folder / "run/models").glob("a2d-*/model.safetensors")
    assert differences(load_file(weights), by_command[0]) == []


def test_in_python(folder, by_command):
    weights, run = by_command
    teacher = AutoModelForSeq2SeqLM.from_pretrained(folder / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    data = load_from_disk(str(run / "tokens"))
    student = student_of(
        teacher,
        encoder_layers=2,
        decoder_layers=1,
        heads=2,
        width=24,
        feed_forward=40,
        dropout=0.1,
        attention_dropout=0.0,
        activation_dropout=0.0,
        start="teacher",
        sample=data["train"],
    )
    (history,) = run.glob("models/a2d-*/history.json")
    interval = updates_between_validations(history)
    config = A2DConfig(
        str(folder / "out"),
        alpha=1.0,  # what `a2d distill` chooses for a small corpus
        beta=1.0,
        max_steps=12,
        max_tokens=256,
        learning_rate=1e-3,
        warmup_steps=3,  # a quarter of the updates
        plateau_patience=4,
        bf16=False,
        seed=1,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        load_best_model_at_end=True,
        metric_for_best_model="bleu",
        report_to=[],
    )
    trainer = A2DTrainer(
        student, teacher, config, data["train"], data["valid"], processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(str(folder / "python"))
    assert differences(load_file(folder / "python/model.safetensors"), weights) == []


def updates_between_validations(history):
    log = json.loads(history.read_text())["log"]
    return min(entry["step"] for entry in log if "eval_bleu" in entry)
