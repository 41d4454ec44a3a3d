"""A run: a recipe in a folder, with the stages that carry it out.

`a2d.runs.stages` has the stages and their order, `a2d.runs.execution` carries them out.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from a2d.families import FAMILIES
from a2d.files import identity
from a2d.models.loading import load_config
from a2d.plugin_errors import packages
from a2d.plugins import plugin_of
from a2d.progress import Bars, Event, Report, WarningEvents, log_to, show_activity
from a2d.runs.corpus_record import CorpusRecord
from a2d.runs.engines import Engine, open_workers
from a2d.runs.recipe import Recipe
from a2d.runs.run_stage import RunStage, stages_of
from a2d.runs.splits import Splits, read_splits
from a2d.teachers import model_path
from a2d.text.pairs import Pair

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
    def splits(self) -> Splits:
        """The corpus; the first access reads it."""
        if self._splits is None:
            self._splits = splits_of(self.recipe, self.console)
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
    def tensorboard(self) -> Path:
        """Folder of TensorBoard logs."""
        return self.folder / "tensorboard"

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


def splits_of(recipe: Recipe, console: Console) -> Splits:
    """Read and clean a recipe's corpus, and collect the warnings for the run's log."""
    events: list[Event] = []
    with (
        show_activity(console, "Reading the corpus…"),
        log_to(WarningEvents("corpus", events.append)),
    ):
        splits = read_splits(recipe)
    return splits._replace(warnings=tuple(event.warning for event in events))
