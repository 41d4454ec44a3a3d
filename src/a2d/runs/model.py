"""Models of a run, each in the folder of its stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from a2d.runs.parts import PARALLEL
from a2d.runs.settings import MethodEntry, Shape, Training
from a2d.stage import Stage

CHECKPOINTS = "checkpoints"
"""Folder of the Trainer's checkpoints, in the model's folder."""


@dataclass(frozen=True)
class Model(Stage):
    """A model of a run: a student, or the teacher.

    Attributes:
        name: name of the model and of its folder.
        path: folder or hub name; empty for an external system.
        shape: sizes of a model that the run trains; None for other teachers.
        training: settings of its training; None for other teachers.
        method: method and its settings.
        seed: seed of all random numbers.
        size: short description of a student's shape.
        data_parts: names of the parts of its training data (`a2d.runs.parts`).
        start: folder of its initial weights, if they are the teacher's.
        cache: folder of the teacher's outputs for these parts; None: the teacher computes them
            beside the student.
    """

    expensive: ClassVar = f"{CHECKPOINTS}/checkpoint-*"

    name: str
    path: str
    shape: Shape | None
    training: Training | None
    method: MethodEntry
    seed: int
    size: str | None = None
    data_parts: tuple[str, ...] = (PARALLEL,)
    start: Path | None = None
    cache: Path | None = None

    @property
    def trained(self) -> bool:
        """Check whether the run trains the model."""
        return self.shape is not None

    @property
    def done(self) -> bool:
        """Check whether nothing is left to train."""
        return not self.trained or super().done

    def restore(self) -> str | None:
        """Set a damaged model aside, except a teacher that the run does not train."""
        return super().restore() if self.trained else None

    @property
    def uses_teacher(self) -> bool:
        """Check whether the model depends on the teacher, if only by its initial weights."""
        return self.method.definition.uses_teacher or self.start is not None

    @property
    def foreign(self) -> bool:
        """Check for an external system, which a2d cannot load."""
        return not self.path
