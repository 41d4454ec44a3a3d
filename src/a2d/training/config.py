"""`A2DConfig`: the arguments of `A2DTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments

from a2d.errors import UserError
from a2d.method.attention import GROUPS
from a2d.method.objective import Objective
from a2d.training.settings import ObjectiveSettings, TrainingSettings, validate


def bf16_is_fast() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware, and so faster than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@dataclass
class A2DConfig(ObjectiveSettings, TrainingSettings, Seq2SeqTrainingArguments):
    """Training arguments of `A2DTrainer`: those of `Seq2SeqTrainer`, and more.

    The objective (Jin et al. 2024, Eq. 12; `a2d.method.objective`) is
    ``(1-α)·CE + α·KD + β·decay^(epoch-1)·[A_encoder + ½(A_decoder + A_cross)]``.

    Fields that transformers does not have are explained where they are defined
    (`a2d.training.settings`). Defaults were chosen by our experiments (docs/results.md). The
    paper's own settings are ``formula="paper", decay=0.9, alignment_learning_rate=None``.

    Args:
        fingerprint: hash of everything that the training depends on, set by `a2d run`. Checkpoints
            in `output_dir` with another fingerprint are set aside, not resumed from. None resumes
            from any checkpoint.
        tune_cpu: on a CPU, drop values by a faster function while training, keep freed memory in
            the process, and limit oneDNN's cache (`a2d.training.cpu`). The last two last until the
            process ends. Dropout draws other random numbers without it.
        teacher_bf16: the teacher computes in bf16, in half the memory and, where the hardware makes
            it pay, a fraction of the time, whatever the student does; None: as the student does.

    Raises:
        UserError: a value outside its range, or an unknown method or formula.

    Example:
        >>> A2DConfig(output_dir="out", method="kd", alpha=0.7).alpha
        0.7
    """

    fingerprint: str | None = None
    tune_cpu: bool = True
    teacher_bf16: bool | None = None

    # Defaults of Seq2SeqTrainingArguments that the field of translation sets otherwise.
    adam_beta2: float = 0.98
    predict_with_generate: bool = True
    generation_num_beams: int | None = 1
    accelerator_config: dict[str, Any] | str | None = field(
        default_factory=lambda: {"even_batches": False}
    )
    report_to: str | list[str] | None = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        """Check values and settle what depends on the machine."""
        validate(self, ObjectiveSettings, TrainingSettings)
        if self.plateau_patience is None:
            if self.max_hours is not None:
                raise UserError(
                    "max_hours needs plateau_patience: other schedules end at a fixed update."
                )
        else:  # `PlateauSchedule` does the rest
            self.lr_scheduler_type = "constant_with_warmup"
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bf16_is_fast()
        if self.teacher_bf16 is None:
            self.teacher_bf16 = self.bf16
        if not torch.cuda.is_available():
            self.use_cpu = True
        super().__post_init__()

    @property
    def objective(self) -> Objective:
        """The settings that the losses need."""
        chosen = self.groups.split("+")
        return Objective(
            self.method,
            self.formula,
            self.alpha,
            self.temperature,
            self.label_smoothing_factor,
            tuple(group for group in GROUPS if group in chosen),
            self.alignment_start,
            self.beta,
            self.decay,
        )
