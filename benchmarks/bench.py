"""Measure what distillation costs, as ratios of steps that run in turn on this machine.

    python benchmarks/bench.py            # what decides; writes benchmarks/results/latest.json
    python benchmarks/bench.py --full     # every precision, length, batch and vocabulary as well

Times are taken in alternation in one process, ratios formed round by round, medians quoted. Peak
memory is that of a process which does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from steps import STEPS, Setting, Step, batches, steps

from a2d.batching import TokenBatchSampler, lengths, tokenise
from a2d.config import bf16_pays
from a2d.corpus import read_corpus
from a2d.progress import silence_libraries
from a2d.tokenizer import train_tokenizer
from a2d.training import processor

RESULTS = Path(__file__).parent / "results"
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"

PAPER = {"teacher": (6, 6, 4, 512, 1024), "student": (3, 3, 8, 512, 1024)}
OPUS = {"teacher": (6, 6, 8, 512, 2048), "student": (6, 2, 8, 512, 2048)}

RATIOS = {
    "a2d ÷ vanilla kd": ("a2d", "vanilla kd"),
    "a2d ÷ our kd": ("a2d", "our kd"),
    "a2d ÷ naive a2d": ("a2d", "naive a2d"),
    "a2d, cached ÷ student": ("a2d, cached", "student"),
    "our student ÷ student": ("our student", "student"),
}

AUTHORS = {1024: (3.52, 1.55), 4096: (13.45, 6.18)}
"""Seconds of the authors' step as shipped and of `student`, once measured together (fp32, one
thread, sentences of 25): their code cannot be run here, so `student` is the yardstick."""

BUSY = 0.25
"""Processor time of others, in cores, above which nothing is judged."""


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="every setting")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, after two that warm up")
    parser.add_argument("--busy", action="store_true", help="measure although others compute")
    parser.add_argument("--threads", type=int, default=1, help="threads on a processor")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    silence_libraries()
    if given.peak:
        print(peak(given.peak[0], Setting(*json.loads(given.peak[1]))))
        return
    console = Console()
    others = busy()
    if others > BUSY and not given.busy:
        sys.exit(
            f"other processes keep {others:.1f} cores busy: ratios would say little. Wait, or "
            "measure all the same with --busy."
        )
    figures: dict[str, Any] = {}
    for setting in settings(given.full):
        found = measure(setting, given.rounds, console)
        figures |= {f"{name}, {setting.name}": figure for name, figure in found.items()}
        show(setting.name, found, console)
    rest: dict[str, Any] = corpus_figures()
    for setting in memory_settings(given.full):
        rest[f"peak memory: a2d ÷ vanilla kd, {setting.name}"] = memory(setting)
    show("memory and padding", rest, console)
    figures |= rest
    figures["machine"] = machine(given, others)
    RESULTS.mkdir(exist_ok=True)
    name = "full.json" if given.full else "latest.json"
    (RESULTS / name).write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    console.print(f"Written to {RESULTS / name}.")


def settings(full: bool) -> Iterator[Setting]:
    """What to measure, the deciding settings first."""
    precisions = [False, True] if bf16_pays() else [False]
    for bf16, tokens in itertools.product(precisions, [1024, 16384] if CUDA else [1024]):
        yield Setting(**PAPER, vocabulary=8000, length=25, tokens=tokens, bf16=bf16, device=DEVICE)
    if not full:
        return
    axes = [False, True], [1024, 4096, 16384], [12, 25, 100, 512], [8000, 32000, 60000]
    for bf16, tokens, length, words in itertools.product(*axes):
        sizes = OPUS if words == 60000 else PAPER
        rest = {"vocabulary": words, "length": length, "tokens": tokens, "bf16": bf16}
        yield Setting(**sizes, **rest, device=DEVICE)


def memory_settings(full: bool) -> Iterator[Setting]:
    """Where memory is measured: sentences of 512 tokens."""
    for tokens in [2048, 8192] if full else [2048]:
        rest = {"vocabulary": 8000, "length": 512, "tokens": tokens, "bf16": False}
        yield Setting(**PAPER, **rest, device=DEVICE)


def measure(setting: Setting, rounds: int, console: Console) -> dict[str, Any]:
    """Seconds of every step and the ratios between them: median, lowest, highest."""
    data = batches(setting, rounds + 2)
    names = list(STEPS)
    with tempfile.TemporaryDirectory() as folder, console.status(f"{setting.name}…"):
        made = steps(setting, names, data, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number, batch in enumerate(data):
            for name in names if number % 2 else reversed(names):
                taken = timed(made[name], batch, setting.device)
                if number >= 2:
                    seconds[name].append(taken)
    figures = {f"seconds: {name}": spread(values) for name, values in seconds.items()}
    for name, (one, other) in RATIOS.items():
        pairs = zip(seconds[one], seconds[other], strict=True)
        figures[name] = spread([a / b for a, b in pairs])
    pairs = zip(seconds["a2d"], seconds["our kd"], strict=True)
    figures["attention transfer ÷ a2d"] = spread([1 - b / a for a, b in pairs])
    if setting.tokens in AUTHORS and setting.length == 25 and not setting.bf16:
        authors, yardstick = AUTHORS[setting.tokens]
        pairs = zip(seconds["student"], seconds["a2d"], strict=True)
        figures["authors' code ÷ a2d"] = spread([authors / yardstick * a / b for a, b in pairs])
    return figures


def timed(step: Step, batch: Any, device: str) -> float:
    """Seconds of one step."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step(batch)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def memory(setting: Setting) -> dict[str, float]:
    """Peak memory of a2d's process over that of vanilla KD's, three times."""
    command = [sys.executable, __file__, "--peak"]
    ratios = []
    for _ in range(3):
        peaks = [
            float(subprocess.check_output([*command, name, json.dumps(setting)]))
            for name in ("a2d", "vanilla kd")
        ]
        ratios.append(peaks[0] / peaks[1])
    return spread(ratios)


