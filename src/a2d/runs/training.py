"""Training of a run's models."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset, load_from_disk
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback

from a2d.errors import UserError
from a2d.families import family_of
from a2d.files import set_aside, write_text
from a2d.machine import cpu_name
from a2d.models.loading import load_model, new_model
from a2d.models.students import student_of
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report, WarningEvents, log_to
from a2d.runs.model import CHECKPOINTS, Model
from a2d.runs.processes import Launcher, is_first_process, process_count
from a2d.runs.settings import MethodEntry, Shape, Training
from a2d.runs.verdict import Yardstick, read_yardstick
from a2d.stage import Stage
from a2d.text.batching import TokenBatchSampler, lengths, load_tokens
from a2d.training.callbacks import Stopwatch, TrainingProgress
from a2d.training.config import A2DConfig
from a2d.training.finiteness import NonFiniteError
from a2d.training.settings import ObjectiveSettings, Precision, TrainingSettings, values_of
from a2d.training.teacher_cache import TeacherCache
from a2d.training.trainer import A2DTrainer

HISTORY = "history.json"
"""File of the training time, the device and the Trainer's log, in the model's folder."""
LEARNING_GRACE = 0.2
"""Share of the planned updates after which `LearningWatch` checks a student."""

logger = logging.getLogger(__name__)


class TrainingInputs(NamedTuple):
    """Inputs of all trainings of a run.

    Attributes:
        vocabulary: folder of the tokenizer.
        tokens: folder of the tokenised corpus.
        data: folders of the parts of the training data, by name (`a2d.runs.parts`).
        tensorboard: folder of TensorBoard logs.
        beams: width of the beam in the final evaluation, for the generation settings of the models.
        teacher: folder or hub name of the teacher; empty if a2d cannot load it.
        pretrained: whether the teacher is pretrained, so that students belong to its family.
        precision: precision in which the teacher computes; None: that of the training.
        sharded: whether the processes of a training share the teacher's weights.
        yardstick: folder of the teacher's validation scores; None for the teacher's training.
    """

    vocabulary: Path
    tokens: Path
    data: dict[str, Path]
    tensorboard: Path
    beams: int
    teacher: str = ""
    pretrained: bool = False
    precision: Precision | None = None
    sharded: bool = False
    yardstick: Path | None = None


def train_model(
    model: Model, inputs: TrainingInputs, processes: int, launcher: Launcher, report: Report
) -> None:
    """Train one model, or resume its training, and save its best checkpoint in its folder.

    Args:
        model: the model.
        inputs: inputs of the run's trainings.
        processes: number of processes that share each batch, one for each GPU.
        launcher: starts them, if there are several.
        report: receives progress events.

    Raises:
        UserError: the settings do not fit the data, or the training diverges.
    """
    with (
        log_to(WarningEvents(model.name, report)),
        _set_aside_if_diverged(model),
        model.work(scratch=CHECKPOINTS) as folder,
    ):
        if processes == 1:
            _train(model, inputs, folder, report)
        else:
            launcher(processes, _train, model, inputs, folder, report=report)


def _train(model: Model, inputs: TrainingInputs, folder: Path, report: Report) -> None:
    """Train a model in this process, which may be one of several."""
    callbacks: list[TrainerCallback] = [Stopwatch(), TrainingProgress(model.name, report)]
    if is_first_process():
        board = SummaryWriter(str(inputs.tensorboard / model.name))
        callbacks.append(TensorBoardCallback(board))
    if model.uses_teacher and inputs.yardstick is not None and inputs.yardstick.exists():
        callbacks.append(LearningWatch(read_yardstick(inputs.yardstick)))
    trainer = new_trainer(model, inputs, folder / CHECKPOINTS, callbacks)
    try:
        trainer.train(resume_from_checkpoint=True)
    except UserError as error:
        raise type(error)(f"{model.name}: {error}") from error
    trainer.save_model(str(folder))
    # A resumed Trainer replaces stateful callbacks by those of the checkpoint.
    watch = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Stopwatch))
    log = trainer.state.log_history
    history = {"seconds": watch.seconds, "device": _device(trainer.args), "log": log}
    if is_first_process():
        write_text(folder / HISTORY, json.dumps(history, indent=1) + "\n")


@contextmanager
def _set_aside_if_diverged(model: Model) -> Iterator[None]:
    """Rename the folder of a training that diverges, so that corrected settings start anew."""
    try:
        yield
    except NonFiniteError as error:
        if not model.partial.exists():
            raise
        place = set_aside(model.partial, "diverged")
        raise NonFiniteError(
            f"{error} The training so far, with its checkpoints, is now in {place}: the "
            "corrected command starts it anew."
        ) from error


def save_start(stage: Stage, shape: Shape, inputs: TrainingInputs, report: Report) -> None:
    """Prune the teacher to a shape, and save the model in the stage's folder."""
    sample = load_from_disk(str(inputs.tokens))["train"]
    torch.manual_seed(0)
    task = f"pruning: {stage.folder.name}"
    with log_to(WarningEvents(task, report)), stage.work() as folder:
        student = student_of(
            load_model(inputs.teacher),
            **shape.model_dump(),
            start="teacher",
            sample=sample,
            progress=lambda *steps: report(Event(task, *steps)),
        )
        student.save_pretrained(folder)


