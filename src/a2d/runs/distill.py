"""From a pretrained teacher and parallel text to a small model, in one go."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from os.path import lexists
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.markup import escape

from a2d.errors import UserError
from a2d.families import sizes_of
from a2d.files import MANIFEST, atomic_folder, write_text
from a2d.models.decoding import set_beams
from a2d.models.folders import read_generation_config
from a2d.models.loading import load_config
from a2d.progress import Bars, silence_libraries
from a2d.runs.card import write_card
from a2d.runs.hub import check_hub, push
from a2d.runs.preview import show_preview
from a2d.runs.recipe import Recipe, load_recipe
from a2d.runs.results import history
from a2d.runs.run import Run, carry_out
from a2d.runs.stages.students import Student
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.runs.training import HISTORY
from a2d.runs.verdict import LEAST_SHARE, Verdict, advise, measure_quality, read_yardstick
from a2d.stage import RECORD
from a2d.text.corpus import from_arguments, places
from a2d.text.storage import temporary_folder

_OF_THE_RUN = (RECORD, MANIFEST, HISTORY)
"""What a model's folder holds for the run alone."""


FAILED = 3
"""Exit code of a distillation whose student is not fit for use."""


def distill(
    teacher: str,
    data: Sequence[str],
    languages: tuple[str, str],
    output: Path,
    console: Console,
    *,
    layers: str,
    heads: int | None = None,
    width: int | None = None,
    feed_forward: int | None = None,
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    teacher_languages: tuple[str, str] | None = None,
    source_prefix: str = "",
    method: str = "a2d",
    start: str = "teacher",
    trim: bool = False,
    epochs: float | None = None,
    hours: float | None = None,
    seed: int = 1,
    licence: str | None = None,
    overrides: Iterable[str] = (),
    push_to: str | None = None,
    least_share: float = LEAST_SHARE,
    force: bool = False,
    dry_run: bool = False,
) -> Verdict | None:
    """Distil a student from a pretrained teacher, score both, and write the student's folder.

    The work is a run (`a2d.runs.run`) of the packaged recipe `distill`, changed as the
    arguments say, in the folder `output`.run. An interrupted call continues it. The student is
    copied to `output` at the end, with a model card.

    Args:
        teacher: folder or hub name.
        data: corpora (`a2d.text.corpus.from_arguments`).
        languages: codes of source and target.
        output: folder to write; it must not exist.
        console: where to show progress.
        layers: of the student, as in `6x2`: encoder, decoder.
        heads, width, feed_forward: of the student; None: the teacher's.
        valid, test: as `data`; empty: some of the data is held out.
        teacher_languages: the codes of a multilingual teacher's tokenizer.
        source_prefix: text that the teacher expects before every source.
        method: of `a2d.method.methods.METHODS`.
        start: the student's: `teacher`, `random` or `marian` (`a2d.models.students.student_of`).
        trim: reduce the vocabulary to the tokens of the data.
        epochs: most passes over the data; None: as the schedule has it.
        hours: longest training; None: no limit but the schedule's.
        seed: of everything random.
        licence: for the model card.
        overrides: settings of the run's recipe (`training.learning_rate=1e-4`); they win over the
            schedule's.
        push_to: name of a repository on the hub to upload the folder to.
        least_share: share of the teacher's validation chrF that the student must keep.
        force: upload a student that does not.
        dry_run: show the plan and stop; nothing is written.

    Returns:
        How good the student is; None after a dry run.

    Raises:
        UserError: bad input, before anything is trained.
    """
    silence_libraries()
    if lexists(output):  # a link to nowhere, too
        raise UserError(f"{output} exists already: choose another --output, or move it away.")
    hub = None if push_to is None else check_hub(push_to)
    lengths = {"num_train_epochs": epochs, "max_hours": hours}
    changes = {
        "name": re.sub(r"[^\w.+-]", "-", output.name),
        "corpus": {
            "source_language": languages[0],
            "target_language": languages[1],
            "train": from_arguments(data),
            "valid": from_arguments(valid),
            "test": from_arguments(test),
        },
        "teacher": {
            "path": teacher,
            "languages": list(teacher_languages) if teacher_languages else None,
            "source_prefix": source_prefix,
            "trim": trim,
        },
        "students": [_shape(load_config(teacher), layers, heads, width, feed_forward)],
        "methods": [{"method": method, "student_start": start}],
        "seeds": [seed],
        "training": {name: limit for name, limit in lengths.items() if limit is not None},
    }
    recipe = load_recipe("distill", overrides, changes)
    _check_one_student(recipe)
    with ExitStack() as stack:
        folder = output.with_name(output.name + ".run")
        if dry_run:
            folder = Path(stack.enter_context(TemporaryDirectory(dir=temporary_folder()))) / "dry"

        def preview(run: Run) -> None:
            if dry_run or not run.one(Student).done:
                show_preview(run, output if dry_run else folder, hub)

        run = carry_out(recipe, folder, console, preview, dry_run)
        if dry_run:
            console.print("This was a dry run: nothing is trained, nothing is kept.")
            return None
    verdict = _judge(run, least_share)
    address = push_to or output.name
    _write_student(run, output, licence, verdict, address)
    console.print(f"The student is in {escape(str(output))}.")
    style = "green" if verdict.passed else "bold red"
    console.print(f"[{style}]{escape(verdict.summary)}[/]")
    for advice in verdict.advice:
        console.print(f"[red]- {escape(advice)}[/]")
    if push_to is not None and (verdict.passed or force):
        push(output, push_to)
        console.print(f"Uploaded to https://huggingface.co/{push_to}.")
    elif push_to is not None:
        console.print("[red]It was not uploaded: --force does so nevertheless.[/]")
    return verdict


