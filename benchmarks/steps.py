"""Training steps to compare: plain PyTorch and transformers, and this package.

A step is the forward and backward pass of the student for one batch, everything it needs of the
teacher, and the optimiser's update. It returns its loss.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional

from a2d import A2DConfig, A2DTrainer
from a2d.families import Geometry
from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import GROUPS
from a2d.method.formulas import FORMULAS
from a2d.models.loading import decoder_inputs, new_model
from a2d.text.batching import IGNORE_INDEX
from a2d.training.distillation import group_masks
from a2d.training.settings import Precision
from a2d.training.teacher_cache import CACHED, TeacherCache, open_or_build

ALPHA, BETA, SMOOTHING = 0.5, 3.0, 0.1
FORMULA = "geometric"
LEARNING_RATE = 1e-5
SEED = 1
"""Seed of the initial alignments, which are the same in `naive_a2d` and in `A2DTrainer`."""

Batch = dict[str, Tensor]
Step = Callable[[Batch], Tensor]
MakeStep = Callable[["Setting", list[Batch], Path], Step]
"""Function that builds a step from a setting, the batches to come, and a folder for files."""

Shape = tuple[int, int, int, int, int]
"""Encoder layers, decoder layers, heads, width, feed-forward width."""


class Setting(NamedTuple):
    """A configuration to measure.

    Attributes:
        teacher, student: shapes of the models.
        vocabulary: number of tokens.
        length: mean tokens of a sentence.
        tokens: padded tokens of a batch, on each side.
        bf16: compute in bfloat16.
        device: `cpu` or `cuda`.
        dropout: dropout rate of the student.
    """

    teacher: Shape
    student: Shape
    vocabulary: int = 8000
    length: int = 25
    tokens: int = 1024
    bf16: bool = False
    device: str = "cpu"
    dropout: float = 0.3

    @property
    def name(self) -> str:
        """Short description."""
        precision = "bf16" if self.bf16 else "fp32"
        return f"{precision} {self.tokens} tokens of {self.length}, vocabulary {self.vocabulary}"


def batches(setting: Setting, count: int) -> list[Batch]:
    """Make batches of random sentences, with as much padding as batches of a real corpus."""
    data = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        longest = setting.length if setting.length >= 256 else round(setting.length * 4 / 3)
        sentences = max(1, setting.tokens // longest)
        sizes = torch.randint(
            2 * setting.length - longest, longest + 1, (2, sentences), generator=generator
        )
        sizes[:, 0] = longest
        ids = torch.randint(1, setting.vocabulary - 1, (2, sentences, longest), generator=generator)
        valid = torch.arange(longest) < sizes.unsqueeze(-1)
        batch = {
            "input_ids": ids[0].masked_fill(~valid[0], setting.vocabulary - 1),
            "attention_mask": valid[0].long(),
            "labels": ids[1].masked_fill(~valid[1], IGNORE_INDEX),
        }
        data.append({name: tensor.to(setting.device) for name, tensor in batch.items()})
    return data


# Plain PyTorch and transformers


def student_alone(setting: Setting, data: list[Batch], folder: Path) -> Step:
    """Train on references with SDPA and PyTorch's cross-entropy."""
    student = _model(setting, "student").train()

    def loss(batch: Batch) -> Tensor:
        logits = student(**_model_inputs(student, batch)).logits
        return _cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten())

    return _plain_step(setting, student.parameters(), loss)


def vanilla_kd(setting: Setting, data: list[Batch], folder: Path) -> Step:
    """Distil word by word with SDPA and PyTorch's losses."""
    student, teacher = _model(setting, "student").train(), _model(setting, "teacher").eval()

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher_logits = teacher(**_model_inputs(teacher, batch)).logits
        logits = student(**_model_inputs(student, batch)).logits
        return _token_losses(logits, teacher_logits, batch["labels"])

    return _plain_step(setting, student.parameters(), loss)


def naive_a2d(setting: Setting, data: list[Batch], folder: Path) -> Step:
    """Distil as `vanilla_kd`, with maps of `eager` attention, a 1×1 convolution and `kl_div`."""
    student, teacher = _model(setting, "student").train(), _model(setting, "teacher").eval()
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    torch.manual_seed(SEED)
    alignment = AttentionAlignment(Geometry.of(student.config), Geometry.of(teacher.config))
    alignment.start_uniform(FORMULAS[FORMULA].uniform_start)
    alignment.to(setting.device)

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            reference = teacher(**_model_inputs(teacher, batch), output_attentions=True)
        output = student(**_model_inputs(student, batch), output_attentions=True)
        total = _token_losses(output.logits, reference.logits, batch["labels"])
        masks = group_masks(batch["attention_mask"].bool(), batch["labels"].ne(IGNORE_INDEX))
        for group, share in zip(GROUPS, (1.0, 0.5, 0.5), strict=True):
            maps, teacher_maps = (torch.cat(_maps(o, group), 1) for o in (output, reference))
            keys, rows = masks[group]
            weight = alignment.weights[group]
            term = naive_attention_loss(maps, teacher_maps, keys, rows, weight=weight)
            total = total + BETA * share * term / rows.sum()
        return total

    return _plain_step(setting, [*student.parameters(), *alignment.parameters()], loss)


