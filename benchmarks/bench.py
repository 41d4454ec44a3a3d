"""Measure what distillation costs, as ratios of steps that run in turn on this machine.

    python benchmarks/bench.py                                        # the deciding settings
    python benchmarks/bench.py --full                                 # all of them
    python benchmarks/bench.py --full --only "bf16 4096" --name some  # some of them

Results are written to benchmarks/results/latest.json, or gpu.json on a machine with a GPU.

Steps are timed in alternation, in two processes of which one always waits. Ratios are formed round
by round, and medians reported. Peak memory is that of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from parts import epochs
from rich.console import Console
from steps import STEPS, Setting, batches
from tables import RESULTS, machine, require_idle, show, spread, write
from teams import BATCHES, MEMBERS, PLAIN, YARDSTICK, Team

from a2d.machine import peak_memory
from a2d.models.tokenizer import train_tokenizer
from a2d.progress import silence_libraries
from a2d.text.batching import TokenBatchSampler, lengths, tokenise
from a2d.text.corpus import read_corpus
from a2d.training.config import bf16_is_fast

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"

PAPER = Setting(teacher=(6, 6, 4, 512, 1024), student=(3, 3, 8, 512, 1024), device=DEVICE)
OPUS = Setting(teacher=(6, 6, 8, 512, 2048), student=(6, 2, 8, 512, 2048), device=DEVICE)

RATIOS = (
    ("a2d", "vanilla kd"),
    ("a2d, bf16 teacher", "vanilla kd"),
    ("our kd", "vanilla kd"),
    ("a2d", "our kd"),
    ("a2d", "naive a2d"),
    ("a2d, cached", "student"),
    ("our student", "student"),
    ("attention loss", "naive attention loss"),
    ("attention loss", "a2d"),
)

AUTHORS = {1024: (3.52, 1.55), 4096: (13.45, 6.18)}
"""Tokens of a batch → seconds of the authors' step as released and of `student`, once measured
together (fp32, one thread, sentences of 25, vocabulary 8000). Their code cannot run here, so that
`student` is the yardstick."""

CORPUS = "the embedded corpus"

WARM_UP = 2 * BATCHES
"""Rounds whose times are not counted."""

OUT_OF_MEMORY = (BrokenProcessPool, torch.OutOfMemoryError)
"""Errors if the system kills a process for its memory, or the GPU's memory is full."""

Figures = dict[str, Any]


