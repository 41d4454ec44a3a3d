"""Distillation of a student from a pretrained teacher in one call (`a2d distill`)."""

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

from rich.console import Console
from rich.markup import escape

from a2d.defaults import LEAST_SHARE
from a2d.errors import UserError
from a2d.families import positions_of, sizes_of
from a2d.files import MANIFEST, MAX_NAME, atomic_folder, temporary_folder, write_text
from a2d.models.loading import load_config
from a2d.models.model_settings import read_generation_config
from a2d.models.presets import complete_shape, parse_shape
from a2d.models.search_settings import set_beams
from a2d.progress import Bars, silence_libraries
from a2d.runs import page
from a2d.runs.card import write_card
from a2d.runs.environment import export_obstacle_of
from a2d.runs.execution import carry_out
from a2d.runs.hub import check_hub, push
from a2d.runs.preview import show_preview
from a2d.runs.recipe import Recipe, load_plugins_of, load_recipe
from a2d.runs.results import history
from a2d.runs.run import Run
from a2d.runs.stages.exports import Export
from a2d.runs.stages.students import Student, models_of
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.runs.training import HISTORY
from a2d.runs.verdict import VERDICT, Verdict, advise, measure_quality, read_yardstick
from a2d.stage import RECORD
from a2d.text.corpus import from_arguments, places

_RUN_FILES = (RECORD, MANIFEST, HISTORY)
"""Files in a model's folder that only the run uses."""

_SET_ASIDE = re.compile(r"\.(damaged|diverged)")
"""In names of folders that were set aside, with a warning (`a2d.files.set_aside`)."""

FAILED = 3
"""Exit code of a distillation whose student is not fit for use."""


