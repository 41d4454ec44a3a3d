"""Measure the size of a teacher cache, and the errors of its compression in losses and gradients.

    python benchmarks/cache.py small-en-pt.run  # a finished run with an a2d student

The losses and gradients of that student are computed without dropout, once with the outputs of the
teacher itself and once with cached ones, on random batches of the run's training data.
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

from a2d.method.attention import enable_capture
from a2d.method.objective import Objective
from a2d.models.loading import load_model
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import silence_libraries
from a2d.runs.recipe import load_recipe
from a2d.text.batching import IGNORE_INDEX, TokenBatchSampler, lengths
from a2d.training.distillation import Distillation
from a2d.training.outputs import Outputs, model_outputs
from a2d.training.teacher_cache import open_or_build

FORMULA = "geometric"
TOKENS = 512


def main() -> None:
    """Compare, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--name", default="cache", help="name of the file in results")
    arguments = parser.parse_args()
    silence_libraries()
    figures = run_figures(arguments.run, arguments.batches)
    show("teacher cache", figures, Console())
    write(arguments.name, figures)


def run_figures(run: Path, count: int) -> dict[str, Any]:
    """Compare on `count` batches of a run's training data."""
    torch.manual_seed(0)
    models = run / "models"
    path = load_recipe(str(run / "recipe.yaml")).teacher.path or models / "teacher"
    teacher = load_model(path).eval().requires_grad_(False)
    student = load_model(next(iter(sorted(models.glob("a2d-*"))))).eval()
    for model in (teacher, student):
        enable_capture(model)
    data = load_from_disk(str(run / "tokens"))["train"]
    batches = list(TokenBatchSampler(lengths(data), TOKENS))
    sample = np.random.default_rng(0).choice(len(batches), count, replace=False)
    data = data.select([row for number in sample for row in batches[number]])
    collate = DataCollatorForSeq2Seq(load_tokenizer(path), label_pad_token_id=IGNORE_INDEX)
    tokens = lengths(data).mean(axis=0)
    figures: dict[str, Any] = {}
    figures["source tokens per sentence"], figures["target tokens per sentence"] = tokens.tolist()
    for method in ("a2d", "a2d+hidden"):
        module = Distillation(student, Objective(method, FORMULA, 0.5, 1.0, 0.1), teacher.config)
        for name, figure in measure(module, teacher, data, collate).items():
            figures[f"{method}: {name}"] = figure
    return figures


def measure(module: Distillation, teacher: Any, data: Dataset, collate: Any) -> dict[str, Any]:
    """Measure the size of the cache that a method reads, and its errors, batch by batch."""
    states = module.objective.definition.states
    errors: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = open_or_build(Path(folder), teacher, data, states=states)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.npy"))
        for rows in TokenBatchSampler(lengths(data), TOKENS):
            inputs = dict(collate([data[row] for row in rows]))
            tokens = inputs["attention_mask"].bool(), inputs["labels"].ne(IGNORE_INDEX)
            outputs = cache.unpack(cache.read(rows, states=states), *tokens)
            for name, error in compare(module, teacher, outputs, inputs).items():
                errors.setdefault(name, []).append(error)
    figures = {f"relative error of {name}": spread(values) for name, values in errors.items()}
    return {"KB per sentence": size / len(data) / 1000, **figures}


def compare(module: Distillation, teacher: Any, cached: Outputs, inputs: Any) -> dict[str, float]:
    """Compute relative errors from cached outputs in the terms, in the loss and its gradient."""
    with torch.no_grad():
        live = model_outputs(teacher, inputs, module.needs)
    values, gradients = [], []
    for outputs in (live, cached):
        module.zero_grad()
        sums = module(**inputs, teacher=outputs)
        loss = sum(sums[term.name] for term in module.objective.trained_terms)
        loss.backward()
        terms = {term.name: sums[term.name].item() for term in module.objective.terms}
        values.append({**terms, "the loss": loss.item()})
        gradients.append(
            torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        )
    errors = {name: abs(values[1][name] / value - 1) for name, value in values[0].items()}
    return errors | {"the gradient": relative_error(gradients[1], gradients[0])}


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Divide the length of the difference by the length of the reference."""
    return float((value - reference).norm() / reference.norm())


if __name__ == "__main__":
    main()
