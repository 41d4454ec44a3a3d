"""Verified checkpoints: each has a manifest, and training resumes from intact ones only."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from accelerate import PartialState
from transformers import (
    Seq2SeqTrainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from a2d.errors import UserError, first_line, memory_is_full
from a2d.files import MANIFEST, damage, seal, set_aside

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"


class SealedCheckpoints(TrainerCallback):
    """Callback that writes a checkpoint's manifest once all processes have written their files.

    Args:
        owner: fingerprint of the training.
    """

    def __init__(self, owner: str | None = None) -> None:
        self._owner = owner

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Update the path of the best checkpoint, which changes if the folder was moved."""
        if state.best_global_step:
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            if best.is_dir():
                state.best_model_checkpoint = str(best)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Write the manifest of a new checkpoint."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", owner=self._owner)


class ResumingTrainer(Seq2SeqTrainer):
    """A Trainer whose resumed training equals an uninterrupted one.

    A checkpoint that cannot be resumed from is reported as a `UserError`.
    """

    def _init_training_state(
        self, max_steps: int, updates: int, epochs: int, checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """Return the finished epochs, and the finished batches of the next epoch.

        All epochs count as finished if the training had ended: the Trainer would take another step
        from the last checkpoint otherwise.
        """
        with _report_errors(checkpoint):
            position: tuple[int, int] = super()._init_training_state(
                max_steps, updates, epochs, checkpoint, trial
            )
        if checkpoint is None or not (Path(checkpoint) / _STATE).exists():
            return position
        stopped = (
            self.control.should_training_stop and _state(Path(checkpoint)).max_steps == max_steps
        )
        return (epochs, 0) if stopped or self.state.global_step >= max_steps else position

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _report_errors(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _report_errors(checkpoint):
            super()._load_rng_state(checkpoint)


def last_checkpoint(folder: Path, owner: str | None = None) -> str | None:
    """Return the newest checkpoint to resume from, and clear away newer ones that are not intact.

    An intact checkpoint has the files of its manifest. So has its best checkpoint, the one with the
    best validation so far, because the training may end with that. Damaged checkpoints are set
    aside, with a warning. Checkpoints without a manifest are incomplete and are deleted.

    Args:
        folder: `output_dir` of the training.
        owner: fingerprint of the training; checkpoints with another one are set aside too.

    Returns:
        Folder of the checkpoint; None if no checkpoint is intact.
    """
    checkpoints = [
        path for path in folder.glob("checkpoint-*") if re.fullmatch(r"\d+", _step(path))
    ]
    for checkpoint in sorted(checkpoints, key=lambda path: int(_step(path)), reverse=True):
        if not (checkpoint / MANIFEST).exists():
            logger.info(
                "%s is incomplete, because its writing was interrupted: deleted.", checkpoint
            )
            shutil.rmtree(checkpoint)
            continue
        problem = _damage(checkpoint, owner) or _damage_of_best(checkpoint, owner)
        if problem is None:
            return str(checkpoint)
        logger.warning(
            "%s: %s. The folder is renamed to %s; training resumes from the checkpoint before it, "
            "or starts anew.",
            checkpoint,
            problem,
            set_aside(checkpoint).name,
        )
    return None


def require_intact(folder: Path) -> None:
    """Check the files of a checkpoint; one without a manifest, of another program, passes.

    Raises:
        UserError: the files are not those of the manifest.
    """
    problem = damage(folder) if (folder / MANIFEST).exists() else None
    if problem is not None:
        raise UserError(f"{folder}: {problem}. Resume from another checkpoint.")


@contextmanager
def _report_errors(folder: str | None) -> Iterator[None]:
    """Turn every error of libraries that read a checkpoint's states into a `UserError`.

    PyTorch itself refuses pickled objects in them (`weights_only=True`).
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if folder is None or memory_is_full(error):
            raise
        raise UserError(
            f"{folder} is not a checkpoint of this training ({first_line(error)}): delete it and "
            "repeat the command, which resumes from the checkpoint before it, or starts anew."
        ) from error


def _step(checkpoint: Path) -> str:
    return checkpoint.name.removeprefix("checkpoint-")


def _damage(checkpoint: Path, owner: str | None) -> str | None:
    """Describe the damage of a checkpoint; None if it is intact.

    A checkpoint of another step has a valid manifest too, and is detected by its state.
    """
    problem = damage(checkpoint, owner=owner)
    if problem is not None:
        return problem
    try:
        state = _state(checkpoint)
    except Exception:  # transformers raises various errors for other files
        return f"{_STATE} is damaged"
    if str(state.global_step) != _step(checkpoint):
        return f"{_STATE} is of another step"
    return None if type(state.best_global_step) in (int, NoneType) else f"{_STATE} is damaged"


def _state(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / _STATE))


def _damage_of_best(checkpoint: Path, owner: str | None) -> str | None:
    """Describe the damage of the best checkpoint that a checkpoint names; None if it is intact."""
    step = _state(checkpoint).best_global_step
    if step is None:
        return None
    best = checkpoint.with_name(f"checkpoint-{step}")
    if not best.exists():
        return f"the best checkpoint until then, {best.name}, is missing"
    problem = _damage(best, owner)
    return None if problem is None else f"in the best checkpoint until then, {best.name}, {problem}"
