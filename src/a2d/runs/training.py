"""Training the models of a run, one at a time or several at once."""

from __future__ import annotations

import json
import logging
import platform
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

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
from transformers.trainer_utils import IntervalStrategy

from a2d.errors import UserError
from a2d.families import family_of
from a2d.files import write_text
from a2d.models.loading import check_same_ids, count_parameters, load_model, new_model
from a2d.models.students import check_start, student_of
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Report, Stopwatch, TrainingProgress, WarningEvents, log_to
from a2d.runs.settings import MethodEntry, Training
from a2d.runs.verdict import Yardstick, read_yardstick
from a2d.text.batching import TokenBatchSampler, lengths, load_tokens
from a2d.text.storage import temporary_folder
from a2d.training.config import A2DConfig
from a2d.training.distillation import build_transfer
from a2d.training.settings import ObjectiveSettings, TrainingSettings, values_of
from a2d.training.teacher_cache import TeacherCache
from a2d.training.trainer import A2DTrainer

if TYPE_CHECKING:
    from a2d.runs.stages.models import Model

CHECKPOINTS = "checkpoints"
HISTORY = "history.json"
LEARNING_GRACE = 0.2
"""Share of the planned updates after which a student must have learnt something."""

logger = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """What every training of a run reads, and where it logs.

    `data` holds the parts of training data by their names, and `caches` are the teacher's, by the
    parts that they are of (`a2d.runs.parts`). `teacher` is empty for one that a2d cannot load.
    `pretrained` says that the teacher is at hand, so that students can be of its family; `beams` is
    the width of the beam that they are judged by.
    """

    vocabulary: Path
    tokens: Path
    data: dict[str, Path]
    caches: dict[tuple[str, ...], Path]
    teacher: str
    pretrained: bool
    yardstick: Path
    tensorboard: Path
    beams: int


def train_model(model: Model, inputs: Inputs, report: Report) -> None:
    """Train one model, from its last checkpoint if there is one, and save the best in its folder.

    Writes the model and `history.json`, the Trainer's log and the seconds it took.

    Raises:
        UserError: the settings do not fit the data.
    """
    assert model.training is not None
    callbacks: list[TrainerCallback] = [
        Stopwatch(),
        TensorBoardCallback(SummaryWriter(str(inputs.tensorboard / model.name))),
        TrainingProgress(model.name, report),
    ]
    if model.uses_teacher and inputs.yardstick.exists():
        callbacks.append(LearningWatch(read_yardstick(inputs.yardstick)))
    with log_to(WarningEvents(model.name, report)), model.work(scratch=CHECKPOINTS) as folder:
        trainer = _new_trainer(model, inputs, folder / CHECKPOINTS, callbacks)
        try:
            trainer.train(resume_from_checkpoint=True)
        except UserError as error:
            raise UserError(f"{model.name}: {error}") from error
        trainer.save_model(str(folder))
        # A resumed Trainer puts stateful callbacks from the checkpoint in the place of ours.
        watch = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Stopwatch))
        log = trainer.state.log_history
        history = {"seconds": watch.seconds, "device": _device(trainer.args), "log": log}
        write_text(folder / HISTORY, json.dumps(history, indent=1) + "\n")


class Trial(NamedTuple):
    """Mean seconds of an update, and the model's number of parameters."""

    seconds: float
    parameters: int


def try_updates(model: Model, inputs: Inputs, updates: int = 8) -> Trial:
    """Train a model for a few updates, keep nothing, and measure."""
    clock = _UpdateClock()
    with TemporaryDirectory(dir=temporary_folder()) as folder:
        trainer = _new_trainer(model, inputs, Path(folder), [clock], trial=True)
        trainer.args.max_steps = updates + 2  # the first ones are slower
        trainer.args.eval_strategy = trainer.args.save_strategy = IntervalStrategy.NO
        trainer.args.load_best_model_at_end = False
        trainer.train()
    return Trial(mean(clock.seconds[2:]), count_parameters(trainer.student))


class _UpdateClock(TrainerCallback):
    """Measures how long each update takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


class LearningWatch(TrainerCallback):
    """Warns, once, of a student whose validation scores stay far from its teacher's.

    Args:
        yardstick: the teacher's scores, and those of copied sources.
    """

    def __init__(self, yardstick: Yardstick) -> None:
        self._yardstick = yardstick
        self._best = 0.0
        self._silent = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Compare, once a fifth of the planned updates is over."""
        self._best = max(self._best, metrics["eval_chrf"])
        if self._silent or state.global_step < LEARNING_GRACE * state.max_steps:
            return
        self._silent = True
        teacher, copy = self._yardstick.teacher.chrf, self._yardstick.copy.chrf
        if self._best <= copy or self._best < teacher / 3:
            logger.warning(
                "the student hardly learns: after %d updates its validation chrF is %.1f; its "
                "teacher has %.1f, copying the source %.1f. If that does not change, stop it and "
                "give it more layers, more data or another training.learning_rate.",
                state.global_step,
                self._best,
                teacher,
                copy,
            )


