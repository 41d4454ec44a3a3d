"""What a teacher cache costs on disk, and what its compression changes in losses and gradients.

    python benchmarks/cache.py runs/NAME  # a finished run with an a2d student

Losses and gradients of that student, without dropout, with the live teacher's signals and with
cached ones, on batches drawn at random from the run's training data.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from rich.console import Console
from tables import show, spread, write
from torch import Tensor
from transformers import DataCollatorForSeq2Seq

from a2d.method.attention import GROUPS, enable_capture
from a2d.models.loading import load_model
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import silence_libraries
from a2d.text.batching import TokenBatchSampler, lengths
from a2d.training.distillation import IGNORED, METHODS, TERMS, Distillation, Objective, Signals, run
from a2d.training.teacher_cache import open_or_build

FORMULA = "geometric"


def main() -> None:
    """Compare, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--batches", type=int, default=12)
    given = parser.parse_args()
    silence_libraries()
    torch.manual_seed(0)
    models = given.run / "models"
    teacher = load_model(models / "teacher").eval().requires_grad_(False)
    student = load_model(next(iter(sorted(models.glob("a2d-*"))))).eval()
    for model in (teacher, student):
        enable_capture(model)
    data = load_from_disk(str(given.run / "tokens"))["train"]
    batches = list(TokenBatchSampler(lengths(data), 512))
    chosen = np.random.default_rng(0).choice(len(batches), given.batches, replace=False)
    data = data.select([row for number in chosen for row in batches[number]])
    collate = DataCollatorForSeq2Seq(load_tokenizer(models / "teacher"), label_pad_token_id=IGNORED)
    tokens = lengths(data).mean(axis=0)
    figures: dict[str, Any] = {}
    figures["source tokens per sentence"], figures["target tokens per sentence"] = tokens.tolist()
    for method in ("a2d", "a2d+hidden"):
        module = Distillation(student, Objective(method, FORMULA, 0.5, 1.0, 0.1), teacher.config)
        for name, figure in measure(module, teacher, data, collate).items():
            figures[f"{method}: {name}"] = figure
    show("teacher cache", figures, Console())
    write("cache", figures)


def measure(module: Distillation, teacher: Any, data: Dataset, collate: Any) -> dict[str, Any]:
    """Size of the cache that a method reads, and the errors it adds, batch by batch."""
    states = METHODS[module.objective.method].states
    errors: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = open_or_build(Path(folder), teacher, data, states=states)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.npy"))
        for rows in TokenBatchSampler(lengths(data), 512):
            inputs = dict(collate([data[row] for row in rows]))
            tokens = inputs["attention_mask"].bool(), inputs["labels"].ne(IGNORED)
            signals = cache.unpack(cache.read(rows, states=states), *tokens)
            for name, error in compare(module, teacher, signals, inputs).items():
                errors.setdefault(name, []).append(error)
    figures = {f"relative error of {name}": spread(found) for name, found in errors.items()}
    return {"KB per sentence": size / len(data) / 1000, **figures}


def compare(module: Distillation, teacher: Any, cached: Signals, inputs: Any) -> dict[str, float]:
    """Relative errors that cached signals make in the terms, in their sum and in its gradient."""
    with torch.no_grad():
        live = run(teacher, inputs, module.transfer)
    found = []
    for signals in (live, cached):
        module.zero_grad()
        terms = module(**inputs, teacher=signals)
        loss = sum(terms[name] for name in ("tokens", *GROUPS))
        loss.backward()
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        values = {name: terms[name].item() for name in TERMS} | {"the loss": loss.item()}
        found.append((values, torch.cat(gradients)))
    (expected, slope), (values, other) = found
    errors = {name: abs(value / expected[name] - 1) for name, value in values.items()}
    return errors | {"the gradient": relative(other, slope)}


def relative(one: Tensor, other: Tensor) -> float:
    """Length of the difference over the length of `other`."""
    return float((one - other).norm() / other.norm())


if __name__ == "__main__":
    main()
