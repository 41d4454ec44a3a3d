"""Training the models of a run: one at a time or several at once, each in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset, load_from_disk
from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback

from a2d.batching import TokenBatchSampler, lengths
from a2d.config import A2DConfig
from a2d.distillation import METHODS
from a2d.errors import UserError
from a2d.models import check_same_ids, load_model, new_model
from a2d.plan import Model
from a2d.progress import (
    Report,
    Stopwatch,
    TrainingProgress,
    WarningEvents,
    log_file,
    logged,
    silence_libraries,
)
from a2d.recipe import Distillation, Training
from a2d.stage import write_text
from a2d.tokenizer import load_tokenizer
from a2d.trainer import A2DTrainer

CHECKPOINTS = "checkpoints"
HISTORY = "history.json"

_events: Any = None  # a worker's way to its parent


class Inputs(NamedTuple):
    """What every training of a run reads, and where it logs."""

    vocabulary: Path
    tokens: Path
    teacher: str
    tensorboard: Path
    log: Path


def train_models(models: Sequence[Model], inputs: Inputs, parallel: int, report: Report) -> None:
    """Train the models that are not trained yet, the teacher before those it teaches.

    Args:
        models: the models of a run.
        inputs: the folders that trainings read.
        parallel: how many to train at once; they share the machine's cores.
        report: told of every step.

    Raises:
        UserError: the settings of any of them do not fit the data or the teacher; no training has
            started then.
    """
    waiting = [model for model in models if not model.stage.done]
    _check(waiting, inputs)
    if parallel == 1:
        for model in waiting:
            train_model(model, inputs, report)
        return
    threads = max(1, torch.get_num_threads() // parallel)
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    reader = threading.Thread(target=_forward, args=(events, report), daemon=True)
    reader.start()
    with ProcessPoolExecutor(parallel, context, _start_worker, (threads, events)) as pool:
        _schedule(waiting, lambda model: pool.submit(_train, model, inputs))
    events.put(None)
    reader.join()


def train_model(model: Model, inputs: Inputs, report: Report) -> None:
    """Train one model, from its last checkpoint if there is one, and save the best in its folder.

    Writes the model and `history.json`, the Trainer's log and the seconds it took.

    Raises:
        UserError: the settings do not fit the data.
    """
    assert model.shape is not None
    assert model.training is not None
    tokenizer = load_tokenizer(inputs.vocabulary)
    data = load_from_disk(str(inputs.tokens))
    taught = METHODS[model.method.method].distribution
    torch.manual_seed(model.seed)
    student = new_model(tokenizer, **model.shape.model_dump())
    writer = SummaryWriter(str(inputs.tensorboard / model.name))
    callbacks: list[TrainerCallback] = [
        Stopwatch(),
        TensorBoardCallback(writer),
        TrainingProgress(model.name, report),
    ]
    if model.training.patience is not None:
        callbacks.append(EarlyStoppingCallback(model.training.patience))
    settings = (model.method, model.training, model.seed, data["train"])
    with logged(WarningEvents(model.name, report)), model.stage.work() as folder:
        trainer = A2DTrainer(
            student,
            load_model(inputs.teacher) if taught else None,
            make_config(*settings, folder / CHECKPOINTS),
            data["train"],
            data["valid"],
            tokenizer,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=True)
        trainer.save_model(str(folder))
        # A resumed Trainer puts stateful callbacks from the checkpoint in the place of ours.
        watch = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Stopwatch))
        history = {"seconds": watch.seconds, "log": trainer.state.log_history}
        write_text(folder / HISTORY, json.dumps(history, indent=1) + "\n")
    remove_checkpoints(model)


def remove_checkpoints(model: Model) -> None:
    """Free the space that a finished training no longer needs."""
    shutil.rmtree(model.stage.folder / CHECKPOINTS, ignore_errors=True)


def make_config(
    method: Distillation, training: Training, seed: int, train: Dataset, output: Path
) -> A2DConfig:
    """Translate recipe settings into training arguments.

    Validation falls on equally spaced steps, the last one included; a checkpoint follows each.
    """
    try:
        batches = len(TokenBatchSampler(lengths(train), training.max_tokens))
    except ValueError as error:
        raise UserError(f"{error}.") from error
    steps = max(1, round(training.epochs * batches / training.gradient_accumulation))
    evaluations = min(steps, max(1, round(training.epochs / training.evaluate_every)))
    interval = round(steps / evaluations)
    return A2DConfig(
        output_dir=str(output),
        **method.model_dump(exclude={"name"}),
        max_tokens=training.max_tokens,
        gradient_accumulation_steps=training.gradient_accumulation,
        max_steps=interval * evaluations,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        label_smoothing_factor=training.label_smoothing,
        max_grad_norm=training.clip_norm,
        bf16=training.bf16,
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


def _check(models: Sequence[Model], inputs: Inputs) -> None:
    """Find out now what would otherwise end a run after its first trainings."""
    train = load_from_disk(str(inputs.tokens))["train"]
    for model in models:
        assert model.training is not None
        make_config(model.method, model.training, model.seed, train, model.stage.partial)
    taught = [model for model in models if METHODS[model.method.method].distribution]
    if taught and taught[0].taught_by not in {model.name for model in models}:
        teacher, tokenizer = load_model(inputs.teacher), load_tokenizer(inputs.vocabulary)
        for model in taught:
            assert model.shape is not None
            check_same_ids(teacher, new_model(tokenizer, **model.shape.model_dump()))


def _schedule(waiting: list[Model], submit: Callable[[Model], Future[None]]) -> None:
    """Submit every model as soon as what it learns from is trained."""
    running: dict[Future[None], Model] = {}
    while waiting or running:
        unfinished = {model.name for model in [*waiting, *running.values()]}
        for model in list(waiting):
            if model.taught_by not in unfinished:
                waiting.remove(model)
                running[submit(model)] = model
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            del running[future]
            future.result()


def _forward(events: Any, report: Report) -> None:
    for event in iter(events.get, None):
        report(event)


def _start_worker(threads: int, events: Any) -> None:
    global _events
    _events = events
    torch.set_num_threads(threads)
    silence_libraries()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave the folder to a successor when the run is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(model: Model, inputs: Inputs) -> None:
    with logged(log_file(inputs.log)):
        train_model(model, inputs, _events.put)
