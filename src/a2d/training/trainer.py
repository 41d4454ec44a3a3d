"""`A2DTrainer`: a `Seq2SeqTrainer` that distils, with token-budget batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from a2d.errors import UserError
from a2d.families import family_of, positions_of
from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import enable_capture
from a2d.method.objective import TOKEN_LOSS, detached_sums
from a2d.method.token_losses import Prediction, token_losses
from a2d.models.decoding import generation_limit, searching, set_generation_defaults
from a2d.models.folders import read_checkpoint
from a2d.models.loading import check_same_ids, freeze_padding_row
from a2d.models.tokenizer import check_same_vocabulary, mark_languages
from a2d.text.batching import TokenBatchSampler, lengths
from a2d.text.evaluation import score
from a2d.training.averages import TermAverages, count_tokens
from a2d.training.checkpoints import (
    ResumingTrainer,
    SealedCheckpoints,
    last_checkpoint,
    require_intact,
)
from a2d.training.config import A2DConfig
from a2d.training.cpu import fast_dropout, tune_process
from a2d.training.distillation import IGNORE_INDEX, Distillation
from a2d.training.divergence import DivergenceWatch, check_weights
from a2d.training.frozen import frozen_teacher
from a2d.training.schedule import FinishOnPlateau, PlateauSchedule, TimeLimit
from a2d.training.signals import Needs, Signals, model_signals
from a2d.training.teacher_cache import CACHED, ROW, CachedSignalsCollator, TeacherCache

logger = logging.getLogger(__name__)


class A2DTrainer(ResumingTrainer):
    """Trains a student on references, a teacher's distributions and its attention maps.

    It is used like `Seq2SeqTrainer`. The differences are the loss, the batches (`max_tokens`), and
    that a saved model is the student alone, with its alignment beside it.

    Side effects: as every Trainer, it seeds the random generators. While it trains or evaluates,
    the student has another attention implementation, no layerdrop, and a hook that keeps the
    padding embedding (families that need one); all are restored at the end. On a CPU it tunes the
    process, unless `A2DConfig.tune_cpu` is False.

    Args:
        model: the student; trained in place.
        teacher: the teacher, which stays as it is: a frozen copy (`frozen_teacher`) is asked. None
            for the method `baseline`.
        args: the settings.
        train_dataset: tokenised sentence pairs with columns `input_ids` and `labels`.
        eval_dataset: the same for validation.
        processing_class: the tokenizer of both models; its language codes become special tokens.
        teacher_processing_class: the teacher's tokenizer, if at hand: it is compared with
            `processing_class`.
        callbacks: further callbacks.
        teacher_cache: the teacher's signals for `train_dataset`, read by the loader, in
            `dataloader_num_workers` processes if there are any (a GPU waits less then; they need
            shared memory for a few batches each). The teacher itself then runs for validation only.

    Raises:
        UserError: no teacher where the method needs one, vocabularies that differ, a model family
            whose attention capture is not verified, or a cache without what the method compares.
    """

    args: A2DConfig

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel | None = None,
        args: A2DConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        teacher_cache: TeacherCache | None = None,
    ) -> None:
        args = args or A2DConfig(output_dir="a2d-out")
        for tokenizer in (processing_class, teacher_processing_class):
            if tokenizer is not None:
                mark_languages(tokenizer)
        self.objective = args.objective
        self.teacher = _prepared_teacher(teacher, model, args)
        if teacher_processing_class is not None and processing_class is not None:
            check_same_vocabulary(teacher_processing_class, processing_class)
        family_of(model.config)  # refuses families that are not supported
        torch.manual_seed(args.seed)
        teacher_config = None if self.teacher is None else self.teacher.config
        super().__init__(
            model=Distillation(model, self.objective, teacher_config),
            args=args,
            data_collator=DataCollatorForSeq2Seq(processing_class, label_pad_token_id=IGNORE_INDEX),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=self._bleu if args.predict_with_generate else None,
            callbacks=list(callbacks or []),
        )
        # nn.DataParallel splits batches behind our backs: several GPUs take `torchrun`.
        args._n_gpu = min(args.n_gpu, 1)
        self._tuned = args.tune_cpu and args.device.type == "cpu"
        if self._tuned:
            tune_process()
        self.loss_is_scaled_for_ga = True
        method = self.objective.definition
        if teacher_cache is not None and method.states:
            teacher_cache.check_states()
        self.teacher_cache = teacher_cache if method.uses_signals else None
        self._train_terms = TermAverages(self.objective.terms)
        self._eval_terms = TermAverages(self.objective.terms)
        self._order: TokenBatchSampler | None = None
        self.add_callback(_EpochOrder(self))
        self._divergence = DivergenceWatch([term.name for term in self.objective.terms])
        self.add_callback(self._divergence)
        self.add_callback(SealedCheckpoints(args.fingerprint))
        if args.plateau_patience is not None:
            self.add_callback(FinishOnPlateau(args.plateau_patience))
        elif args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
        if args.max_hours is not None:
            self.add_callback(TimeLimit(3600 * args.max_hours))

    @property
    def student(self) -> PreTrainedModel:
        """The model being trained."""
        return self._unwrapped.student

    @property
    def alignment(self) -> AttentionAlignment | None:
        """The student's alignment; None for a method without attention transfer."""
        return self._unwrapped.alignment

    @property
    def _unwrapped(self) -> Distillation:
        module: Distillation = self.accelerator.unwrap_model(self.model)
        return module

    @contextmanager
    def prepare_student(self) -> Iterator[None]:
        """Let the student's attention be captured within the block, and restore its settings.

        `train` and `evaluate` do so. Calls of `training_step` or `compute_loss` alone need it.
        """
        with ExitStack() as stack:
            stack.callback(enable_capture(self.student))
            stack.callback(freeze_padding_row(self.student))
            yield

    # Batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Token-budget batches in an order that depends on the seed and the epoch alone."""
        if self.train_dataset is None:
            raise UserError("training needs a train_dataset.")
        return self._loader(self.train_dataset, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader[Any]:
        """Token-budget batches in a fixed order, of a dataset or the one of that name."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise UserError("evaluation needs an eval_dataset.")
        return self._loader(dataset, shuffle=False)

    def _loader(self, dataset: Dataset, shuffle: bool) -> DataLoader[Any]:
        missing = {"input_ids", "labels"} - set(dataset.column_names)
        if missing:
            raise UserError(
                f"the dataset lacks the column {min(missing)!r}: tokenise it first, for instance "
                "with a2d.text.batching.tokenise."
            )
        if self.processing_class is None:
            raise UserError("batches are padded by the tokenizer: pass processing_class=tokenizer.")
        sizes = lengths(dataset)
        budget = self.args.max_tokens
        if not shuffle:  # validation keeps no activations for a backward pass
            budget = max(4 * budget, int(sizes.max(initial=0)))
        try:
            sampler = TokenBatchSampler(
                sizes,
                budget,
                seed=self.args.seed,
                multiple_of=self.args.world_size,
                shuffle=shuffle,
            )
        except ValueError as error:
            raise UserError(f"{error}.") from error
        if shuffle:
            self._order = sampler
            set_generation_defaults(self.student, *sizes.max(axis=0, initial=0).tolist())
        dataset, collate = dataset.select_columns(["input_ids", "labels"]), self.data_collator
        if shuffle and self.teacher_cache is not None:
            self.teacher_cache.check_sizes(sizes)
            method = self.objective.definition
            groups = self.objective.groups if method.compares else ()
            dataset = dataset.add_column(ROW, list(range(len(dataset))))
            collate = CachedSignalsCollator(collate, self.teacher_cache, groups, method.states)
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    # Loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's, with a faster dropout on processors, in recomputed layers as well."""
        with fast_dropout() if self._tuned else nullcontext():
            loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The objective on one micro-batch, normalised by the whole optimisation step.

        Args:
            model: the (wrapped) `Distillation`.
            inputs: `input_ids`, `attention_mask`, `labels`, and the teacher's cached signals.
            return_outputs: also return a dict without outputs, as the Trainer's interface asks.
            num_items_in_batch: source and target tokens, (2,), of all micro-batches and devices.
        """
        sums, counts = self._sums(model, inputs)
        totals = counts if num_items_in_batch is None else num_items_in_batch
        logged = detached_sums(self.objective.terms, sums)
        self._train_terms.add(logged, counts)
        loss = self.objective.loss(sums, totals, int(self.state.epoch or 0) + 1)
        # Distributed wrappers average gradients over processes; the totals already span them.
        loss = loss * self.accelerator.num_processes
        self._divergence.see(self.state.global_step + 1, logged, loss)
        return (loss, {}) if return_outputs else loss

    def _sums(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms' sums over a batch, and its source and target tokens, (2,)."""
        signals = None
        if self.teacher_cache is not None and CACHED in inputs:
            tokens = inputs["attention_mask"].bool(), inputs["labels"].ne(IGNORE_INDEX)
            signals = self.teacher_cache.unpack(inputs[CACHED], *tokens)
        elif self.teacher is not None:
            signals = self._teacher_signals(inputs, self._unwrapped.needs)
        sums: dict[str, Tensor] = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["labels"],
            teacher=signals,
        )
        return sums, count_tokens(inputs)

    @torch.no_grad()
    def _teacher_signals(self, inputs: dict[str, Any], needs: Needs | None) -> Signals:
        halved = self.args.fp16 and not self.args.teacher_bf16
        with self.accelerator.autocast() if halved else nullcontext():
            return model_signals(self.teacher, inputs, needs)

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> Tensor | None:
        """Source and target tokens of a whole optimisation step, over all processes."""
        if not batch_samples:
            return None
        counts = torch.stack([count_tokens(batch) for batch in batch_samples]).sum(0).to(device)
        total: Tensor = self.accelerator.reduce(counts, reduction="sum")
        return total

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The usual optimiser; what the method learns beside the student has its own group."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        transfer = self._unwrapped.transfer
        own = [] if transfer is None else [p for p in transfer.parameters() if p.requires_grad]
        if own:
            ids = {id(parameter) for parameter in own}
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in ids]
            rate = self.args.alignment_learning_rate or self.args.learning_rate
            optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """The Trainer's, or the one that finishes when validation stops improving."""
        if self.args.plateau_patience is None:
            return super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        self.lr_scheduler: Any = PlateauSchedule(
            optimizer or self.optimizer, warmup, num_training_steps
        )
        return self.lr_scheduler

    # Training, logs and validation

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train; `resume_from_checkpoint=True` continues from the last whole checkpoint.

        Unlike the Trainer's own, it starts anew where there is none (`last_checkpoint`).

        Raises:
            UserError: the checkpoint that is named is damaged.
        """
        if resume_from_checkpoint is True:
            with self.args.main_process_first(local=False):
                resume_from_checkpoint = last_checkpoint(
                    Path(self.args.output_dir), self.args.fingerprint
                )
        elif resume_from_checkpoint:
            require_intact(Path(resume_from_checkpoint))
        if self.teacher is not None and resume_from_checkpoint is None:
            self._warn_of_weak_teacher()
        with self.prepare_student():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term of the objective to the training logs."""
        if "loss" in logs:
            logs |= self._train_terms.take(self.accelerator)
        super().log(logs, start_time)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Loss terms and translations of one validation batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            sums, counts = self._sums(model, inputs)
        self._eval_terms.add(detached_sums(self.objective.terms, sums), counts)
        generated = None
        if self.args.predict_with_generate and not prediction_loss_only:
            positions = positions_of(self._unwrapped.config)
            limit = self.args.generation_max_length or generation_limit(
                inputs["input_ids"].shape[1], positions
            )
            with searching(self.student):
                generated = self._unwrapped.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    num_beams=self.args.generation_num_beams,
                    max_length=1 + limit,
                    **gen_kwargs,
                )
        # Processes hold different numbers of sentences; what is gathered must not differ.
        generated, labels = (
            self.accelerator.pad_across_processes(ids, dim=0, pad_index=IGNORE_INDEX)
            for ids in (generated, inputs["labels"])
        )
        return sums[TOKEN_LOSS], generated, labels

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The Trainer's loop, with losses averaged over tokens and each term reported."""
        self._eval_terms = TermAverages(self.objective.terms)
        with self.prepare_student():
            output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        means = self._eval_terms.take(self.accelerator)
        weighted = (term.weight_in(None) * means[term.name] for term in self.objective.terms)
        output.metrics[f"{prefix}_loss"] = sum(weighted)
        output.metrics.update({f"{prefix}_{name}": mean for name, mean in means.items()})
        return output

    def _bleu(self, prediction: EvalPrediction) -> dict[str, float]:
        tokenizer = self.processing_class
        real = (prediction.label_ids != IGNORE_INDEX).any(axis=1)  # not a filler between processes

        def text(ids: np.ndarray) -> list[str]:
            ids = np.where(ids == IGNORE_INDEX, tokenizer.pad_token_id, ids)
            texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
            return texts

        scores = score(text(prediction.predictions[real]), text(prediction.label_ids[real]))
        return {"bleu": scores.bleu, "chrf": scores.chrf}

    def _warn_of_weak_teacher(self, batches: int = 8) -> None:
        """Warn when the teacher predicts no better than the frequencies of tokens would."""
        dataset = self.eval_dataset if self.eval_dataset is not None else self.train_dataset
        if isinstance(dataset, dict):
            dataset = next(iter(dataset.values()))
        total, seen = 0.0, []
        for batch, _ in zip(self._loader(dataset, shuffle=False), range(batches), strict=False):
            inputs = self._prepare_inputs(batch)
            prediction = self._teacher_signals(inputs, None).tokens
            assert isinstance(prediction, Prediction)
            valid = inputs["labels"].ne(IGNORE_INDEX)
            targets = inputs["labels"][valid]
            total += token_losses(prediction.at(valid), targets).ce.item()
            seen.append(targets)
        tokens = torch.cat(seen)
        frequencies = torch.bincount(tokens).double() / len(tokens)
        chance = -torch.special.xlogy(frequencies, frequencies).sum().item()
        if not total / len(tokens) < chance:  # also where it is no number
            logger.warning(
                "the teacher is not better than chance: its cross-entropy on the validation set "
                "is %.2f nats per token, where mere token frequencies give %.2f. Was it trained "
                "on these languages, with this tokenizer?",
                total / len(tokens),
                chance,
            )

    # Files

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Save the student alone, loadable by plain transformers, and its alignment beside it."""
        folder = Path(output_dir or self.args.output_dir)
        check_weights(self._unwrapped, self.state.global_step, self.args.learning_rate)
        folder.mkdir(parents=True, exist_ok=True)
        if state_dict is not None:
            prefix = "student."
            state_dict = {
                k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)
            }
        self.student.save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        if self._unwrapped.transfer is not None:
            self._unwrapped.transfer.save(folder)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        folder = Path(resume_from_checkpoint)
        require_intact(folder)  # the best one too, when training ends
        loaded = read_checkpoint(type(self.student), folder)
        try:
            self.student.load_state_dict(loaded.state_dict())
            if self._unwrapped.transfer is not None:
                self._unwrapped.transfer.load(folder)
        except RuntimeError as error:
            raise UserError(
                f"{folder} is the checkpoint of another model: choose another output_dir, or "
                "delete it."
            ) from error

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)


class _EpochOrder(TrainerCallback):
    """Tells the sampler its epoch, which the Trainer does not where several wrappers hide it."""

    def __init__(self, trainer: A2DTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, *rest: Any, **kwargs: Any
    ) -> None:
        if self._trainer._order is not None:
            self._trainer._order.set_epoch(int(state.epoch or 0))


def _prepared_teacher(
    teacher: PreTrainedModel | None, student: PreTrainedModel, args: A2DConfig
) -> PreTrainedModel | None:
    if not args.objective.definition.uses_signals:
        return None
    if teacher is None:
        raise UserError(f"method {args.method!r} needs a teacher: pass teacher=…")
    check_same_ids(teacher, student)
    return frozen_teacher(teacher, args.device, bf16=bool(args.teacher_bf16))
