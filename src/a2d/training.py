"""One model's training within a run: from recipe settings to a finished model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from transformers.integrations import TensorBoardCallback

from a2d.batching import TokenBatchSampler, lengths
from a2d.config import A2DConfig
from a2d.errors import UserError
from a2d.progress import Stopwatch
from a2d.recipe import Distillation, Training
from a2d.stage import write_text
from a2d.trainer import A2DTrainer

CHECKPOINTS = "checkpoints"
HISTORY = "history.json"


def train_model(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    *,
    method: Distillation,
    training: Training,
    seed: int,
    data: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    tensorboard: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train a model, from its last checkpoint if there is one, and save the best in `folder`.

    Writes the model, `history.json` (the Trainer's log and the seconds it took) and, until the
    caller removes them, the checkpoints.

    Raises:
        UserError: the settings do not fit the data.
    """
    args = make_config(method, training, seed, data["train"], folder / CHECKPOINTS)
    stopwatch = Stopwatch()
    own: list[TrainerCallback] = [stopwatch, TensorBoardCallback(SummaryWriter(str(tensorboard)))]
    if training.patience is not None:
        own.append(EarlyStoppingCallback(training.patience))
    trainer = A2DTrainer(
        model,
        teacher,
        args,
        data["train"],
        data["valid"],
        tokenizer,
        callbacks=[*own, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model(str(folder))
    # A resumed Trainer replaces its stateful callbacks by those of the checkpoint.
    watch = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Stopwatch))
    history = {"seconds": watch.seconds, "log": trainer.state.log_history}
    write_text(folder / HISTORY, json.dumps(history, indent=1) + "\n")


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
    objective = method.model_dump(exclude={"name"})
    return A2DConfig(
        output_dir=str(output),
        **objective,
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