def distill(
    teacher: str,
    data: Sequence[str],
    languages: tuple[str, str],
    output: Path,
    console: Console,
    *,
    student: str,
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

    The arguments change the packaged recipe `distill`. Its run (`a2d.runs.run`) is in the folder
    `output`.run; after an interruption, the same call continues it. At the end the student is
    copied to `output`, with a model card.

    Args:
        teacher: folder or hub name of the teacher.
        data: corpora (`a2d.text.corpus.from_arguments`).
        languages: language codes of source and target.
        output: folder to write; it must not exist.
        console: console for progress.
        student: shape of the student, such as `6x2` (`a2d.models.presets.parse_shape`). The
            teacher's sizes complete it.
        valid, test: held-out corpora, as `data`; empty: some of the data is held out.
        teacher_languages: language codes in a multilingual teacher's tokenizer.
        source_prefix: text that the teacher expects before every source.
        method: name of a method (`a2d.method.methods.METHODS`).
        start: initial weights of the student: `teacher`, `random` or `marian`
            (`a2d.models.students.student_of`).
        trim: reduce the vocabulary to the tokens of the data.
        epochs: largest number of passes over the data; None: as in the schedule.
        hours: longest training in hours; None: no limit.
        seed: random seed.
        licence: licence for the model card.
        overrides: settings of the run's recipe (`training.learning_rate=1e-4`); they take
            precedence over the schedule.
        push_to: name of a repository on the hub to upload the folder to.
        least_share: share of the teacher's validation chrF that the student must keep, 0 to 1.
        force: go on with a teacher that is no better than copied sources, and upload a student that
            is not fit for use.
        dry_run: show the plan and stop; nothing is written.

    Returns:
        The verdict on the student; None after a dry run.

    Raises:
        UserError: invalid input; raised before any training starts.
    """
    silence_libraries()
    if lexists(output):  # also a broken link
        raise UserError(f"{output} exists already: choose another --output, or move it away.")
    hub = None if push_to is None else check_hub(push_to)
    overrides = list(overrides)
    load_plugins_of("distill", overrides)
    _check_limits(overrides, epochs, hours)
    limits = {"num_train_epochs": epochs, "max_hours": hours}
    changes = {
        "name": _name_of(output),
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
        "students": [complete_shape(sizes_of(load_config(teacher)), parse_shape(student))],
        "methods": [{"method": method, "student_start": start}],
        "seeds": [seed],
        "training": {name: limit for name, limit in limits.items() if limit is not None},
    }
    recipe = load_recipe("distill", overrides, changes)
    _check_one_student(recipe)
    run = _carry_out(recipe, output, console, hub, dry_run, force)
    if dry_run:
        console.print("This was a dry run: nothing was trained or written.")
        return None
    verdict = _judge(run, least_share)
    _write_student(run, output, licence, verdict, push_to or output.name)
    _show_verdict(console, output, verdict)
    if recipe.export.quantizations == "auto":
        _show_obstacle(run)
    _show_exports(run)
    if push_to is not None and (verdict.passed or force):
        push(output, push_to)
        console.print(f"Uploaded to https://huggingface.co/{push_to}.")
    elif push_to is not None:
        console.print("[red]The student was not uploaded: give --force to upload it anyway.[/]")
    return verdict


def _check_limits(overrides: Sequence[str], epochs: float | None, hours: float | None) -> None:
    """Check that no limit of the training is given as an option and as a setting.

    Raises:
        UserError: one is.
    """
    keys = {override.partition("=")[0] for override in overrides}
    for option, value, settings in (
        ("--epochs", epochs, ("num_train_epochs", "max_steps")),
        ("--hours", hours, ("max_hours",)),
    ):
        for setting in settings:
            if value is not None and f"training.{setting}" in keys:
                raise UserError(
                    f"{option} and training.{setting} both limit the training: give one of them."
                )


def _name_of(output: Path) -> str:
    """Make the name of a recipe from the name of a folder."""
    name = re.sub(r"[^\w.+-]", "-", output.name).lstrip(".+-") or "student"
    return name.encode()[:MAX_NAME].decode(errors="ignore")


def _check_one_student(recipe: Recipe) -> None:
    """Check that overrides have not added students or replaced the pretrained teacher.

    Raises:
        UserError: they have.
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


def _carry_out(
    recipe: Recipe, output: Path, console: Console, hub: str | None, dry_run: bool, force: bool
) -> Run:
    """Carry out the recipe in the folder `output`.run, or a dry run in a temporary folder.

    Raises:
        UserError: the teacher is no better than copied sources, without `force`.
    """
    with ExitStack() as stack:
        folder = output.with_name(output.name + ".run")
        if dry_run:
            folder = Path(stack.enter_context(TemporaryDirectory(dir=temporary_folder()))) / "dry"

        def preview(run: Run) -> None:
            _show_other_models(run)
            if dry_run or not run.one(Student).done:
                yardstick = show_preview(run, output if dry_run else folder, hub)
                if yardstick.doubt is not None and not force:
                    raise UserError(f"{yardstick.doubt}, or go on by --force.")

        return carry_out(recipe, folder, console, preview, dry_run)


def _show_other_models(run: Run) -> None:
    """Name the run's students of an earlier command with another shape, method or seed."""
    known = {model.folder.name for model in models_of(run)}
    others = {path.name.removesuffix(".partial") for path in (run.folder / "models").glob("*")}
    if names := [name for name in sorted(others - known) if not _SET_ASIDE.search(name)]:
        run.console.print(
            f"{run.folder / 'models'} also holds {', '.join(names)}, of other settings: kept.",
            markup=False,
            highlight=False,
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
        if (doubt := verdict.yardstick.doubt) is not None:
            advice: tuple[str, ...] = (f"{doubt[0].upper()}{doubt[1:]}.",)
        else:
            trained = history(student)
            log = [entry for entry in trained["log"] if "eval_bleu" in entry]
            improving = log[-1]["eval_bleu"] >= max(entry["eval_bleu"] for entry in log)
            advice = advise(student, run.corpus.sizes["train"], improving, trained["seconds"])
        verdict = replace(verdict, advice=advice)
    record = {**asdict(verdict), "passed": verdict.passed, "summary": verdict.summary}
    path = run.folder / VERDICT
    # The page shows a verdict only on a student that failed. The run has just written the page,
    # with the verdict of an earlier call if there was one.
    is_current = verdict.passed and not path.exists()
    write_text(path, json.dumps(record, indent=1) + "\n")
    if not is_current:
        page.report(run.folder)
    return verdict


def _show_verdict(console: Console, output: Path, verdict: Verdict) -> None:
    console.print(f"The student is in {escape(str(output))}.")
    style = "green" if verdict.passed else "bold red"
    console.print(f"[{style}]{escape(verdict.summary)}[/]")
    for advice in verdict.advice:
        console.print(f"[red]- {escape(advice)}[/]")


def _show_obstacle(run: Run) -> None:
    """Say why there are no exports, if there can be none."""
    obstacle = None if run.recipe.export.quantizations else export_obstacle_of(run.recipe)
    if obstacle is not None:
        run.console.print(f"There is no export to CTranslate2: {escape(obstacle)}.")


def _show_exports(run: Run) -> None:
    """Say where the exports are."""
    for export in run.all(Export):
        if export.problem is None:
            line = f"CTranslate2, {export.quantization}: {escape(str(export.model))}."
            run.console.print(line, soft_wrap=True)


def _write_student(
    run: Run, output: Path, licence: str | None, verdict: Verdict, address: str
) -> None:
    """Copy the student to `output`, without the run's files, and write its model card.

    Args:
        run: the finished run.
        output: folder to write.
        licence: licence for the model card.
        verdict: the verdict on the student.
        address: folder or repository that the model card tells readers to load.
    """
    recipe = run.recipe
    names = " and ".join(Path(place).name for place in places(recipe.corpus.train))
    data = f"{run.corpus.sizes['train']:,} sentence pairs ({names})"
    ignored = shutil.ignore_patterns(*_RUN_FILES)
    with atomic_folder(output) as partial:
        shutil.copytree(run.one(Student).folder, partial, ignore=ignored)
        generation_config = read_generation_config(partial)
        # The student should be used with the beams that it was scored with.
        set_beams(generation_config, recipe.evaluation.beams)
        generation_config.save_pretrained(partial)
        results = run.folder / "results" / recipe.evaluation.split
        positions = positions_of(load_config(partial))
        write_card(
            partial, output.name, recipe, results, licence, data, verdict, address, positions
        )
