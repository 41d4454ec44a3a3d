"""Training steps to compare: with the library's own means, and with this package's.

Every step is a forward and a backward pass of the student, what it needs of the teacher, and the
optimiser's update, for one batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional

from a2d import A2DConfig, A2DTrainer
from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import GROUPS, Geometry
from a2d.models.loading import decoder_inputs, new_model
from a2d.training.distillation import IGNORED, group_masks
from a2d.training.teacher_cache import KEPT, open_or_build

ALPHA, SMOOTHING = 0.5, 0.1

Batch = dict[str, Tensor]
Step = Callable[[Batch], Any]


class Setting(NamedTuple):
    """One configuration to be measured.

    sizes: encoder layers, decoder layers, heads, width, feed-forward width.
    length: mean tokens of a sentence.
    tokens: padded tokens of a batch, on each side.
    """

    teacher: tuple[int, int, int, int, int]
    student: tuple[int, int, int, int, int]
    vocabulary: int
    length: int
    tokens: int
    bf16: bool
    device: str

    @property
    def name(self) -> str:
        """In short."""
        precision = "bf16" if self.bf16 else "fp32"
        return f"{precision} {self.tokens} tokens of {self.length}, vocabulary {self.vocabulary}"


def batches(setting: Setting, count: int) -> list[Batch]:
    """Random sentences around the mean length, as padded as random batches of a corpus are."""
    found = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        longest = setting.length if setting.length >= 256 else round(setting.length * 4 / 3)
        sentences = max(1, setting.tokens // longest)
        sizes = torch.randint(
            2 * setting.length - longest, longest + 1, (2, sentences), generator=generator
        )
        sizes[:, 0] = longest
        ids = torch.randint(1, setting.vocabulary - 1, (2, sentences, longest), generator=generator)
        real = torch.arange(longest) < sizes.unsqueeze(-1)
        found.append(
            {
                "input_ids": ids[0].masked_fill(~real[0], setting.vocabulary - 1),
                "attention_mask": real[0].long(),
                "labels": ids[1].masked_fill(~real[1], IGNORED),
            }
        )
    return [{k: v.to(setting.device) for k, v in batch.items()} for batch in found]


# With the library's own means


def student_alone(setting: Setting, data: list[Batch], folder: Path) -> Step:
    """SDPA and the library's cross-entropy."""
    student = _model(setting, "student").train()
    return _library_step(setting, student, student.parameters(), lambda batch: _ce(student, batch))


def vanilla_kd(setting: Setting, data: list[Batch], folder: Path) -> Step:
    """Word-level distillation as one writes it with SDPA and the library's losses."""
    student, teacher = _model(setting, "student").train(), _model(setting, "teacher").eval()

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            told = teacher(**_feed(teacher, batch)).logits
        logits = student(**_feed(student, batch)).logits
        return _token_losses(logits, told, batch["labels"])

    return _library_step(setting, student, student.parameters(), loss)


def naive_a2d(setting: Setting, data: list[Batch], folder: Path) -> Step:
    """The same with maps from `eager` attention, a 1×1 convolution and `kl_div`."""
    student, teacher = _model(setting, "student").train(), _model(setting, "teacher").eval()
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    shapes = Geometry.of(student.config), Geometry.of(teacher.config)
    alignment = AttentionAlignment(*shapes).to(setting.device)

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            told = teacher(**_feed(teacher, batch), output_attentions=True)
        output = student(**_feed(student, batch), output_attentions=True)
        total = _token_losses(output.logits, told.logits, batch["labels"])
        masks = group_masks(batch["attention_mask"].bool(), batch["labels"].ne(IGNORED))
        for group, share in zip(GROUPS, (1.0, 0.5, 0.5), strict=True):
            kept, wanted = (torch.cat(_maps(o, group), 1) for o in (output, told))
            weight = alignment.convolutions[group].weight.flatten(1)
            found = naive_attention_loss(kept, wanted, *masks[group], weight=weight)
            total = total + share * found / masks[group][1].sum()
        return total

    parameters = [*student.parameters(), *alignment.parameters()]
    return _library_step(setting, student, parameters, loss)


def naive_attention_loss(
    maps: Tensor, teacher: Tensor, keys: Tensor, rows: Tensor, *, weight: Tensor
) -> Tensor:
    """`a2d.method.losses.attention_transfer` of maps (B, C, Q, K), by nothing but library calls."""
    logarithms = (maps + 1e-6).log()
    mixed = functional.conv2d(logarithms, weight[..., None, None]).float()
    scores = mixed.masked_fill(~keys.unsqueeze(1), torch.finfo(mixed.dtype).min)
    divergence = functional.kl_div(scores.log_softmax(-1), teacher.float(), reduction="none")
    return divergence.sum(-1).masked_fill(~rows.unsqueeze(1), 0.0).sum() / teacher.shape[1]