def _new_trainer(
    model: Model,
    inputs: Inputs,
    output: Path,
    callbacks: Sequence[TrainerCallback],
    trial: bool = False,
) -> A2DTrainer:
    """Load data and teacher, make the model, and put them into a Trainer.

    Args:
        trial: do without the teacher's cache and translations, which come later.
    """
    assert model.training is not None
    tokenizer = load_tokenizer(inputs.vocabulary)
    data = load_from_disk(str(inputs.tokens))
    parts = [inputs.data[part] for part in model.data_parts]
    train = data["train"] if trial else load_tokens(parts)
    teacher = load_model(inputs.teacher) if model.needs_teacher else None
    cache = None
    asked = model.method.definition.uses_signals and not trial
    if asked and model.data_parts in inputs.caches:
        assert teacher is not None
        cache = TeacherCache(inputs.caches[model.data_parts], train, teacher)
    original = load_model(inputs.teacher) if inputs.pretrained and teacher is None else teacher
    student = _new_student(model, tokenizer, original, data["train"])
    student.generation_config.num_beams = inputs.beams
    trainer = A2DTrainer(
        student,
        teacher,
        make_config(model.method, model.training, model.seed, train, output, model.fingerprint),
        train,
        data["valid"],
        tokenizer,
        callbacks=callbacks,
        teacher_cache=cache,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _new_student(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel | None,
    sample: Dataset,
) -> PreTrainedModel:
    assert model.shape is not None
    torch.manual_seed(model.seed)
    shape, start = model.shape.model_dump(), model.method.student_start
    if teacher is None or (start != "teacher" and family_of(teacher.config).scratch):
        return new_model(tokenizer, **shape)
    return student_of(teacher, **shape, start=start, sample=sample)


def remove_checkpoints(model: Model) -> None:
    """Free the space that a finished training no longer needs."""
    shutil.rmtree(model.folder / CHECKPOINTS, ignore_errors=True)


def make_config(
    method: MethodEntry,
    training: Training,
    seed: int,
    train: Dataset,
    output: Path,
    fingerprint: str | None = None,
) -> A2DConfig:
    """Translate recipe settings into training arguments.

    Validation falls on equally spaced steps, the last one included; a checkpoint follows each.
    """
    epoch = updates_per_epoch(training, train)
    steps = training.max_steps or max(1, round((training.num_train_epochs or 0) * epoch))
    evaluations = min(steps, max(1, round(steps / epoch / training.evaluate_every)))
    interval = round(steps / evaluations)
    return A2DConfig(
        output_dir=str(output),
        **values_of(method, ObjectiveSettings),
        **values_of(training, TrainingSettings),
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
        restore_callback_states_from_checkpoint=True,
        report_to=[],
        disable_tqdm=True,
    )


def updates_per_epoch(training: Training, train: Dataset) -> float:
    """Updates of a pass over the data.

    Raises:
        UserError: a pair is longer than a batch.
    """
    try:
        batches = len(TokenBatchSampler(lengths(train), training.max_tokens))
    except ValueError as error:
        raise UserError(f"{error}.") from error
    return batches / training.gradient_accumulation_steps


def _device(args: A2DConfig) -> str:
    """What a training ran on, in words."""
    precision = "bf16" if args.bf16 else "fp32"
    if args.device.type == "cuda":
        return f"{torch.cuda.get_device_name(args.device)}, {precision}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{cpu_name()} ({capability}), {torch.get_num_threads()} thread(s), {precision}"


def cpu_name() -> str:
    """Name the CPU, as far as the system knows: virtual machines shorten it."""
    try:
        fields = dict(re.findall(r"(.+?)\s*: (.*)", Path("/proc/cpuinfo").read_text()))
        return f"{fields['model name']}, family {fields['cpu family']}, model {fields['model']}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def check(models: Sequence[Model], inputs: Inputs) -> None:
    """Find out before the first training what would otherwise end a run after it.

    Raises:
        UserError: the settings of any model do not fit the data, the teacher or its shape.
    """
    waiting = [model for model in models if not model.done]
    train = load_from_disk(str(inputs.tokens))["train"]
    tokenizer = load_tokenizer(inputs.vocabulary)
    teacher = None
    for model in waiting:
        assert model.training is not None
        assert model.shape is not None
        config = make_config(model.method, model.training, model.seed, train, model.partial)
        if not model.uses_teacher or not inputs.teacher:
            continue
        if teacher is None:
            teacher = _teacher_for_checks(models, tokenizer, inputs)
        if model.method.student_start == "teacher":
            student = student_of(teacher, **model.shape.model_dump(), start="random")
            check_start(student.config, teacher.config)
        else:
            student = _new_student(model, tokenizer, teacher, train)
        check_same_ids(teacher, student)
        build_transfer(config.objective, student.config, teacher.config)


def _teacher_for_checks(
    models: Sequence[Model], tokenizer: PreTrainedTokenizerBase, inputs: Inputs
) -> PreTrainedModel:
    """The pretrained teacher, or one of the shape that will be trained."""
    own = next((model for model in models if model.size is None), None)
    if own is None:
        return load_model(inputs.teacher)
    assert own.shape is not None
    return new_model(tokenizer, **own.shape.model_dump())
