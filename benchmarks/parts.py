"""Parts of the whole: the attention loss, kernels by kind, an epoch on the embedded corpus."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from steps import Batch, MakeStep, Setting, Step
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import PrinterCallback

from a2d import A2DConfig, A2DTrainer
from a2d.families import Geometry
from a2d.method.attention import GROUPS
from a2d.models.loading import new_model
from a2d.models.tokenizer import train_tokenizer
from a2d.text.batching import IGNORE_INDEX, tokenise
from a2d.text.corpus import read_corpus
from a2d.training.distillation import group_masks

PAIRS = 800
"""Pairs of the embedded corpus in an epoch."""

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
"""Kind of work → PyTorch's operations. Matrix products inside fused attention count as the latter.
"""


def attention_loss(loss: Callable[..., Tensor]) -> MakeStep:
    """Make a builder of steps that compute an attention loss alone, forward and backward.

    The maps are random, the same for all batches of a shape, and receive gradients.

    Args:
        loss: function with the arguments of `steps.naive_attention_loss`.
    """

    def make(setting: Setting, data: list[Batch], folder: Any) -> Step:
        student, teacher = (
            Geometry(shape[0], shape[1], shape[2], shape[2])
            for shape in (setting.student, setting.teacher)
        )
        weights = {
            group: nn.Parameter(
                0.2
                * torch.randn(teacher.channels(group), student.channels(group)).to(setting.device)
            )
            for group in GROUPS
        }
        maps_by_shape: dict[Any, tuple[Tensor, Tensor]] = {}

        def random_maps(group: str, keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            size = (len(rows), rows.shape[1], keys.shape[-1])
            if (group, size) not in maps_by_shape:
                student_maps, teacher_maps = (
                    torch.randn(size[0], geometry.channels(group), *size[1:], device=setting.device)
                    .masked_fill(~keys.unsqueeze(1), -1e9)
                    .softmax(-1)
                    for geometry in (student, teacher)
                )
                maps_by_shape[group, size] = student_maps.requires_grad_(), teacher_maps
            return maps_by_shape[group, size]

        def step(batch: Batch) -> Tensor:
            masks = group_masks(batch["attention_mask"].bool(), batch["labels"].ne(IGNORE_INDEX))
            total = torch.zeros((), device=setting.device)
            for group in GROUPS:
                keys, rows = masks[group]
                student_maps, teacher_maps = random_maps(group, keys, rows)
                value = loss(student_maps, teacher_maps, keys, rows, weight=weights[group])
                value.backward()
                student_maps.grad = weights[group].grad = None
                total += value.detach()
            return total

        return step

    return make


def shares_by_kind(step: Step, batches: list[Batch]) -> dict[str, float]:
    """Measure which share of a step's time on CPU each of `KINDS` takes; medians of batches."""
    shares = [_shares_of_batch(step, batch) for batch in batches]
    return {kind: statistics.median(each[kind] for each in shares) for kind in KINDS}


def _shares_of_batch(step: Step, batch: Batch) -> dict[str, float]:
    # One step only, because the profiler's records take the memory that the next step would reuse.
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        step(batch)
        seconds = time.perf_counter() - start
    times = {
        event.key.split("::")[-1]: event.self_cpu_time_total for event in profiler.key_averages()
    }
    return {
        kind: sum(times.get(name, 0) for name in names) / 1e6 / seconds
        for kind, names in KINDS.items()
    }


def kernel_profile(step: Step, batch: Batch, seconds: float) -> dict[str, Any]:
    """Profile one step on GPU: time with and without a running kernel, and the longest kernels.

    On CPU, PyTorch's operations take the place of kernels, to try the program.

    Args:
        step: the step, after a warm-up.
        batch: the batch.
        seconds: duration of the step without a profiler, which slows launches down.
    """
    cuda = batch["labels"].is_cuda
    activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    for _ in range(2):  # the first profile of a process loads the profiler's libraries
        with profile(activities=activities) as profiler:
            step(batch)
            if cuda:
                torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    categories = ("kernel", "gpu_memcpy", "gpu_memset") if cuda else ("cpu_op",)
    kernels = [event for event in events if event.get("cat") in categories]
    busy, end = 0.0, 0.0  # microseconds
    by_name: dict[str, list[float]] = {}
    for kernel in sorted(kernels, key=lambda event: event["ts"]):
        by_name.setdefault(kernel["name"], []).append(kernel["dur"])
        stop = kernel["ts"] + kernel["dur"]
        busy += max(0.0, stop - max(end, kernel["ts"]))
        end = max(end, stop)
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:10]
    return {
        "seconds": seconds,
        "seconds in kernels": busy / 1e6,
        "seconds waiting": max(0.0, seconds - busy / 1e6),
        "kernel launches": len(kernels),
        "longest kernels": [
            {"name": name[:200], "seconds": sum(durations) / 1e6, "launches": len(durations)}
            for name, durations in longest
        ],
    }


def epochs(methods: tuple[str, ...], rounds: int) -> dict[str, list[float]]:
    """Measure an epoch of real sentences for each method, in alternation, data loading included.

    The models have width 128; the teacher has 6+6 layers × 4 heads, the students 3+3 × 8.

    Returns:
        Seconds of an epoch, and the share of it that is spent outside of steps, by round.
    """
    pairs = read_corpus("builtin:de-dsb/train")
    tokenizer = train_tokenizer((text for pair in pairs for text in pair), 4000)
    data = tokenise(pairs[:PAIRS], tokenizer)
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for method in methods:
            trainer = _trainer(method, tokenizer, data)
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
            outside = 1 - trainer.seconds_in_steps / seconds
            figures.setdefault(f"seconds of an epoch: {method}", []).append(seconds)
            figures.setdefault(f"outside of steps: {method}", []).append(outside)
    return figures


class _TimedTrainer(A2DTrainer):
    """Trainer that adds up the seconds of its steps."""

    seconds_in_steps = 0.0

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        start = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self.seconds_in_steps += time.perf_counter() - start
        return loss

    def _check_teacher(self, count: int = 8) -> None:
        """Do nothing: the teacher is random."""


def _trainer(method: str, tokenizer: Any, data: Any) -> _TimedTrainer:
    widths: dict[str, Any] = {"width": 128, "feed_forward": 512}
    teacher = new_model(tokenizer, encoder_layers=6, decoder_layers=6, heads=4, **widths)
    student = new_model(tokenizer, encoder_layers=3, decoder_layers=3, heads=8, **widths)
    config = A2DConfig(
        tempfile.mkdtemp(),
        method=method,
        max_tokens=512,
        num_train_epochs=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = _TimedTrainer(
        student, None if method == "baseline" else teacher, config, data, data, tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