class LearningWatch(TrainerCallback):
    """Logs one warning if a student's validation scores stay far below its teacher's.

    Args:
        yardstick: scores of the teacher and of copied sources.
    """

    def __init__(self, yardstick: Yardstick) -> None:
        self._yardstick = yardstick
        self._best = 0.0
        self._checked = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Compare the best scores once, after `LEARNING_GRACE` of the planned updates."""
        self._best = max(self._best, metrics["eval_chrf"])
        if self._checked or state.global_step < LEARNING_GRACE * state.max_steps:
            return
        self._checked = True
        teacher, copy = self._yardstick.teacher.chrf, self._yardstick.copy.chrf
        if self._best <= copy or self._best < teacher / 3:
            logger.warning(
                "the student hardly learns: after %d updates its validation chrF is %.1f; its "
                "teacher has %.1f, copied sources have %.1f. %s use more layers, more data or "
                "another training.learning_rate.",
                state.global_step,
                self._best,
                teacher,
                copy,
                "Next time,"
                if state.global_step >= state.max_steps
                else "If that does not change, stop the run and",
            )


def new_trainer(
    model: Model,
    inputs: TrainingInputs,
    output: Path,
    callbacks: Sequence[TrainerCallback],
    *,
    trial: bool = False,
) -> A2DTrainer:
    """Load data and teacher, make the model, and make a Trainer of them.

    Args:
        model: the model to train.
        inputs: inputs of the run's trainings.
        output: folder of the checkpoints.
        callbacks: callbacks of the Trainer.
        trial: train without the teacher's translations and the initial weights from it, which do
            not exist yet. A cache, if there is one, covers `TrainingInputs.data`.
    """
    assert model.training is not None
    tokenizer = load_tokenizer(inputs.vocabulary)
    data = load_from_disk(str(inputs.tokens))
    parts = [inputs.data[part] for part in model.data_parts]
    teacher = load_model(inputs.teacher) if model.method.definition.uses_outputs else None
    train = data["train"] if trial and model.cache is None else load_tokens(parts)
    cache = None
    if teacher is not None and model.cache is not None:
        cache = TeacherCache(model.cache, train, teacher)
    if model.start is not None and not trial:
        student = load_model(model.start)
    else:
        template = load_model(inputs.teacher) if inputs.pretrained and teacher is None else teacher
        student = random_student(model, tokenizer, template)
    student.generation_config.num_beams = inputs.beams
    config = make_config(model.method, model.training, model.seed, train, output, model.fingerprint)
    config.teacher_precision = inputs.precision or config.teacher_precision
    config.shard_teacher = inputs.sharded and process_count() > 1  # trials have one process
    trainer = A2DTrainer(
        student,
        teacher,
        config,
        train,
        data["valid"],
        tokenizer,
        callbacks=callbacks,
        teacher_cache=cache,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def random_student(
    model: Model, tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedModel | None
) -> PreTrainedModel:
    """Make a model with random weights: of the teacher's family, or without a teacher Marian."""
    assert model.shape is not None
    torch.manual_seed(model.seed)
    shape, start = model.shape.model_dump(), model.method.student_start
    from_teacher = start == "teacher"
    if teacher is None or (not from_teacher and family_of(teacher.config).scratch):
        return new_model(tokenizer, **shape)
    return student_of(teacher, **shape, start="random" if from_teacher else start)


def remove_checkpoints(model: Model) -> None:
    """Delete the checkpoints of a finished training."""
    shutil.rmtree(model.folder / CHECKPOINTS, ignore_errors=True)


def make_config(
    method: MethodEntry,
    training: Training,
    seed: int,
    train: Dataset,
    output: Path,
    fingerprint: str | None = None,
) -> A2DConfig:
    """Convert settings of a recipe to training arguments.

    Validations are equally spaced; the last one is at the last step. Each is followed by a
    checkpoint.

    Args:
        method: the method with its settings.
        training: settings of the training.
        seed: random seed.
        train: the tokenised training data.
        output: folder of the checkpoints.
        fingerprint: fingerprint of the model's stage, so that checkpoints of another one are
            refused; None: no check.
    """
    epoch = updates_per_epoch(training, train)
    steps = training.max_steps or max(1, round((training.num_train_epochs or 0) * epoch))
    evaluations = min(steps, max(1, round(steps / epoch / training.evaluate_every)))
    interval = round(steps / evaluations)
    settings = values_of(training, TrainingSettings)
    settings["gradient_accumulation_steps"] //= process_count()  # each has its share
    return A2DConfig(
        output_dir=str(output),
        **values_of(method, ObjectiveSettings),
        **settings,
        max_steps=interval * evaluations,
        fingerprint=fingerprint,
        seed=seed,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,
        logging_steps=max(1, interval // 10),
        load_best_model_at_end=True,
        metric_for_best_model="bleu",
        greater_is_better=True,
        report_to=[],
        disable_tqdm=True,
    )


def updates_per_epoch(training: Training, train: Dataset) -> float:
    """Count the updates of a pass over the data, as a fraction if the last one is incomplete.

    Raises:
        UserError: a pair is longer than a batch.
    """
    try:
        batches = len(TokenBatchSampler(lengths(train), training.max_tokens))
    except ValueError as error:
        raise UserError(f"{error}.") from error
    return batches / training.gradient_accumulation_steps


def epochs_of(training: Training, train: Dataset) -> float:
    """Count the passes over the data that a training makes, if it does not end early."""
    if training.max_steps:
        return training.max_steps / updates_per_epoch(training, train)
    return training.num_train_epochs or 0.0


def _device(args: A2DConfig) -> str:
    """Describe the device of a training, with its precision."""
    precision = "bf16" if args.bf16 else "fp32"
    if args.device.type == "cuda":
        count = f"{args.world_size} × " if args.world_size > 1 else ""
        return f"{count}{torch.cuda.get_device_name(args.device)}, {precision}"
    capability = torch.backends.cpu.get_cpu_capability()
    threads = f"{torch.get_num_threads()} thread(s)"
    if args.world_size > 1:
        threads = f"{args.world_size} processes with {threads}"
    return f"{cpu_name()} ({capability}), {threads}, {precision}"
