"""Train a student with each of several schedules, and write what validation says of each.

    python tools/schedule_search.py --teacher FOLDER --train FILE --valid FILE --pairs 1000 \\
        --out results.jsonl shape=2x1,tokens=512,lr=1e-3,updates=400 …

A trial names the student's `shape` (as `a2d distill --student` does), its `start` (`teacher`:
pruned and fitted; `sliced`: pruned, not fitted; `random`), `tokens` a batch, peak `lr` and
`updates`. `patience` (validations; 0: a linear decay over all updates), `warmup` (updates),
`every` (updates between validations), `method`, `beta`, `decay`, `until` (`beta_until`; 0: β does
not fall), `alpha` and `seed` have defaults. `through=SHAPE,first=UPDATES` first trains a larger
student, from which the trial's then starts. `release=1` sets β to zero at the first validation
whose attention loss is not 1% below the least one before. Every trial is a line of JSON: its
settings, the best validation BLEU and chrF, seconds, and the curve.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from a2d.families import family_of, sizes_of
from a2d.method.attention import GROUPS
from a2d.models.activations import sample_text
from a2d.models.loading import count_parameters, load_model, new_model
from a2d.models.presets import complete_shape, parse_shape
from a2d.models.pruning import choose_subspaces, take_weights
from a2d.models.students import name_layers, student_of
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import silence_libraries
from a2d.text.batching import tokenise
from a2d.text.cleaning import clean
from a2d.text.corpus import read_corpus
from a2d.text.pairs import Pair
from a2d.training.config import A2DConfig
from a2d.training.trainer import A2DTrainer

DEFAULTS: dict[str, Any] = {
    "tokens": 512,
    "lr": 1e-3,
    "updates": 1000,
    "warmup": 50,
    "every": 100,
    "patience": 0,
    "method": "a2d",
    "beta": 1.0,
    "decay": 1.0,
    "until": 0.0,
    "release": 0,
    "alpha": 0.5,
    "seed": 1,
    "shape": "2x1",
    "start": "teacher",
    "through": "",
    "first": 0,
}


def parse_trial(text: str) -> dict[str, Any]:
    """Settings of a trial, from `key=value,…`."""
    trial = dict(DEFAULTS)
    for item in text.split(","):
        key, value = item.split("=")
        trial[key] = type(DEFAULTS[key])(value)
    return trial


def start_student(
    teacher: PreTrainedModel, trial: dict[str, Any], inputs: dict[str, Any]
) -> PreTrainedModel:
    """Make the student of a trial."""
    shape = complete_shape(sizes_of(teacher.config), parse_shape(trial["shape"]))
    if trial["start"] == "random" and family_of(teacher.config).scratch:
        dropout = sizes_of(teacher.config)["dropout"]
        return new_model(inputs["tokenizer"], **shape, dropout=dropout)
    if trial["start"] == "teacher":
        return student_of(teacher, **shape, sample=inputs["train"])
    student = student_of(teacher, **shape, start="random")
    if trial["start"] == "random":
        return student
    names = name_layers(teacher, student)
    text = sample_text(inputs["train"], teacher)
    take_weights(teacher, student, names, choose_subspaces(teacher, student, names, text))
    return student


class ReleaseAttention(TrainerCallback):
    """Callback that sets β to zero once the attention loss on validation has stopped falling."""

    def __init__(self, trainer: A2DTrainer) -> None:
        self.trainer = trainer
        self.least = float("inf")

    def on_evaluate(self, *arguments: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        """Compare the attention loss with the least one so far."""
        terms = [term for term in self.trainer.objective.terms if term.name in GROUPS]
        loss = sum(term.weight * metrics[f"eval_{term.name}"] for term in terms)
        if loss > 0.99 * self.least:
            self.trainer.objective = self.trainer.objective._replace(beta=0.0)
        self.least = min(self.least, loss)


def fit(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    trial: dict[str, Any],
    inputs: dict[str, Any],
) -> tuple[A2DTrainer, float]:
    """Train a student; its trainer and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        config = A2DConfig(
            output_dir=folder,
            method=trial["method"],
            alpha=trial["alpha"],
            beta=trial["beta"],
            decay=trial["decay"],
            beta_until=trial["until"] or None,
            max_tokens=trial["tokens"],
            learning_rate=trial["lr"],
            max_steps=trial["updates"],
            warmup_steps=trial["warmup"],
            lr_scheduler_type="linear",
            plateau_patience=trial["patience"] or None,
            max_grad_norm=1.0,
            seed=trial["seed"],
            eval_strategy="steps",
            eval_steps=trial["every"],
            save_strategy="no",
            logging_steps=trial["every"],
            metric_for_best_model="bleu",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = A2DTrainer(
            student, teacher, config, inputs["train"], inputs["valid"], inputs["tokenizer"]
        )
        trainer.remove_callback(PrinterCallback)
        if trial["release"]:
            trainer.add_callback(ReleaseAttention(trainer))
        started = time.perf_counter()
        trainer.train()
        return trainer, time.perf_counter() - started


def train(trial: dict[str, Any], inputs: dict[str, Any], options: argparse.Namespace) -> Any:
    """Train a student, perhaps in two steps; its best validation scores and its curve."""
    teacher = load_model(options.teacher)
    torch.manual_seed(trial["seed"])
    larger, before = teacher, 0.0
    if trial["through"]:
        first = {**trial, "shape": trial["through"], "updates": trial["first"]}
        larger = start_student(teacher, first, inputs)
        _, before = fit(larger, teacher, first, inputs)
    student = start_student(larger, trial, inputs)
    trainer, seconds = fit(student, teacher, trial, inputs)
    log = [entry for entry in trainer.state.log_history if "eval_bleu" in entry]
    best = max(log, key=lambda entry: entry["eval_bleu"])
    return {
        "bleu": best["eval_bleu"],
        "chrf": best["eval_chrf"],
        "best_step": best["step"],
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": before + seconds,
        "validating": sum(entry["eval_runtime"] for entry in log),
        "student": count_parameters(student),
        "teacher": count_parameters(teacher),
        "curve": [[e["step"], e["eval_bleu"], e["eval_chrf"], e["eval_ce"]] for e in log],
    }


def main() -> None:
    """Run all trials, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("teacher", "train", "valid", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("trials", nargs="+", type=parse_trial)
    options = parser.parse_args()
    silence_libraries()
    tokenizer = load_tokenizer(options.teacher)
    pairs: list[Pair] = clean(read_corpus(options.train))[0]
    step = len(pairs) / options.pairs
    pairs = [pairs[int(step * number)] for number in range(min(options.pairs, len(pairs)))]
    inputs = {
        "tokenizer": tokenizer,
        "train": tokenise(pairs, tokenizer),
        "valid": tokenise(read_corpus(options.valid)[: options.held_out], tokenizer),
    }
    tokens = sum(map(len, inputs["train"]["labels"]))
    for trial in options.trials:
        result = train(trial, inputs, options)
        line = {
            "pairs": options.pairs,
            "target_tokens": tokens,
            "corpus": Path(options.train).parent.name,
            **trial,
            **result,
        }
        with Path(options.out).open("a") as file:
            file.write(json.dumps(line) + "\n")
        summary = {k: v for k, v in line.items() if k not in ("curve", "corpus")}
        print(summary, flush=True)


if __name__ == "__main__":
    main()
