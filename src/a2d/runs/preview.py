"""Plan of a distillation, shown before the training: data, sizes, updates, time, disk space."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk
from rich import box
from rich.table import Table

from a2d.files import existing_parent, size_in_words
from a2d.models.loading import count_parameters, load_model
from a2d.quoting import counted
from a2d.runs.parts import MONOLINGUAL
from a2d.runs.run import Run
from a2d.runs.stages.students import Student, space_needed
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.training import epochs_of, make_config
from a2d.runs.trials import try_updates
from a2d.runs.verdict import Yardstick, read_yardstick
from a2d.text.batching import lengths

FEW_SENTENCES = 500
"""Training data of fewer sentences get a warning: with 200 pairs, a student was worse than copied
sources, with 1,000 it kept 79% of its teacher's chrF (docs/distill.md)."""


def show_preview(run: Run, folder: Path, hub: str | None) -> Yardstick:
    """Measure teacher and student, and show the plan for the one student of a run.

    Args:
        run: the run.
        folder: folder that the run will write to.
        hub: address of the upload in words (`a2d.runs.hub.check_hub`); None without an upload.

    Returns:
        The teacher's scores.
    """
    student = run.one(Student)
    _warn_of_few_sentences(run)
    TeacherScores.carry_out(run)
    run.end_workers()
    yardstick = read_yardstick(run.one(TeacherScores).folder)
    table = Table(title="Plan", title_justify="left", box=box.SIMPLE, show_header=False)
    table.show_edge = False
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _rows(run, student, yardstick).items():
        table.add_row(name, text)
    needed, free = space_needed(run), shutil.disk_usage(existing_parent(folder)).free
    table.add_row("disk", f"about {size_in_words(needed)} needed, {size_in_words(free)} free")
    if hub is not None:
        table.add_row("upload", hub)
    run.console.print(table, "")
    return yardstick


def _warn_of_few_sentences(run: Run) -> None:
    pairs, monolingual = run.corpus.sizes["train"], run.corpus.sizes["monolingual"]
    if pairs + monolingual < FEW_SENTENCES:
        run.warn(
            f"{counted(pairs, 'training pair')} cannot make a good student. Add parallel text "
            "(--data may be given several times), or source text that the teacher translates "
            "(--method seqkd+kd corpus.monolingual=FILE)."
        )


def _rows(run: Run, student: Student, yardstick: Yardstick) -> dict[str, str]:
    """Estimate the figures of the plan; maps their names to texts."""
    assert student.training is not None
    assert student.shape is not None
    sizes, inputs, training = run.corpus.sizes, Student.inputs(run), student.training
    train = load_from_disk(str(inputs.tokens))["train"]
    train = _training_data(train, student, sizes["monolingual"])
    config = make_config(student.method, training, student.seed, train, Path("unused"))
    epochs = epochs_of(training, train)
    source, target = lengths(train).sum(axis=0)
    trial = try_updates(student, inputs)
    parameters = count_parameters(load_model(inputs.teacher))
    validations = config.max_steps // int(config.eval_steps)
    seconds = config.max_steps * trial.seconds + validations * yardstick.seconds
    if training.max_hours is not None:
        seconds = min(seconds, 3600 * training.max_hours)
    stored = trial.cache_seconds * len(train)
    caching = f"; {_duration(stored)} before, to store the teacher's outputs" if stored else ""
    monolingual = f"; {sizes['monolingual']:,} monolingual sources" if sizes["monolingual"] else ""
    can_end_early = training.plateau_patience or training.early_stopping_patience
    end = "fewer if validation stops improving" if can_end_early else "no fewer"
    start = {"teacher": "the teacher's layers"}.get(student.method.student_start, "random weights")
    return {
        "pairs": f"{sizes['train']:,} training, {sizes['valid']:,} validation, "
        f"{sizes['test']:,} test{monolingual}",
        "tokens": f"{source:,} source and {target:,} target per epoch",
        "teacher": f"{parameters / 1e6:.2f}M parameters, validation BLEU "
        f"{yardstick.teacher.bleu:.1f}, chrF {yardstick.teacher.chrf:.1f} (copied sources: "
        f"{yardstick.copy.bleu:.1f}, {yardstick.copy.chrf:.1f})",
        "student": f"{student.shape.encoder_layers}+{student.shape.decoder_layers} layers, "
        f"width {student.shape.width}, "
        f"{trial.parameters / 1e6:.2f}M parameters ({trial.parameters / parameters:.0%} of the "
        f"teacher's), from {start}, method {student.method.method}",
        "updates": f"at most {config.max_steps:,} of {training.max_tokens:,} tokens "
        f"({epochs:.3g} {'epoch' if epochs == 1 else 'epochs'}), {end}; validation every "
        f"{int(config.eval_steps):,}",
        "learning rate": f"{training.learning_rate:.2g}, after "
        f"{config.get_warmup_steps(config.max_steps):,} updates of warm-up",
        "time": f"at most {_duration(seconds)} of training ({trial.seconds:.2f} s per update, "
        f"{yardstick.seconds:.2g} s per validation, measured on this machine){caching}",
    }


def _training_data(train: Dataset, student: Student, monolingual: int) -> Dataset:
    """Repeat or cut the training pairs to the size of the student's training data.

    The teacher's translations, which are a part of that data, do not exist yet.
    """
    count = sum(monolingual if p == MONOLINGUAL else len(train) for p in student.data_parts)
    return train if count == len(train) else train.select(np.arange(count) % len(train))


def _duration(seconds: float) -> str:
    """Format a duration in minutes or hours."""
    minutes = seconds / 60
    return f"{minutes / 60:.1f} hours" if minutes >= 100 else f"{max(1, round(minutes))} min"
