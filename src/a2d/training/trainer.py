"""`A2DTrainer`: a `Seq2SeqTrainer` for distillation, with batches of a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForSeq2Seq,
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
from a2d.method.objective import TOKEN_LOSS, Moment, detached_sums
from a2d.models.decoding import searching
from a2d.models.loading import freeze_padding_row
from a2d.models.search_settings import generation_limit, set_generation_defaults
from a2d.models.tokenizer import check_same_vocabulary, mark_languages
from a2d.text.batching import IGNORE_INDEX, TokenBatchSampler, checked_lengths
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
from a2d.training.distillation import Distillation
from a2d.training.finiteness import FinitenessWatch, check_weights
from a2d.training.frozen import teacher_for, warn_if_untrained
from a2d.training.outputs import Needs, Outputs, model_outputs
from a2d.training.schedule import PlateauSchedule, ends_of, take_settings
from a2d.training.teacher_cache import CACHED, ROW, CachedOutputsCollator, TeacherCache


class A2DTrainer(ResumingTrainer):
    """Trainer of a student on references, a teacher's distributions and its attention maps.

    It is used like `Seq2SeqTrainer`. It differs in the loss, in the batches (`max_tokens`), and in
    the saved model, which is the student alone, with its alignment in a separate file.

    Side effects: as every Trainer, it seeds the random generators. During training and evaluation,
    the student has another attention implementation, no layerdrop and, in some families, a hook
    that excludes the padding embedding from training. Its settings are restored afterwards. On CPU
    the trainer tunes the process, unless `A2DConfig.tune_cpu` is False.

    Args:
        model: student, which is trained in place.
        teacher: teacher, which is not changed, because a copy of it runs (`frozen_teacher`); None
            for methods without a teacher.
        args: settings.
        train_dataset: tokenised sentence pairs with the columns `input_ids` and `labels`.
        eval_dataset: sentence pairs for validation, or a dict of several sets by name.
        processing_class: tokenizer of both models; its language codes become special tokens.
        teacher_processing_class: tokenizer of the teacher, to check that it has the same tokens.
        callbacks: further callbacks.
        teacher_cache: the teacher's outputs for `train_dataset`; the teacher itself then runs in
            validation only. The data loader reads the cache, in `dataloader_num_workers` processes.
            With a GPU, processes shorten the training; each needs shared memory for a few batches.

    Attributes:
        objective: settings of the objective, from `args`.
        teacher: frozen copy of the teacher; None if the method needs none.

    Raises:
        UserError: the method needs a teacher and there is none, the vocabularies differ, the model
            family is not supported, the cache lacks outputs that the method compares, or
            `plateau_patience` has several validation sets to follow.
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
        if args.plateau_patience is not None and isinstance(eval_dataset, dict):
            raise UserError(
                "plateau_patience follows one validation set: give one Dataset as eval_dataset."
            )
        for tokenizer in (processing_class, teacher_processing_class):
            if tokenizer is not None:
                mark_languages(tokenizer)
        self.objective = args.objective
        self.teacher = teacher_for(model, teacher, args)
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
        # nn.DataParallel would split batches. Several GPUs need `torchrun`.
        args._n_gpu = min(args.n_gpu, 1)
        self._tunes_cpu = args.tune_cpu and args.device.type == "cpu"
        if self._tunes_cpu:
            tune_process()
        self.loss_is_scaled_for_ga = True
        method = self.objective.definition
        if teacher_cache is not None and method.states:
            teacher_cache.check_states()
        self.teacher_cache = teacher_cache if method.uses_outputs else None
        self._train_terms = TermAverages(self.objective.terms)
        self._eval_terms = TermAverages(self.objective.terms)
        self._train_sampler: TokenBatchSampler | None = None
        self._batch = (-1, 0)  # latest update, and place of its latest batch in this process
        names = [term.name for term in self.objective.terms]
        module = self._unwrapped
        self._finiteness = FinitenessWatch(names, module.terms_outside, module.gradients)
        seals = SealedCheckpoints(args.fingerprint)
        for callback in (_SamplerEpoch(self), self._finiteness, seals, *ends_of(args)):
            self.add_callback(callback)

    @property
    def student(self) -> PreTrainedModel:
        """The model that is trained."""
        return self._unwrapped.student

    @property
    def alignment(self) -> AttentionAlignment | None:
        """The alignment of an `a2d` method; None for other methods."""
        return self._unwrapped.alignment

    @property
    def _unwrapped(self) -> Distillation:
        module: Distillation = self.accelerator.unwrap_model(self.model)
        return module

    @property
    def _batches_per_update(self) -> int:
        """Batches of an update, over all processes."""
        count: int = self.args.gradient_accumulation_steps * self.args.world_size
        return count

    @property
    def _training_data(self) -> Dataset:
        if self.train_dataset is None:
            raise UserError("training needs a train_dataset.")
        return self.train_dataset

    @contextmanager
    def prepare_student(self) -> Iterator[None]:
        """Prepare the student for attention capture inside a `with` block; then restore it.

        `train` and `evaluate` do this themselves. `training_step` and `compute_loss` do not.
        """
        with ExitStack() as stack:
            stack.callback(enable_capture(self.student))
            stack.callback(freeze_padding_row(self.student))
            yield

    # Batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of training batches, whose order depends only on seed and epoch."""
        return self._loader(self._training_data, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader[Any]:
        """Build the loader of validation batches, in a fixed order, for a dataset or its name."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise UserError("evaluation needs an eval_dataset.")
        return self._loader(dataset, shuffle=False)

    def _loader(self, dataset: Dataset, shuffle: bool) -> DataLoader[Any]:
        if self.processing_class is None:
            raise UserError("the trainer needs a tokenizer: pass processing_class=tokenizer.")
        sizes = checked_lengths(dataset, "train_dataset" if shuffle else "eval_dataset")
        budget = self.args.max_tokens
        if not shuffle:  # validation stores no activations for a backward pass
            budget = max(4 * budget, int(sizes.max()))
        try:
            sampler = TokenBatchSampler(
                sizes,
                budget,
                seed=self.args.seed,
                multiple_of=self._batches_per_update if shuffle else self.args.world_size,
                shuffle=shuffle,
            )
        except ValueError as error:
            raise UserError(f"{error}.") from error
        if shuffle:
            self._train_sampler = sampler
        dataset, collate = dataset.select_columns(["input_ids", "labels"]), self.data_collator
        if shuffle and self.teacher_cache is not None:
            self.teacher_cache.check_sizes(sizes)
            method = self.objective.definition
            groups = self.objective.groups if method.compares else ()
            dataset = dataset.add_column(ROW, list(range(len(dataset))))
            collate = CachedOutputsCollator(collate, self.teacher_cache, groups, method.states)
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        )
        loader = self.accelerator.prepare(loader)
        return loader

    # Loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the Trainer's step; on CPU with a faster dropout, also in recomputed layers.

        If an update has several batches, the random numbers of each depend on its place only, so
        that they are the same for any number of processes.
        """
        if self._batches_per_update > 1:
            torch.manual_seed(self._seed_of_batch())
        with fast_dropout() if self._tunes_cpu else nullcontext():
            loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def _seed_of_batch(self) -> int:
        """Make a seed from the training's seed, the update, and the batch's place in it."""
        step = self.state.global_step
        self._batch = (step, self._batch[1] + 1 if self._batch[0] == step else 0)
        place = self._batch[1] * self.args.world_size + self.args.process_index
        sequence = np.random.SeedSequence((self.args.seed, step, place))
        return int(sequence.generate_state(1)[0])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Compute the objective of a micro-batch, normalised by the optimisation step's tokens.

        Args:
            model: the `Distillation`, which may be wrapped.
            inputs: `input_ids`, `attention_mask`, `labels`, and the teacher's outputs if cached.
            return_outputs: return an empty dict of outputs too, for the Trainer's interface.
            num_items_in_batch: source and target tokens (2,) of the optimisation step, over all
                micro-batches and processes; None: those of `inputs`.

        Returns:
            A scalar.
        """
        sums, counts = self._sums(model, inputs)
        totals = counts if num_items_in_batch is None else num_items_in_batch
        logged = detached_sums(self.objective.terms, sums)
        self._train_terms.add(logged, counts)
        loss = self.objective.loss(sums, totals, self._moment)
        # Distributed wrappers average gradients over processes, but the totals are sums over them.
        loss = loss * self.accelerator.num_processes
        self._finiteness.record(self.state.global_step + 1, logged, loss)
        return (loss, {}) if return_outputs else loss

    @property
    def _moment(self) -> Moment:
        """The current moment; a `PlateauSchedule` may end the training earlier than planned."""
        last = getattr(self.lr_scheduler, "end", self.state.max_steps)
        share = self.state.global_step / last if last > 0 else 0.0
        return Moment(int(self.state.epoch or 0) + 1, share)

    def _sums(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the sums of the terms over a batch, and its source and target tokens (2,)."""
        outputs = None
        if self.teacher_cache is not None and CACHED in inputs:
            tokens = inputs["attention_mask"].bool(), inputs["labels"].ne(IGNORE_INDEX)
            outputs = self.teacher_cache.unpack(inputs[CACHED], *tokens)
        elif self.teacher is not None:
            outputs = self._teacher_outputs(inputs, self._unwrapped.needs)
        batch = {key: inputs[key] for key in ("input_ids", "attention_mask", "labels")}
        sums: dict[str, Tensor] = model(**batch, teacher=outputs)
        return sums, count_tokens(inputs)

    @torch.no_grad()
    def _teacher_outputs(self, inputs: dict[str, Any], needs: Needs | None) -> Outputs:
        needs_autocast = self.args.fp16 and self.args.teacher_precision == "float32"
        with self.accelerator.autocast() if needs_autocast else nullcontext():
            return model_outputs(self.teacher, inputs, needs)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Tensor | float | None:
        norm: Tensor | float | None = super()._get_grad_norm(*args, **kwargs)
        if norm is not None:
            self._finiteness.record_gradient(self.state.global_step + 1, norm)
        return norm

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> Tensor | None:
        """Count source and target tokens (2,) of an optimisation step, over all processes."""
        if not batch_samples:
            return None
        counts = torch.stack([count_tokens(batch) for batch in batch_samples]).sum(0).to(device)
        total: Tensor = self.accelerator.reduce(counts, reduction="sum")
        return total

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the Trainer's optimiser, with a separate group for the method's parameters."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        transfer = self._unwrapped.transfer
        parameters = () if transfer is None else transfer.parameters()
        if trainable := [parameter for parameter in parameters if parameter.requires_grad]:
            ids = set(map(id, trainable))
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in ids]
            rate = self.args.alignment_learning_rate or self.args.learning_rate
            optimizer.add_param_group({"params": trainable, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Create the Trainer's schedule, or a `PlateauSchedule` if `plateau_patience` is set."""
        if self.args.plateau_patience is None:
            return super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        schedule = PlateauSchedule(optimizer or self.optimizer, warmup, num_training_steps)
        self.lr_scheduler: Any = schedule
        return schedule

    # Training, logs and validation

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train the student, and complete its generation settings (`set_generation_defaults`).

        Args:
            resume_from_checkpoint: folder of a checkpoint. True: the last intact checkpoint in
                `output_dir` (`last_checkpoint`), if there is one. None: start anew.
            **kwargs: further arguments of `Trainer.train`.

        Raises:
            UserError: there are no training data, the checkpoint is damaged, or the training
                diverged.
        """
        if resume_from_checkpoint is True:
            with self.args.main_process_first(local=False):
                resume_from_checkpoint = last_checkpoint(
                    Path(self.args.output_dir), self.args.fingerprint
                )
        elif resume_from_checkpoint:
            require_intact(Path(resume_from_checkpoint))
        longest = checked_lengths(self._training_data, "train_dataset").max(axis=0).tolist()
        set_generation_defaults(self.student, *longest)
        if self.teacher is not None and resume_from_checkpoint is None:
            self._check_teacher()
        with self.prepare_student():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _load_callback_state(self) -> None:
        """Restore the states of callbacks; their settings are those of `args`, which may be new."""
        super()._load_callback_state()
        take_settings(self.callback_handler.callbacks, ends_of(self.args))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the terms of the objective with the training loss."""
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
        """Compute the terms of the objective for a validation batch, and translate it.

        Without `max_length` or `max_new_tokens`, translations end at `generation_limit`.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            sums, counts = self._sums(model, inputs)
        self._eval_terms.add(detached_sums(self.objective.terms, sums), counts)
        hypotheses = None
        if self.args.predict_with_generate and not prediction_loss_only:
            # Seq2SeqTrainer keeps the arguments of `evaluate` and `predict` there.
            settings = gen_kwargs or getattr(self, "_gen_kwargs", {})
            if not settings.keys() & {"max_length", "max_new_tokens"}:
                positions = positions_of(self._unwrapped.config)
                limit = generation_limit(inputs["input_ids"].shape[1], positions)
                settings = settings | {"max_length": 1 + limit}
            with searching(self.student):
                hypotheses = self._unwrapped.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    **settings,
                )
        # Gathered tensors must have one size, but processes have different numbers of sentences.
        hypotheses, labels = (
            self.accelerator.pad_across_processes(ids, dim=0, pad_index=IGNORE_INDEX)
            for ids in (hypotheses, inputs["labels"])
        )
        return sums[TOKEN_LOSS], hypotheses, labels

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Run the Trainer's loop, and report each term and the loss as averages over tokens."""
        self._eval_terms = TermAverages(self.objective.terms)
        with self.prepare_student():
            output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        averages = self._eval_terms.take(self.accelerator)
        weighted = (term.weight * averages[term.name] for term in self.objective.terms)
        output.metrics[f"{prefix}_loss"] = sum(weighted)
        output.metrics.update({f"{prefix}_{name}": value for name, value in averages.items()})
        return output

    def _bleu(self, prediction: EvalPrediction) -> dict[str, float]:
        tokenizer = self.processing_class
        # Rows without labels are padding between processes.
        rows = (prediction.label_ids != IGNORE_INDEX).any(axis=1)

        def decode(ids: np.ndarray) -> list[str]:
            ids = np.where(ids == IGNORE_INDEX, tokenizer.pad_token_id, ids)
            texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
            return texts

        scores = score(decode(prediction.predictions[rows]), decode(prediction.label_ids[rows]))
        return {"bleu": scores.bleu, "chrf": scores.chrf}

    def _check_teacher(self, count: int = 8) -> None:
        """Log a warning if the teacher predicts the first `count` validation batches badly."""
        dataset = self.eval_dataset
        if isinstance(dataset, dict):
            dataset = next(iter(dataset.values()), None)
        if not dataset:  # missing, or empty
            dataset = self.train_dataset
        batches = islice(self._loader(dataset, shuffle=False), count)
        warn_if_untrained(
            (self._teacher_outputs(inputs, None).tokens, inputs["labels"])
            for inputs in map(self._prepare_inputs, batches)
        )

    # Files

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Save the student, for plain transformers, and the method's parameters beside it."""
        folder = Path(output_dir or self.args.output_dir)
        check_weights(self._unwrapped, self.state.global_step, self.args.learning_rate)
        folder.mkdir(parents=True, exist_ok=True)
        self._unwrapped.save(folder, state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        folder = Path(resume_from_checkpoint)
        require_intact(folder)  # the best checkpoint is also loaded when training ends
        self._unwrapped.load(folder)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)


class _SamplerEpoch(TrainerCallback):
    """Callback that sets the sampler's epoch: the Trainer does not reach a wrapped sampler."""

    def __init__(self, trainer: A2DTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, *rest: Any, **kwargs: Any
    ) -> None:
        if self._trainer._train_sampler is not None:
            self._trainer._train_sampler.set_epoch(int(state.epoch or 0))