def _check_one_student(recipe: Recipe) -> None:
    """Refuse recipes whose overrides ask for more, or for another kind of teacher.

    Raises:
        UserError: they do.
    """
    if len(recipe.students) * len(recipe.methods) * len(recipe.seeds) != 1:
        raise UserError(
            "distill makes one student: give one method and one seed, or compare several by "
            "`a2d run`."
        )
    if recipe.teacher.path is None:
        raise UserError(
            "distill takes a teacher that a2d can load: describe another one in a recipe for "
            "`a2d run` (docs/foreign-teachers.md)."
        )


def _judge(run: Run, least_share: float) -> Verdict:
    """Compare the student with its teacher on the validation set."""
    student = run.one(Student)
    with Bars(run.console) as bars:
        quality = measure_quality(
            student.name, student.path, run.one(Vocabulary).folder, run.splits.valid, bars.show
        )
    verdict = Verdict(quality, read_yardstick(run.one(TeacherScores).folder), least_share)
    if not verdict.passed:
        log = [entry for entry in history(student)["log"] if "eval_bleu" in entry]
        improving = log[-1]["eval_bleu"] >= max(entry["eval_bleu"] for entry in log)
        advice = advise(student, run.corpus.sizes["train"], improving)
        verdict = replace(verdict, advice=advice)
    write_text(run.folder / "verdict.json", json.dumps(asdict(verdict), indent=1) + "\n")
    return verdict


def _write_student(
    run: Run,
    output: Path,
    licence: str | None,
    verdict: Verdict,
    address: str,
) -> None:
    recipe = run.recipe
    names = " and ".join(Path(place).name for place in places(recipe.corpus.train))
    words = f"{run.corpus.sizes['train']:,} sentence pairs ({names})"
    ignored = shutil.ignore_patterns(*_OF_THE_RUN)
    with atomic_folder(output) as partial:
        shutil.copytree(run.one(Student).folder, partial, ignore=ignored)
        settings = read_generation_config(partial)
        # Those of the scores, if other than in training.
        set_beams(settings, recipe.evaluation.beams)
        settings.save_pretrained(partial)
        results = run.folder / "results" / recipe.evaluation.split
        write_card(partial, output.name, recipe, results, licence, words, verdict, address)


def _shape(
    config: Any, layers: str, heads: int | None, width: int | None, feed_forward: int | None
) -> dict[str, int]:
    """The student's, from the teacher's and what differs."""
    found = re.fullmatch(r"(\d{1,9})[x×+](\d{1,9})", layers)
    if not found:
        raise UserError(
            f"{layers!r} are no layers of a student: give encoder's and decoder's, as in 6x2."
        )
    theirs = sizes_of(config)
    depths = {"encoder_layers": int(found[1]), "decoder_layers": int(found[2])}
    shape = depths | {"width": width or theirs["width"]}
    for size, own in (("heads", heads), ("feed_forward", feed_forward)):
        shape[size] = own or theirs[size]
        decoder = theirs.get(f"decoder_{size}", theirs[size])
        if own is None and decoder != theirs[size]:
            shape[f"decoder_{size}"] = decoder
    return shape
