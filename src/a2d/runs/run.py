"""Runs: recipes that are carried out in a folder, stage by stage.

Finished stages are skipped, and interrupted ones resumed. `a2d.runs.stages` has the stages and
their order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape

from a2d.errors import UserError
from a2d.families import FAMILIES
from a2d.files import identity, require_folder, require_space, write_text
from a2d.models.loading import load_config
from a2d.plugin_errors import packages
from a2d.plugins import plugin_of
from a2d.progress import (
    Bars,
    Event,
    Report,
    WarningEvents,
    log_file,
    log_to,
    show_activity,
    silence_libraries,
)
from a2d.runs import report
from a2d.runs.checks import check_models, check_shapes
from a2d.runs.command import check_command
from a2d.runs.corpus_record import CorpusRecord, hash_of_inputs, load_record, record_of
from a2d.runs.energy import EnergyMeter
from a2d.runs.engines import Engine, count_workers, open_workers
from a2d.runs.environment import RECIPE, resolve
from a2d.runs.parts import PARALLEL
from a2d.runs.recipe import Recipe
from a2d.runs.schedule import fill_schedule
from a2d.runs.splits import Splits, read_splits
from a2d.runs.stages import AFTER_PREPARATION, PREPARATION
from a2d.runs.stages.base import RunStage, check_folders, stages_of
from a2d.runs.stages.prepared import PreparedTeacher
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.students import space_needed, trained_models_of
from a2d.runs.stages.teacher_outputs import TeacherOutputs
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.stages.vocabulary import Tokens, Vocabulary
from a2d.runs.training import TrainingInputs
from a2d.teachers import model_path
from a2d.text.pairs import Pair
from a2d.text.parts import kept_processes

logger = logging.getLogger(__name__)

LOG_FILE = "run.log"
"""Log file in the run's folder."""

S = TypeVar("S", bound=RunStage)


