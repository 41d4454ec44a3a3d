"""Parts of the whole: the attention loss, matrix products, an epoch on the embedded corpus."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from steps import Batch, Setting, Step
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import PrinterCallback

from a2d import A2DConfig, A2DTrainer
from a2d.method.attention import GROUPS
from a2d.models.loading import new_model
from a2d.models.tokenizer import train_tokenizer
from a2d.text.batching import tokenise
from a2d.text.corpus import read_corpus
from a2d.training.distillation import IGNORED, group_masks

PAIRS = 800
"""Of the embedded corpus, in an epoch."""

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "_linear_pointwise"),
    "fused attention": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "softmax and logarithms": (
        "_softmax",
        "_softmax_backward_data",
        "_log_softmax",
        "_log_softmax_backward_data",
        "log",
        "exp",
        "exp_",
    ),
    "dropout's random numbers": ("bernoulli_",),
    "copies and conversions": ("copy_", "_to_copy", "fill_"),
    "optimiser": ("_fused_adamw_",),
}
"""Kernels whose time `profiled` sums up. The first no code saves, where it needs them; those of
fused attention are counted as the second."""


def attention_loss(
    loss: Callable[..., Tensor],
) -> Callable[[Setting, list[Batch], Path], Step]:
    """An attention loss alone, forward and backward.

    Maps are at hand (the same random ones for every batch of a shape), and take gradients.
    """

    def make(setting: Setting, data: list[Batch], folder: Path) -> Step:
        encoder, decoder = ((s[0] * s[2], s[1] * s[2]) for s in (setting.student, setting.teacher))
        weights = {
            group: nn.Parameter(0.2 * torch.randn(ours, theirs, device=setting.device).T)
            for group, ours, theirs in (
                ("encoder", encoder[0], decoder[0]),
                ("decoder", encoder[1], decoder[1]),
                ("cross", encoder[1], decoder[1]),
            )
        }
        known: dict[Any, tuple[Tensor, Tensor]] = {}

        def maps(group: str, keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            size = (len(rows), rows.shape[1], keys.shape[-1])
            if (group, size) not in known:
                made = [
                    torch.randn(size[0], count, *size[1:], device=setting.device)
                    .masked_fill(~keys.unsqueeze(1), -1e9)
                    .softmax(-1)
                    for count in reversed(weights[group].shape)
                ]
                known[group, size] = made[0].requires_grad_(), made[1]
            return known[group, size]

        def step(batch: Batch) -> None:
            masks = group_masks(batch["attention_mask"].bool(), batch["labels"].ne(IGNORED))
            for group in GROUPS:
                keys, rows = masks[group]
                student, teacher = maps(group, keys, rows)
                loss(student, teacher, keys, rows, weight=weights[group]).backward()
                student.grad = weights[group].grad = None

        return step

    return make


def profiled(step: Step, batches: list[Batch]) -> dict[str, float]:
    """Parts of a step's time that it spends in each of `KINDS`: medians. On a processor."""
    parts = [_profiled(step, batch) for batch in batches]
    return {kind: statistics.median(part[kind] for part in parts) for kind in KINDS}


def _profiled(step: Step, batch: Batch) -> dict[str, float]:
    # One step only: what a profiler notes takes the memory that the next step would reuse, which
    # then waits for new pages.
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        start = time.perf_counter()
        step(batch)
        whole = time.perf_counter() - start
    times = {
        event.key.split("::")[-1]: event.self_cpu_time_total for event in watched.key_averages()
    }
    return {
        kind: sum(times.get(name, 0) for name in names) / 1e6 / whole
        for kind, names in KINDS.items()
    }


def epochs(methods: tuple[str, ...], rounds: int) -> dict[str, list[float]]:
    """Seconds of an epoch of every method, in alternation, and how much of it is no step.

    Real sentences, data loading included; width 128, teacher 6+6×4, students 3+3×8.
    """
    pairs = read_corpus("builtin:de-dsb/train")
    tokenizer = train_tokenizer((text for pair in pairs for text in pair), 4000)
    data = tokenise(pairs[:PAIRS], tokenizer)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for method in methods:
            trainer, steps = _trainer(method, tokenizer, data)
            start = time.perf_counter()
            trainer.train()
            whole = time.perf_counter() - start
            found.setdefault(f"seconds of an epoch: {method}", []).append(whole)
            found.setdefault(f"outside of steps: {method}", []).append(1 - sum(steps) / whole)
    return found


def _trainer(method: str, tokenizer: Any, data: Any) -> tuple[A2DTrainer, list[float]]:
    shape = {"width": 128, "feed_forward": 512}
    teacher = new_model(tokenizer, encoder_layers=6, decoder_layers=6, heads=4, **shape)
    student = new_model(tokenizer, encoder_layers=3, decoder_layers=3, heads=8, **shape)
    config = A2DConfig(
        tempfile.mkdtemp(),
        method=method,
        max_tokens=512,
        num_train_epochs=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = A2DTrainer(
        student, None if method == "baseline" else teacher, config, data, data, tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    trainer._warn_of_weak_teacher = lambda: None  # it is random: no news
    seconds: list[float] = []
    step = trainer.training_step

    def timed(*args: Any, **kwargs: Any) -> Tensor:
        start = time.perf_counter()
        loss = step(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return loss

    trainer.training_step = timed
    return trainer, seconds
