"""Checkpoints that can be trusted: each has a manifest, and only whole ones are resumed from."""

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
    """Writes the manifest of every checkpoint once all processes have written their files.

    Args:
        owner: the training's fingerprint.
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
        """Find the best checkpoint again after the folder has been moved."""
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
        """Seal what was written."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", owner=self._owner)


class ResumingTrainer(Seq2SeqTrainer):
    """A Trainer that goes on from checkpoints as an undisturbed one would, or says why not."""

    def _init_training_state(
        self, max_steps: int, updates: int, epochs: int, checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """Return the epochs done, and the batches of the next one; all, once training has ended.

        The Trainer would take another step from the last checkpoint.
        """
        with _reading_states(checkpoint):
            place: tuple[int, int] = super()._init_training_state(
                max_steps, updates, epochs, checkpoint, trial
            )
        if checkpoint is None or not (Path(checkpoint) / _STATE).exists():
            return place
        stopped = (
            self.control.should_training_stop and _state(Path(checkpoint)).max_steps == max_steps
        )
        return (epochs, 0) if stopped or self.state.global_step >= max_steps else place

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _reading_states(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading_states(checkpoint):
            super()._load_rng_state(checkpoint)


def last_checkpoint(folder: Path, owner: str | None = None) -> str | None:
    """Find the newest checkpoint to resume from, and clear away the others that cannot be.

    A checkpoint is whole if its files are those of its manifest, and so is the checkpoint with the
    best validation until then, which the training may end with. Of those that are not, damaged ones
    are set aside, with a warning; those whose writing was interrupted are removed.

    Args:
        folder: the training's `output_dir`.
        owner: the training's fingerprint; checkpoints of another one are set aside too.

    Returns:
        The checkpoint's folder; None if there is no whole one.
    """
    places = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"\d+", _step(path))]
    for place in sorted(places, key=lambda path: int(_step(path)), reverse=True):
        if not (place / MANIFEST).exists():
            logger.info("%s was not written to its end: it is removed.", place)
            shutil.rmtree(place)
            continue
        wrong = _damage(place, owner) or _damage_of_best(place, owner)
        if wrong is None:
            return str(place)
        logger.warning(
            "%s: %s. It is set aside as %s; the training goes on from the checkpoint before it, or "
            "from its beginning.",
            place,
            wrong,
            set_aside(place).name,
        )
    return None


def require_intact(folder: Path) -> None:
    """Refuse a damaged checkpoint; those without a manifest are other programs'.

    Raises:
        UserError: its files are not those of its manifest.
    """
    wrong = damage(folder) if (folder / MANIFEST).exists() else None
    if wrong is not None:
        raise UserError(f"{folder}: {wrong}. Resume from another checkpoint.")


@contextmanager
def _reading_states(folder: str | None) -> Iterator[None]:
    """Turn whatever libraries raise on the states in a checkpoint into one `UserError`.

    PyTorch reads no objects of other programs from them (`weights_only=True`).
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if folder is None or memory_is_full(error):
            raise
        raise UserError(
            f"{folder} is no checkpoint of this training ({first_line(error)}): delete it; the "
            "same command goes on from the one before it, or from its beginning."
        ) from error


def _step(place: Path) -> str:
    return place.name.removeprefix("checkpoint-")


def _damage(place: Path, owner: str | None) -> str | None:
    """What is wrong with a checkpoint; also one of another step has a manifest that fits."""
    wrong = damage(place, owner=owner)
    if wrong is not None:
        return wrong
    try:
        state = _state(place)
    except Exception:  # whatever transformers makes of a file that is none of its own
        return f"{_STATE} is damaged"
    if str(state.global_step) != _step(place):
        return f"{_STATE} is of another step"
    return None if type(state.best_global_step) in (int, NoneType) else f"{_STATE} is damaged"


def _state(place: Path) -> TrainerState:
    return TrainerState.load_from_json(str(place / _STATE))


def _damage_of_best(place: Path, owner: str | None) -> str | None:
    """What is wrong with the best checkpoint that a checkpoint knows of."""
    step = _state(place).best_global_step
    if step is None:
        return None
    best = place.with_name(f"checkpoint-{step}")
    if not best.exists():
        return f"the best checkpoint until then, {best.name}, is missing"
    wrong = _damage(best, owner)
    return None if wrong is None else f"in the best checkpoint until then, {best.name}, {wrong}"