def _library_step(
    setting: Setting, student: nn.Module, parameters: Any, loss: Callable[[Batch], Tensor]
) -> Step:
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step(batch: Batch) -> None:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.bf16):
            value = loss(batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _ce(student: Any, batch: Batch) -> Tensor:
    logits = student(**_feed(student, batch)).logits
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), batch["labels"].flatten(), label_smoothing=SMOOTHING
    )


def _token_losses(logits: Tensor, told: Tensor, labels: Tensor) -> Tensor:
    logits, labels = logits.flatten(0, 1).float(), labels.flatten()
    ce = functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
    wanted = told.flatten(0, 1).float().softmax(-1)
    kd = functional.cross_entropy(logits, wanted, reduction="none")
    valid = labels.ne(IGNORED)
    return (1 - ALPHA) * ce + ALPHA * kd.masked_fill(~valid, 0.0).sum() / valid.sum()


def _maps(output: Any, group: str) -> tuple[Tensor, ...]:
    if group == "cross":
        return output.cross_attentions
    return getattr(output, f"{group}_attentions")


# With this package's


def ours(
    method: str, cached: bool = False, teacher_bf16: bool | None = None
) -> Callable[[Setting, list[Batch], Path], Step]:
    """A step of `A2DTrainer`."""

    def make(setting: Setting, data: list[Batch], folder: Path) -> Step:
        teacher = _model(setting, "teacher") if method != "baseline" else None
        sentences = _sentences(data)
        cache = None
        if cached:
            assert teacher is not None
            cache = open_or_build(folder / "cache", teacher, sentences, max_tokens=setting.tokens)
        config = A2DConfig(
            tempfile.mkdtemp(dir=folder),
            method=method,
            bf16=setting.bf16,
            teacher_bf16=teacher_bf16,
            max_tokens=max(setting.tokens, setting.length),
            max_steps=1,
            learning_rate=1e-5,
            report_to=[],
        )
        student = _model(setting, "student")
        trainer = A2DTrainer(student, teacher, config, sentences, teacher_cache=cache)
        trainer.model = trainer.accelerator.prepare_model(trainer.model)  # autocast is in there
        trainer.create_optimizer()
        trainer.prepared_student().__enter__()  # never left: it serves this benchmark alone
        starts = torch.tensor([0, *[len(batch["labels"]) for batch in data]]).cumsum(0).tolist()
        rows = {id(batch): starts[i : i + 2] for i, batch in enumerate(data)}

        def step(batch: Batch) -> None:
            inputs = dict(batch)
            if cached:
                inputs[KEPT] = cache.read(range(*rows[id(batch)]))
            trainer.training_step(trainer.model, inputs)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

        return step

    return make


def _sentences(data: list[Batch]) -> Dataset:
    """The batches' sentences without their padding, in order."""
    ids, labels = [], []
    for batch in data:
        for source, mask, target in zip(*batch.values(), strict=True):
            ids.append(source[mask.bool()].tolist())
            labels.append(target[target.ne(IGNORED)].tolist())
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


class _Vocabulary(SimpleNamespace):
    """What `new_model` asks of a tokenizer."""

    def __len__(self) -> int:
        return self.size


def _model(setting: Setting, role: str) -> Any:
    size = setting.vocabulary
    tokenizer = _Vocabulary(size=size, pad_token_id=size - 1, eos_token_id=0)
    names = ("encoder_layers", "decoder_layers", "heads", "width", "feed_forward")
    shape = dict(zip(names, getattr(setting, role), strict=True))
    torch.manual_seed(0)
    longest = max(512, 2 * setting.length)
    model = new_model(tokenizer, **shape, dropout=0.3, max_positions=longest)
    if role == "teacher":
        model.requires_grad_(False)
    return model.to(setting.device)


def _feed(model: Any, batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "decoder_input_ids": decoder_inputs(model, batch["labels"]),
        "use_cache": False,
    }


STEPS = {
    "student": student_alone,
    "vanilla kd": vanilla_kd,
    "naive a2d": naive_a2d,
    "our student": ours("baseline"),
    "our kd": ours("kd"),
    "a2d": ours("a2d"),
    "a2d, bf16 teacher": ours("a2d", teacher_bf16=True),
    "a2d, cached": ours("a2d", cached=True),
}