def naive_attention_loss(
    maps: Tensor, teacher: Tensor, keys: Tensor, rows: Tensor, *, weight: Tensor
) -> Tensor:
    """Compute the formula `geometric` for maps (B, C, Q, K) with calls of PyTorch only."""
    logarithms = (maps + 1e-6).log()
    combined = functional.conv2d(logarithms, weight[..., None, None]).float()
    scores = combined.masked_fill(~keys.unsqueeze(1), torch.finfo(combined.dtype).min)
    divergence = functional.kl_div(scores.log_softmax(-1), teacher.float(), reduction="none")
    return divergence.sum(-1).masked_fill(~rows.unsqueeze(1), 0.0).sum() / teacher.shape[1]


def _plain_step(
    setting: Setting, parameters: Iterable[nn.Parameter], loss: Callable[[Batch], Tensor]
) -> Step:
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)

    def step(batch: Batch) -> Tensor:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.bf16):
            value = loss(batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.detach()

    return step


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)


def _token_losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    logits, labels = logits.flatten(0, 1).float(), labels.flatten()
    teacher_probabilities = teacher_logits.flatten(0, 1).float().softmax(-1)
    kd = functional.cross_entropy(logits, teacher_probabilities, reduction="none")
    valid = labels.ne(IGNORE_INDEX)
    kd_mean = kd.masked_fill(~valid, 0.0).sum() / valid.sum()
    return (1 - ALPHA) * _cross_entropy(logits, labels) + ALPHA * kd_mean


def _maps(output: Any, group: str) -> tuple[Tensor, ...]:
    maps: tuple[Tensor, ...] = getattr(
        output, "cross_attentions" if group == "cross" else f"{group}_attentions"
    )
    return maps


# This package

prepared_students = ExitStack()
"""Students that stay prepared for attention capture until the process ends."""


def trainer_step(
    method: str, cached: bool = False, teacher_precision: Precision | None = None
) -> MakeStep:
    """Make a builder of steps of `A2DTrainer`."""

    def make(setting: Setting, data: list[Batch], folder: Path) -> Step:
        teacher = _model(setting, "teacher") if method != "baseline" else None
        sentences = _sentences(data)
        cache: TeacherCache | None = None
        if cached:
            assert teacher is not None
            cache = open_or_build(folder / "cache", teacher, sentences, max_tokens=setting.tokens)
        config = A2DConfig(
            tempfile.mkdtemp(dir=folder),
            method=method,
            formula=FORMULA,
            alpha=ALPHA,
            beta=BETA,
            alignment_learning_rate=None,
            label_smoothing_factor=SMOOTHING,
            bf16=setting.bf16,
            teacher_precision=teacher_precision,
            max_tokens=max(setting.tokens, setting.length),
            max_steps=1,
            learning_rate=LEARNING_RATE,
            seed=SEED,
            report_to=[],
        )
        student = _model(setting, "student")
        trainer = A2DTrainer(student, teacher, config, sentences, teacher_cache=cache)
        trainer.model = trainer.accelerator.prepare_model(trainer.model)  # adds autocast
        trainer.create_optimizer()
        prepared_students.enter_context(trainer.prepare_student())
        starts = torch.tensor([0, *[len(batch["labels"]) for batch in data]]).cumsum(0).tolist()
        rows = {id(batch): range(*starts[i : i + 2]) for i, batch in enumerate(data)}

        def step(batch: Batch) -> Tensor:
            inputs: dict[str, Any] = dict(batch)
            if cache is not None:
                inputs[CACHED] = cache.read(rows[id(batch)])
            loss = trainer.training_step(trainer.model, inputs)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            return loss

        return step

    return make


def _sentences(data: list[Batch]) -> Dataset:
    """Return the batches' sentences in order, without padding."""
    ids, labels = [], []
    for batch in data:
        for source, mask, target in zip(*batch.values(), strict=True):
            ids.append(source[mask.bool()].tolist())
            labels.append(target[target.ne(IGNORE_INDEX)].tolist())
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


class _Vocabulary(SimpleNamespace):
    """The attributes of a tokenizer that `new_model` reads."""

    size: int

    def __len__(self) -> int:
        return self.size


def _model(setting: Setting, role: str) -> Any:
    size = setting.vocabulary
    tokenizer: Any = _Vocabulary(size=size, pad_token_id=size - 1, eos_token_id=0)
    names = ("encoder_layers", "decoder_layers", "heads", "width", "feed_forward")
    shape: dict[str, Any] = dict(zip(names, getattr(setting, role), strict=True))
    torch.manual_seed(0)
    positions = max(512, 2 * setting.length)
    model = new_model(tokenizer, **shape, dropout=setting.dropout, max_positions=positions)
    if role == "teacher":
        model.requires_grad_(False)
    return model.to(setting.device)


def _model_inputs(model: Any, batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "decoder_input_ids": decoder_inputs(model, batch["labels"]),
        "use_cache": False,
    }


STEPS: dict[str, MakeStep] = {
    "student": student_alone,
    "vanilla kd": vanilla_kd,
    "naive a2d": naive_a2d,
    "our student": trainer_step("baseline"),
    "our kd": trainer_step("kd"),
    "a2d": trainer_step("a2d"),
    "a2d, bf16 teacher": trainer_step("a2d", teacher_precision="bfloat16"),
    "a2d, cached": trainer_step("a2d", cached=True),
}