def peak(name: str, setting: Setting) -> float:
    """Bytes that a few steps need at most, models included."""
    data = batches(setting, 2)
    with tempfile.TemporaryDirectory() as folder:
        step = steps(setting, [name], data, Path(folder))[name]
        for batch in data:
            step(batch)
    if setting.device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def corpus_figures() -> dict[str, float]:
    """Padding share on the embedded corpus, by token budget."""
    pairs = read_corpus("builtin:de-dsb/train")
    sizes = lengths(tokenise(pairs, train_tokenizer((t for pair in pairs for t in pair), 4000)))
    return {
        f"padding share at {budget} tokens": TokenBatchSampler(sizes, budget).padding_share()
        for budget in (512, 1024, 4096)
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def show(title: str, figures: dict[str, Any], console: Console) -> None:
    """Print a small table."""
    table = Table(title=title, title_justify="left", box=None)
    for column in ("", "median", "low", "high"):
        table.add_column(column, justify="left" if not column else "right")
    for name, figure in figures.items():
        values = figure.values() if isinstance(figure, dict) else [figure]
        table.add_row(name, *(f"{value:.3f}" for value in values))
    console.print(table)


def busy(seconds: float = 2.0) -> float:
    """Cores that other processes keep busy, watched for some seconds; 0 where it cannot be seen."""
    try:
        start = _working()
        time.sleep(seconds)
        return (_working() - start) / os.sysconf("SC_CLK_TCK") / seconds
    except OSError:
        return 0.0


def _working() -> int:
    """Ticks that all processors have spent working."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return user + nice + system


def machine(given: argparse.Namespace, others: float) -> dict[str, Any]:
    """What the figures were measured on."""
    card = torch.cuda.get_device_name() if CUDA else None
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "card": card,
        "threads": given.threads,
        "rounds": given.rounds,
        "cores busy with other things": round(others, 2),
        "versions": {name: version(name) for name in ("torch", "transformers", "align-to-distill")},
    }


if __name__ == "__main__":
    main()