class Run:
    """A run; all its stages share this object.

    Args:
        recipe: the recipe, resolved (`a2d.runs.environment.resolve`).
        folder: folder of the run.
        corpus: record of the corpus.
        splits: the corpus, if it has been read.
        console: console for progress; None: no output.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        corpus: CorpusRecord,
        splits: Splits | None = None,
        console: Console | None = None,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.corpus = corpus
        self.console = console or Console(quiet=True)
        self._splits = splits
        self._stages: dict[type[RunStage], list[RunStage]] = {}
        self._resources = ExitStack()
        self._bars: Bars | None = None
        self._workers: Engine | None = None

    def all(self, kind: type[S]) -> list[S]:
        """List the stages of a kind."""
        if kind not in self._stages:
            plugin = plugin_of(kind.__module__)
            self._stages[kind] = [
                replace(stage, settings={**stage.settings, "plugins": plugin}) if plugin else stage
                for stage in stages_of(kind, self)
            ]
        return self._stages[kind]  # type: ignore[return-value]

    def list_again(self) -> None:
        """Forget the lists of stages, which finished stages may change."""
        self._stages.clear()

    def one(self, kind: type[S]) -> S:
        """Look up the only stage of a kind."""
        (stage,) = self.all(kind)
        return stage

    @property
    def stages(self) -> list[RunStage]:
        """All stages, in the order in which they are carried out."""
        return [stage for kind in (*PREPARATION, *AFTER_PREPARATION) for stage in self.all(kind)]

    @property
    def splits(self) -> Splits:
        """The corpus; the first access reads it."""
        if self._splits is None:
            self._splits = _read_splits(self.recipe, self.console)
        return self._splits

    @property
    def evaluated(self) -> list[Pair]:
        """The held-out set that models are evaluated on."""
        pairs: list[Pair] = getattr(self.splits, self.recipe.evaluation.split)
        return pairs

    def has_translations(self, split: str) -> bool:
        """Return whether the teacher's translations of `valid` or `test` exist or can be made."""
        return self.corpus.translations is None or split in self.corpus.translated

    @cached_property
    def pretrained(self) -> str | None:
        """Identity of the pretrained teacher and its family; None for other teachers."""
        path = self.recipe.teacher.path
        if path is None:
            return None
        family = (
            FAMILIES.plugin(load_config(path).model_type) if self.recipe.plugins or packages else {}
        )
        return " ".join([identity(model_path(path)), *family.values()])

    @property
    def teacher_path(self) -> str:
        """Folder or hub name of the teacher, adapted if the recipe asks for that."""
        prepared = self.all(PreparedTeacher)
        if prepared:
            return str(prepared[0].folder)
        return self.recipe.teacher.path or str(self.folder / "models" / "teacher")

    @property
    def data(self) -> dict[str, Path]:
        """Folders of the parts of the training data."""
        folders = {stage.part: stage.folder for stage in self.all(Sequences)}
        return {PARALLEL: self.one(Tokens).folder / "train", **folders}

    @property
    def inputs(self) -> TrainingInputs:
        """Inputs of the trainings."""
        return TrainingInputs(
            vocabulary=self.one(Vocabulary).folder,
            tokens=self.one(Tokens).folder,
            data=self.data,
            caches={stage.parts: stage.folder for stage in self.all(TeacherOutputs)},
            teacher="" if self.recipe.teacher.foreign else self.teacher_path,
            pretrained=self.recipe.teacher.path is not None,
            precision=self.recipe.teacher.precision,
            sharded=self.recipe.teacher.sharded,
            yardstick=self.one(TeacherScores).folder,
            tensorboard=self.folder / "tensorboard",
            beams=self.recipe.evaluation.beams,
        )

    @property
    def report(self) -> Report:
        """Function that shows a progress event."""
        if self._bars is None:
            self._bars = self._resources.enter_context(Bars(self.console))
        return self._bars.show

    @property
    def workers(self) -> Engine:
        """Workers that share the work; the first access starts them."""
        if self._workers is None:
            workers = open_workers(self.recipe.compute, self.folder / LOG_FILE, self.report)
            self._workers = self._resources.enter_context(workers)
        return self._workers

    def end_workers(self) -> None:
        """Wait for the worker processes to finish their tasks, and end them."""
        self._resources.close()
        self._bars = self._workers = None

    def warn(self, message: str) -> None:
        """Log a warning and show it."""
        logger.warning(message)
        self.console.print(f"[yellow]Warning:[/] {escape(message)}")

    def restore(self, stage: RunStage) -> None:
        """Set a damaged stage aside with a warning, so that it is carried out again."""
        damage = stage.restore()
        if damage is not None:
            self.warn(damage)

    def __enter__(self) -> Run:
        """Return the run; its worker processes end with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the worker processes; after an error, do not wait for their tasks."""
        self._resources.__exit__(*error)  # type: ignore[arg-type]
        self._bars = self._workers = None


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
        check_folders(run.stages, folder)
        for stage in run.stages:
            stage.check()
        for place in (*report.folders(run), run.inputs.tensorboard):
            require_folder(place)
        require_space(folder, space_needed(run))
        with _locked(folder), log_to(log_file(folder / LOG_FILE)), EnergyMeter() as meter, run:
            _prepare(run)
            preparing.close()
            check_models(trained_models_of(run), run.inputs)
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
    for stage in run.stages:
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
        splits = _read_splits(recipe, console)
        record = record_of(splits, inputs)
        recipe = fill_schedule(recipe, splits)
    return Run(resolve(recipe, folder), folder, record, splits, console)


def _read_splits(recipe: Recipe, console: Console) -> Splits:
    """Read and clean a recipe's corpus, and collect the warnings for the run's log."""
    events: list[Event] = []
    with (
        show_activity(console, "Reading the corpus…"),
        log_to(WarningEvents("corpus", events.append)),
    ):
        splits = read_splits(recipe)
    return splits._replace(warnings=tuple(event.warning for event in events))


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