def main() -> None:
    """Measure, show and write."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    silence_libraries()
    if arguments.peak:
        name, setting = arguments.peak
        print(peak(name, Setting(*json.loads(setting))))
        return
    console = Console()
    busy = require_idle(arguments.busy)
    figures: Figures = {"machine": machine(arguments.threads, arguments.rounds, busy)}

    def add(title: str, part: Figures, suffix: str = "") -> None:
        show(title, part, console)
        figures.update({f"{name}{suffix}": figure for name, figure in part.items()})
        if arguments.name:  # in a file of its own, so that an interruption loses nothing
            write(f"{arguments.name}.part", figures)

    for setting in settings(arguments.full):
        if re.search(arguments.only, setting.name):
            try:
                part = measure(setting, arguments.rounds, arguments.threads, console)
                add(setting.name, part, f", {setting.name}")
            except OUT_OF_MEMORY:
                console.print(f"{setting.name}: left out, because it needs too much memory.")
    for setting in memory_settings(arguments.full):
        if re.search(arguments.only, setting.name):
            part = memory(setting, list(STEPS) if arguments.full else ["vanilla kd", "a2d"])
            add(f"{setting.name}: peak memory", part, f", {setting.name}")
    if re.search(arguments.only, CORPUS):
        add(CORPUS, corpus_figures())
    if arguments.name:
        console.print(f"Results: {write(arguments.name, figures)}")
        (RESULTS / f"{arguments.name}.part.json").unlink(missing_ok=True)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="measure all settings")
    parser.add_argument(
        "--only",
        default="",
        help="settings whose names match; nothing is written without --name",
        metavar="REGEX",
    )
    parser.add_argument("--name", help="name of the file in results")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds after the warm-up")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, too")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.name and not arguments.only:
        arguments.name = "full" if arguments.full else "gpu" if CUDA else "latest"
    return arguments


def settings(full: bool) -> Iterator[Setting]:
    """Yield the settings to time, the deciding ones first."""
    dtypes = [False, True] if bf16_is_fast() else [False]
    for bf16, tokens in itertools.product(dtypes, [1024, 16384] if CUDA else [1024]):
        yield PAPER._replace(tokens=tokens, bf16=bf16)
    if not full:
        return
    axes = [False, True], [1024, 4096, 16384], [12, 25, 100, 512], [8000, 32000, 60000]
    for bf16, tokens, length, vocabulary in itertools.product(*axes):
        sizes = OPUS if vocabulary == 60000 else PAPER
        if (vocabulary, length, tokens) != (8000, 25, 1024):  # the first ones above
            yield sizes._replace(vocabulary=vocabulary, length=length, tokens=tokens, bf16=bf16)


def memory_settings(full: bool) -> Iterator[Setting]:
    """Yield the settings whose memory is measured: sentences of 512 tokens."""
    for tokens in [2048, 8192] if full else [2048]:
        yield PAPER._replace(length=512, tokens=tokens)


def measure(setting: Setting, rounds: int, threads: int, console: Console) -> Figures:
    """Measure the seconds of all steps and the ratios between them: median, lowest, highest."""
    return summarise(setting, *_alternate(setting, rounds, threads, console))


def summarise(
    setting: Setting,
    seconds: dict[str, list[float]],
    profiles: dict[str, dict[str, float]],
) -> Figures:
    """Summarise seconds by step and round, and shares of steps by kind of work."""
    figures: Figures = {f"seconds: {name}": spread(values) for name, values in seconds.items()}
    pairs = [pair for pair in RATIOS if pair[0] in seconds]
    figures |= {f"{one} ÷ {other}": ratio(seconds[one], seconds[other]) for one, other in pairs}
    added = [a - b for a, b in zip(seconds["a2d"], seconds["our kd"], strict=True)]
    figures["attention transfer ÷ a2d"] = ratio(added, seconds["a2d"])
    for name, kinds in profiles.items():
        for kind, share in kinds.items():
            seconds_of_kind = [share * second for second in seconds[name]]
            key = f"{kind} of {name} ÷ vanilla kd"
            figures[key] = ratio(seconds_of_kind, seconds["vanilla kd"])
    if YARDSTICK in seconds:
        authors, student = AUTHORS[setting.tokens]
        authors_seconds = [authors / student * second for second in seconds[YARDSTICK]]
        for name in ("a2d", "a2d, cached"):
            figures[f"authors' code ÷ {name}"] = ratio(authors_seconds, seconds[name])
        products = [profiles["a2d"]["matrix products"] * second for second in seconds["a2d"]]
        figures["authors' code ÷ matrix products of a2d"] = ratio(authors_seconds, products)
    return figures


def _alternate(
    setting: Setting, rounds: int, threads: int, console: Console
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Measure seconds of all steps, round by round, and profiles of the deciding ones."""
    names = [name for name in MEMBERS if applies(name, setting)]
    plain, package = ([n for n in names if (n in PLAIN) == side] for side in (True, False))
    with (
        tempfile.TemporaryDirectory() as folder,
        console.status(f"{setting.name}…"),
        Team(setting, plain, threads, Path(folder)) as plain_team,
        Team(setting, package, threads, Path(folder)) as package_team,
    ):
        teams = {name: plain_team if name in PLAIN else package_team for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(WARM_UP + rounds):
            for name in names if number // BATCHES % 2 else reversed(names):
                step_seconds = teams[name].seconds(name, number)
                if number >= WARM_UP:
                    seconds[name].append(step_seconds)
        # On GPU, times of operations do not add up to the step's, because kernels run later.
        profiled = () if CUDA else ("vanilla kd", "our kd", "a2d")
        return seconds, {name: teams[name].profile(name) for name in profiled}


def applies(name: str, setting: Setting) -> bool:
    """Check whether a step differs from the others in a setting."""
    if name == "a2d, bf16 teacher":
        return not setting.bf16
    if name == YARDSTICK:
        sizes = setting.length, setting.vocabulary
        return setting.tokens in AUTHORS and sizes == (25, 8000) and not CUDA
    return True


def ratio(ones: list[float], others: list[float]) -> dict[str, float]:
    """Summarise the ratios of figures from the same rounds."""
    return spread([one / other for one, other in zip(ones, others, strict=True)])


def memory(setting: Setting, names: list[str]) -> Figures:
    """Measure the peak memory of steps' processes in GiB, and the ratio of a2d to vanilla kd.

    On CPU it is measured twice, in alternation; the GPU's allocator counts exactly.
    """
    command = [sys.executable, __file__, "--peak"]
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(1 if CUDA else 2):
        for name in names:
            output = subprocess.check_output([*command, name, json.dumps(setting)])
            peaks[name].append(float(output) / 2**30)
    figures: Figures = {f"peak GiB: {name}": spread(values) for name, values in peaks.items()}
    figures["peak: a2d ÷ vanilla kd"] = ratio(peaks["a2d"], peaks["vanilla kd"])
    return figures


def peak(name: str, setting: Setting) -> float:
    """Measure the largest memory of a few steps in bytes, models included."""
    data = batches(setting, 2)
    with tempfile.TemporaryDirectory() as folder:
        step = STEPS[name](setting, data, Path(folder))
        for batch in data:
            step(batch)
    if setting.device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return float(peak_memory())


def corpus_figures() -> Figures:
    """Measure the padding share by token budget, and an epoch, on the embedded corpus."""
    pairs = read_corpus("builtin:de-dsb/train")
    sizes = lengths(tokenise(pairs, train_tokenizer((t for pair in pairs for t in pair), 4000)))
    figures: Figures = {
        f"padding share at {budget} tokens": TokenBatchSampler(sizes, budget).padding_share()
        for budget in (512, 1024, 4096)
    }
    values_by_round = epochs(("baseline", "kd", "a2d"), 3)
    figures |= {name: spread(values) for name, values in values_by_round.items()}
    a2d, kd = (values_by_round[f"seconds of an epoch: {method}"] for method in ("a2d", "kd"))
    figures["epoch: a2d ÷ kd"] = ratio(a2d, kd)
    return figures


if __name__ == "__main__":
    main()
