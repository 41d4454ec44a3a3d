"""Runs are carried out, stage by stage.

Finished stages are skipped, and interrupted ones resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape

from a2d.errors import UserError
from a2d.files import require_folder, require_space, write_text
from a2d.progress import log_file, log_to, show_activity, silence_libraries
from a2d.runs import report
from a2d.runs.checks import check_models, check_shapes
from a2d.runs.command import check_command
from a2d.runs.corpus_record import hash_of_inputs, load_record, record_of
from a2d.runs.energy import EnergyMeter
from a2d.runs.engines import count_workers
from a2d.runs.environment import RECIPE, resolve
from a2d.runs.recipe import Recipe
from a2d.runs.run import LOG_FILE, Run, splits_of
from a2d.runs.run_stage import check_folders
from a2d.runs.schedule import fill_schedule
from a2d.runs.stages import AFTER_PREPARATION, PREPARATION, all_stages
from a2d.runs.stages.students import Student, space_needed, trained_models_of
from a2d.text.parts import kept_processes

logger = logging.getLogger(__name__)


def carry_out(
    recipe: Recipe,
    folder: Path,
    console: Console,
    preview: Callable[[Run], None] | None = None,
    dry: bool = False,
) -> Run:
    """Carry out a recipe and report its results, or continue an interrupted run.

    Args:
        recipe: the recipe.
        folder: folder of the run. If it holds a run of the same recipe, that one is continued.
        console: console for progress, table and samples.
        preview: called before the trainings, when their inputs are ready.
        dry: stop before the trainings.

    Returns:
        The finished run.

    Raises:
        UserError: invalid input; raised before any training starts, and nothing is overwritten.
    """
    silence_libraries()
    if recipe.teacher.command is not None:
        check_command(recipe.teacher.command)
    if not dry:
        console.print(f"Log: {escape(str(folder / LOG_FILE))}", highlight=False, soft_wrap=True)
    with ExitStack() as preparing:
        preparing.enter_context(kept_processes())
        run = open_run(recipe, folder, console)
        check_folders(all_stages(run), folder)
        for stage in all_stages(run):
            stage.check()
        for place in (*report.folders(run), run.tensorboard):
            require_folder(place)
        require_space(folder, space_needed(run))
        with _locked(folder), log_to(log_file(folder / LOG_FILE)), EnergyMeter() as meter, run:
            _prepare(run)
            preparing.close()
            check_models(trained_models_of(run), Student.inputs(run))
            if preview is not None:
                preview(run)
            if not dry:
                _show_trained_models(run)
                for kind in AFTER_PREPARATION:
                    kind.carry_out(run)
                run.end_workers()
                report.write(run, meter)
    return run


def _prepare(run: Run) -> None:
    """Write the recipe and the corpus, and carry out the stages before the trainings."""
    write_text(run.folder / RECIPE, yaml.safe_dump(run.recipe.model_dump(), sort_keys=False))
    run.corpus.save(run.folder)
    for warning in run.corpus.warnings:
        run.warn(warning)
    for stage in all_stages(run):
        if not stage.restored_when_needed:
            run.restore(stage)
    _show_corpus(run)
    with show_activity(run.console, "Preparing the vocabulary…"):
        for kind in PREPARATION:
            kind.carry_out(run)


def open_run(recipe: Recipe, folder: Path, console: Console | None = None) -> Run:
    """Prepare a run without carrying it out: resolve the recipe, and read the corpus if necessary.

    The corpus is not read if the folder has an up-to-date record of it.

    Raises:
        UserError: a part of the corpus is missing, malformed, or empty after cleaning, or the
            engine cannot be used; or a student of a pretrained teacher cannot have its shape.
    """
    console = console or Console(quiet=True)
    check_shapes(recipe)
    inputs = hash_of_inputs(recipe)
    record = load_record(folder, inputs)
    splits = None
    if record is None or recipe.training.sized:
        count_workers(recipe.compute)  # refuses a wrong engine before time is spent
        splits = splits_of(recipe, console)
        record = record_of(splits, inputs)
        recipe = fill_schedule(recipe, splits)
    return Run(resolve(recipe, folder), folder, record, splits, console)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder against a second run; the system releases the lock of a killed one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"another run is using {folder}: wait for its end, or choose another --output."
        ) from None


def _show_corpus(run: Run) -> None:
    """Print the sizes of the corpus, and how many pairs each cleaning rule dropped."""
    sizes, cleaning = run.corpus.sizes, run.corpus.cleaning
    run.console.print(
        f"Corpus: {sizes['train']:,} training pairs ({cleaning['read']:,} read, dropped: "
        f"{_dropped(cleaning)}), {sizes['valid']:,} validation, {sizes['test']:,} test."
    )
    counts = run.corpus.monolingual_cleaning
    if counts is not None:
        text = (
            f"Monolingual text: {sizes['monolingual']:,} sentences ({counts['read']:,} read, "
            f"dropped: {_dropped(counts)})."
        )
        logger.info(text)
        run.console.print(text)
    for name, split in (("valid", "validation"), ("test", "test")):
        if run.corpus.shared[name]:
            shared = run.corpus.shared[name]
            run.warn(f"{shared:,} {split} sentences also occur in the training data.")


def _dropped(counts: Mapping[str, int]) -> str:
    rules = {rule: n for rule, n in counts.items() if n and rule not in ("read", "kept")}
    return ", ".join(f"{n:,} {rule.replace('_', ' ')}" for rule, n in rules.items()) or "none"


def _show_trained_models(run: Run) -> None:
    """Print the names of models that are already trained."""
    done = [model.name for model in trained_models_of(run) if model.done]
    if done:
        run.console.print(f"Already trained: {', '.join(done)}.")
