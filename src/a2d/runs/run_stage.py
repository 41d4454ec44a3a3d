"""Base class of all kinds of stages."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from a2d.errors import UserError, first_line
from a2d.plugin_errors import check_call, defined_at
from a2d.stage import Stage

if TYPE_CHECKING:
    from a2d.runs.run import Run

S = TypeVar("S", bound="RunStage")


@dataclass(frozen=True)
class RunStage(Stage):
    """Base class of a kind of stage, with its settings and its work.

    A subclass defines `of`, which lists the run's stages of this kind with their settings, and
    `make`, which executes a stage. `a2d.runs.stages` defines the order of the kinds.

    Attributes:
        restored_when_needed: `carry_out` itself compares the files with their checksums, because
            the comparison takes too long for every run.
    """

    restored_when_needed: ClassVar[bool] = False

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the stages of this kind in a run."""
        raise NotImplementedError

    def make(self, run: Run) -> None:
        """Execute the stage: fill its folder."""
        raise NotImplementedError

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Execute the unfinished stages of this kind, one after the other.

        Raises:
            UserError: a stage does not fill its folder.
        """
        for stage in run.all(cls):
            if not stage.done:
                stage.make(run)
                if not stage.done:
                    raise UserError(
                        f"the stage {defined_at(cls)} did not fill {stage.folder}: fill the "
                        "folder in `make`, in a block `with self.work() as folder:`."
                    )


def check_stage(kind: type) -> None:
    """Check that a class is a kind of stage.

    Raises:
        UserError: it is not a `RunStage`, or lacks `of`, or both `make` and `carry_out`.
    """
    if not (isinstance(kind, type) and issubclass(kind, RunStage)):
        raise UserError(f"the stage {defined_at(kind)} is not a subclass of RunStage: derive it.")
    missing = [name for name in ("of", "make", "carry_out") if _inherits(kind, name)]
    if "of" in missing or len(missing) == 2:
        raise UserError(f"the stage {defined_at(kind)} must define the methods `of` and `make`.")
    check_call(kind.of, ("run",), f"of of {defined_at(kind)}")
    check_call(kind.make, ("self", "run"), f"make of {defined_at(kind)}")


def _inherits(kind: type[RunStage], name: str) -> bool:
    """Check whether a class has a method of `RunStage` that no class between them overrides."""
    return next(each for each in kind.__mro__ if name in vars(each)) is RunStage


def stages_of(kind: type[S], run: Run) -> list[S]:
    """List the stages of a kind, after a check of what its `of` returns.

    Raises:
        UserError: it is not a list of stages of this kind, or has settings that are not JSON.
    """
    stages: Any = kind.of(run)
    if not isinstance(stages, list) or not all(isinstance(stage, kind) for stage in stages):
        raise UserError(
            f"`of` of the stage {defined_at(kind)} returns {stages!r}: it must return a list of "
            f"{kind.__name__}."
        )
    for stage in stages:
        if not (isinstance(stage.folder, Path) and isinstance(stage.settings, Mapping)):
            raise UserError(
                f"the stage {defined_at(kind)} has the folder {stage.folder!r} and the settings "
                f"{stage.settings!r}: give a Path below run.folder and a mapping."
            )
        try:
            json.dumps(stage.settings)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the settings of the stage {defined_at(kind)} are not serialisable as JSON "
                f"({first_line(error)}): give text, numbers, lists and mappings."
            ) from error
    return stages


def check_folders(stages: Sequence[RunStage], folder: Path) -> None:
    """Check that the stages of a run have different folders below the run's folder.

    Raises:
        UserError: two stages have the same folder, or one has the run's folder or another place.
    """
    kinds: dict[Path, type[RunStage]] = {}
    for stage in stages:
        place = Path(os.path.abspath(stage.folder))
        if Path(os.path.abspath(folder)) not in place.parents:
            raise UserError(
                f"the stage {defined_at(type(stage))} has the folder {stage.folder}: give it a "
                "folder of its own below run.folder."
            )
        if kinds.get(place) is type(stage):
            raise UserError(
                f"two stages of the kind {defined_at(type(stage))} have the same folder, "
                f"{stage.folder}: add what distinguishes them, such as a model's name."
            )
        if place in kinds:
            raise UserError(
                f"the stages {kinds[place].__name__} and {defined_at(type(stage))} have the same "
                f"folder, {stage.folder}: give the second stage another folder."
            )
        kinds[place] = type(stage)
