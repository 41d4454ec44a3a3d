"""`A2DConfig`: training arguments of `A2DTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from transformers import Seq2SeqTrainingArguments

from a2d.errors import UserError
from a2d.method.attention import GROUPS
from a2d.method.methods import METHODS
from a2d.method.objective import Objective
from a2d.quoting import quoted
from a2d.suggestions import nearest
from a2d.training.settings import ObjectiveSettings, Precision, TrainingSettings, validate


def bf16_is_fast() -> bool:
    """Check whether the hardware multiplies bfloat16 matrices, faster than float32 ones."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@dataclass
class A2DConfig(ObjectiveSettings, TrainingSettings, Seq2SeqTrainingArguments):
    """Training arguments of `A2DTrainer`, which extend those of `Seq2SeqTrainer`.

    The objective (Jin et al. 2024, Eq. 12; `a2d.method.objective`) is
    ``(1-α)·CE + α·KD + β·decay^(epoch-1)·[A_encoder + ½(A_decoder + A_cross)]``.

    `a2d.training.settings` defines and describes the fields that transformers does not have. The
    defaults follow from our experiments (docs/results.md). The settings of the paper are
    ``formula="paper", beta=1.0, decay=0.9, beta_until=None, alignment_start="random",
    alignment_learning_rate=None``.

    Args:
        fingerprint: hash of everything that the training depends on, set by `a2d run`. Checkpoints
            in `output_dir` with another fingerprint are set aside. With None, training resumes from
            any checkpoint.
        tune_cpu: on CPU, use a faster dropout while training, keep freed memory in the process, and
            limit oneDNN's cache (`a2d.training.cpu`). The last two persist until the process ends.
            The faster dropout draws other random numbers than PyTorch's.
        teacher_precision: precision of the teacher's copy, whatever the student's is. `bfloat16`
            halves its memory, and is faster on hardware that multiplies bfloat16. `int8` halves
            the memory of its linear layers again, and is slower; it needs bitsandbytes (an extra).
            None: `bfloat16` if `bf16` is set, otherwise `float32`.
        shard_teacher: divide the weights of the teacher's layers among the processes of the
            training (`a2d.training.frozen.shard`), for teachers that do not fit one GPU. The
            processes exchange these weights for every batch. Not for a teacher in `int8`.

    Raises:
        UserError: a value is outside its range, or a method or formula is unknown.

    Example:
        >>> A2DConfig(output_dir="out", method="kd", alpha=0.7).alpha
        0.7
    """

    fingerprint: str | None = None
    tune_cpu: bool = True
    teacher_precision: Precision | None = None
    shard_teacher: bool = False

    # Fields of Seq2SeqTrainingArguments, with defaults that are usual for translation.
    adam_beta2: float = 0.98
    predict_with_generate: bool = True
    generation_num_beams: int | None = 1
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    restore_callback_states_from_checkpoint: bool = True
    accelerator_config: dict[str, Any] | str | None = field(
        default_factory=lambda: {"even_batches": False}
    )
    report_to: str | list[str] | None = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        """Check values, and choose defaults that depend on the hardware."""
        validate(self, ObjectiveSettings, TrainingSettings)
        if self.plateau_patience is None:
            if self.max_hours is not None:
                raise UserError(
                    "max_hours needs plateau_patience: other schedules end at a fixed update."
                )
        else:  # `A2DTrainer.create_scheduler` makes a `PlateauSchedule` instead
            self.lr_scheduler_type = "constant_with_warmup"
        if self.plateau_patience is not None or self.early_stopping_patience is not None:
            self._follow_validation()
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            terms = {"loss", *(term.name for term in self.objective.terms)}
            self.greater_is_better = self.metric_for_best_model.rpartition("_")[2] not in terms
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bf16_is_fast()
        if self.teacher_precision is None:
            self.teacher_precision = "bfloat16" if self.bf16 else "float32"
        if self.teacher_precision not in get_args(Precision):
            raise UserError(
                f"unknown teacher_precision {quoted(self.teacher_precision)}"
                f"{nearest(str(self.teacher_precision), get_args(Precision))}"
            )
        if self.shard_teacher and self.teacher_precision == "int8":
            raise UserError("a teacher in int8 cannot be divided: leave out shard_teacher.")
        if not torch.cuda.is_available():
            self.use_cpu = True
        super().__post_init__()

    def _follow_validation(self) -> None:
        """Choose the metric that decides when a training ends; check that it is measured."""
        if self.eval_strategy == "no":
            raise UserError(
                "plateau_patience and early_stopping_patience follow validation: set eval_strategy "
                "and eval_steps."
            )
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "bleu" if self.predict_with_generate else "ce"

    @property
    def objective(self) -> Objective:
        """Settings of the objective.

        Raises:
            UserError: the method compares none of the groups.
        """
        able = METHODS[self.method].groups
        groups = [group for group in self.groups.split("+") if group in able]
        if not groups:
            raise UserError(
                f"method {self.method!r} compares {'+'.join(able)} only, but groups is "
                f"{self.groups!r}: leave groups out."
            )
        return Objective(
            self.method,
            self.formula,
            self.alpha,
            self.temperature,
            self.label_smoothing_factor,
            tuple(group for group in GROUPS if group in groups),
            self.alignment_start,
            self.beta,
            self.decay,
            self.beta_until,
        )
