"""`A2DConfig`: everything that can be set about a distillation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments

from a2d.errors import UserError
from a2d.method.attention import GROUPS
from a2d.method.transfer import FORMULAS, STARTS
from a2d.suggestions import nearest
from a2d.training.distillation import METHODS, Objective


def bf16_pays() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware, and so faster than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@dataclass
class A2DConfig(Seq2SeqTrainingArguments):
    """Training arguments of `A2DTrainer`: those of `Seq2SeqTrainer` and the ones below.

    With S and T the student's and the teacher's attention maps, the objective (Jin et al. 2024,
    Eq. 12) is ``(1-α)·CE + α·KD + β·decay^(epoch-1)·[A_encoder + ½(A_decoder + A_cross)]``.

    Defaults were chosen by our experiments (docs/results.md). The paper's own settings are
    ``formula="paper", decay=0.9, alignment_learning_rate=None``.

    Args:
        method: `baseline` (references only), `kd` (word-level distillation), `a2d` (with attention
            transfer), or one of those that it is compared with
            (`a2d.training.distillation.METHODS`). A term that the method lacks has no weight:
            `baseline` is α = 0. Methods with `seqkd` expect a `train_dataset` whose labels are
            the teacher's translations (`a2d.runs.sequences`).
        formula: how `a2d` compares maps with the teacher's (`a2d.method.transfer.A2D` lists them).
        alpha: α, weight of word-level distillation against the references.
        beta: β, weight of attention transfer; for a student that starts from its teacher's layers
            1 is better.
        decay: factor on β after each epoch.
        temperature: τ of word-level distillation.
        max_tokens: padded tokens per batch and device, on the source and on the target side
            (`per_device_train_batch_size` is not used: sentences differ too much in length);
            validation takes four times as many.
        groups: which attention is compared, joined by `+`: `encoder` and `decoder` self-attention,
            `cross`-attention.
        alignment_start: `uniform`, near the guess that layers correspond evenly, or `random`.
        alignment_learning_rate: peak learning rate of the alignment, or of whatever else a method
            learns beside the student; None: `learning_rate`.
        plateau_patience: with a value, the learning rate decays linearly over all planned updates,
            and faster, to an early end, once so many validations brought neither a better
            `metric_for_best_model` nor a lower cross-entropy (`a2d.training.schedule`). None:
            `lr_scheduler_type` decides.
        max_hours: with `plateau_patience`, the time that the training may take. The result then
            depends on the machine's speed.
        fingerprint: hash of everything that the training depends on, set by `a2d run`. Checkpoints
            in `output_dir` with another fingerprint are set aside, not resumed from. None resumes
            from any checkpoint.
        bf16: None switches it on where the hardware makes it pay.
        teacher_bf16: the teacher computes in bf16, in half the memory and, where the hardware makes
            it pay, a fraction of the time, whatever the student does; None: as the student does.

    Raises:
        UserError: a value outside its range, or an unknown method or formula.

    Example:
        >>> A2DConfig(output_dir="out", method="kd", alpha=0.7).alpha
        0.7
    """

    method: str = "a2d"
    formula: str = "geometric"
    alpha: float = 0.5
    beta: float = 3.0
    decay: float = 1.0
    temperature: float = 1.0
    groups: str = "encoder+decoder+cross"
    alignment_start: str = "uniform"
    max_tokens: int = 4096
    alignment_learning_rate: float | None = 0.01

    plateau_patience: int | None = None
    max_hours: float | None = None
    fingerprint: str | None = None

    # Defaults of Seq2SeqTrainingArguments that the field of translation sets otherwise.
    bf16: bool | None = None
    teacher_bf16: bool | None = None
    learning_rate: float = 5e-4
    adam_beta2: float = 0.98
    label_smoothing_factor: float = 0.1
    predict_with_generate: bool = True
    generation_num_beams: int | None = 1
    accelerator_config: dict[str, Any] | str | None = field(
        default_factory=lambda: {"even_batches": False}
    )
    report_to: str | list[str] | None = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        """Check values and settle what depends on the machine."""
        _one_of("method", self.method, METHODS)
        _one_of("formula", self.formula, FORMULAS)
        _one_of("alignment_start", self.alignment_start, STARTS)
        for group in self.groups.split("+"):
            _one_of("group", group, GROUPS)
        _within("alpha", self.alpha, 0, 1)
        _within("beta", self.beta, 0)
        _within("decay", self.decay, 0, 1)
        _within("temperature", self.temperature, 1e-3)
        _within("label_smoothing_factor", self.label_smoothing_factor, 0, 1)
        _within("max_tokens", self.max_tokens, 1)
        if self.plateau_patience is not None:
            _within("plateau_patience", self.plateau_patience, 1)
        elif self.max_hours is not None:
            raise UserError(
                "max_hours needs plateau_patience: other schedules end at a fixed update."
            )
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bf16_pays()
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
        )

    def term_weights(self, epoch: int | None = None) -> torch.Tensor:
        """Weights of `TERMS` in the total loss.

        Args:
            epoch: counted from 1, for the decay of β; None leaves β undecayed, as validation
                does, so that its losses compare across epochs.
        """
        method = METHODS[self.method]
        alpha = self.alpha if method.distribution else 0.0
        beta = self.beta if method.features else 0.0
        if epoch is not None:
            beta *= self.decay ** (epoch - 1)
        return torch.tensor([1 - alpha, alpha, beta, beta / 2, beta / 2], dtype=torch.float64)


def _one_of(setting: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise UserError(f"unknown {setting} {value!r}{nearest(value, known)}")


def _within(name: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        limits = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise UserError(f"{name} is {value}: it must be {limits}.")
