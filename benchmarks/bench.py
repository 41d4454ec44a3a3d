"""Measure what distillation costs, as ratios of steps that run in turn on this machine.

    python benchmarks/bench.py            # what decides; writes benchmarks/results/latest.json,
                                          # or card.json where there is a graphics card
    python benchmarks/bench.py --full     # every precision, length, batch and vocabulary as well
    python benchmarks/bench.py --full --only "bf16 4096" --name some      # some of them

Times are taken in alternation, in two processes of which one always waits, ratios formed round by
round, medians quoted. Peak memory is that of a process which does nothing else.
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
from tables import RESULTS, alone, machine, show, spread, write
from teams import BATCHES, LIBRARY, MEMBERS, YARDSTICK, Team

from a2d.models.tokenizer import train_tokenizer
from a2d.progress import silence_libraries
from a2d.text.batching import TokenBatchSampler, lengths, tokenise
from a2d.text.corpus import read_corpus
from a2d.training.config import bf16_pays

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"

PAPER = {"teacher": (6, 6, 4, 512, 1024), "student": (3, 3, 8, 512, 1024)}
OPUS = {"teacher": (6, 6, 8, 512, 2048), "student": (6, 2, 8, 512, 2048)}

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
"""Seconds of the authors' step as shipped and of `student`, once measured together (fp32, one
thread, sentences of 25, 8000 words): their code cannot be run here, so `student` is the
yardstick."""

CORPUS = "the embedded corpus"

WARM_UP = 2 * BATCHES
"""Rounds whose times are not counted."""

OUT_OF_MEMORY = (BrokenProcessPool, torch.OutOfMemoryError)
"""What is raised here when the system ends a process, or a card is full."""


def main() -> None:
    """Measure, show and write."""
    given = arguments()
    torch.set_num_threads(given.threads)
    silence_libraries()
    if given.peak:
        print(peak(given.peak[0], Setting(*json.loads(given.peak[1]))))
        return
    console = Console()
    figures: dict[str, Any] = {"machine": machine(given.threads, given.rounds, alone(given.busy))}

    def add(title: str, found: dict[str, Any], suffix: str = "") -> None:
        show(title, found, console)
        figures.update({f"{name}{suffix}": figure for name, figure in found.items()})
        if given.name:
            # What is interrupted keeps what it has, and what was there.
            write(f"{given.name}.part", figures)

    for setting in settings(given.full):
        if re.search(given.only, setting.name):
            try:
                add(setting.name, measure(setting, given, console), f", {setting.name}")
            except OUT_OF_MEMORY:
                console.print(f"{setting.name}: left out, it needs more memory than there is.")
    for setting in memory_settings(given.full):
        if re.search(given.only, setting.name):
            found = memory(setting, list(STEPS) if given.full else ["vanilla kd", "a2d"])
            add(f"{setting.name}: peak memory", found, f", {setting.name}")
    if re.search(given.only, CORPUS):
        add(CORPUS, corpus_figures())
    if given.name:
        console.print(f"Written to {write(given.name, figures)}.")
        (RESULTS / f"{given.name}.part.json").unlink()


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="every setting")
    parser.add_argument(
        "--only", default="", help="settings whose names match this; just shown", metavar="REGEX"
    )
    parser.add_argument("--name", help="of the file in results, where it is to be another")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, after those that warm up")
    parser.add_argument("--busy", action="store_true", help="measure although others compute")
    parser.add_argument("--threads", type=int, default=1, help="threads on a processor")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.name and not given.only:
        given.name = "full" if given.full else "card" if CUDA else "latest"
    return given


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
        if (words, length, tokens) != (8000, 25, 1024):  # which comes first of all
            yield Setting(**sizes, **rest, device=DEVICE)


def memory_settings(full: bool) -> Iterator[Setting]:
    """Where memory is measured: sentences of 512 tokens."""
    for tokens in [2048, 8192] if full else [2048]:
        rest = {"vocabulary": 8000, "length": 512, "tokens": tokens, "bf16": False}
        yield Setting(**PAPER, **rest, device=DEVICE)


def measure(setting: Setting, given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Seconds of every step and the ratios between them: median, lowest, highest."""
    seconds, profiles = _alternate(setting, given, console)
    figures = {f"seconds: {name}": spread(values) for name, values in seconds.items()}
    pairs = [pair for pair in RATIOS if pair[0] in seconds]
    figures |= {f"{one} ÷ {other}": ratio(seconds[one], seconds[other]) for one, other in pairs}
    added = [a - b for a, b in zip(seconds["a2d"], seconds["our kd"], strict=True)]
    figures["attention transfer ÷ a2d"] = ratio(added, seconds["a2d"])
    for name, kinds in profiles.items():
        for kind, part in kinds.items():
            spent = [part * second for second in seconds[name]]
            figures[f"{kind} of {name} ÷ vanilla kd"] = ratio(spent, seconds["vanilla kd"])
    if YARDSTICK in seconds:
        authors, student = AUTHORS[setting.tokens]
        theirs = [authors / student * second for second in seconds[YARDSTICK]]
        for name in ("a2d", "a2d, cached"):
            figures[f"authors' code ÷ {name}"] = ratio(theirs, seconds[name])
        products = [profiles["a2d"]["matrix products"] * second for second in seconds["a2d"]]
        figures["authors' code ÷ matrix products of a2d"] = ratio(theirs, products)
    return figures


def _alternate(
    setting: Setting, given: argparse.Namespace, console: Console
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Seconds of every step, round by round, and profiles of those that decide."""
    names = [name for name in MEMBERS if _has_sense(name, setting)]
    theirs, own = ([n for n in names if (n in LIBRARY) == side] for side in (True, False))
    with (
        tempfile.TemporaryDirectory() as folder,
        console.status(f"{setting.name}…"),
        Team(setting, theirs, given.threads, Path(folder)) as library,
        Team(setting, own, given.threads, Path(folder)) as ours,
    ):
        teams = {name: library if name in LIBRARY else ours for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(WARM_UP + given.rounds):
            for name in names if number // BATCHES % 2 else reversed(names):
                taken = teams[name].seconds(name, number)
                if number >= WARM_UP:
                    seconds[name].append(taken)
        # A card works while the processor goes on: times of kernels do not add up to a step's.
        looked_at = () if CUDA else ("vanilla kd", "our kd", "a2d")
        return seconds, {name: teams[name].profile(name) for name in looked_at}


def _has_sense(name: str, setting: Setting) -> bool:
    if name == "a2d, bf16 teacher":
        return not setting.bf16  # where the teacher is bf16 anyhow
    if name == YARDSTICK:
        sizes = setting.length, setting.vocabulary
        return setting.tokens in AUTHORS and sizes == (25, 8000) and not CUDA
    return True


def ratio(ones: list[float], others: list[float]) -> dict[str, float]:
    """Of figures measured in the same rounds."""
    return spread([one / other for one, other in zip(ones, others, strict=True)])


def memory(setting: Setting, names: list[str]) -> dict[str, Any]:
    """Peak memory of steps' processes, in GiB, and a2d's over KD's.

    Twice in alternation on a processor; a card's allocator counts exactly.
    """
    command = [sys.executable, __file__, "--peak"]
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(1 if CUDA else 2):
        for name in names:
            told = subprocess.check_output([*command, name, json.dumps(setting)])
            peaks[name].append(float(told) / 2**30)
    figures = {f"peak GiB: {name}": spread(values) for name, values in peaks.items()}
    figures["peak: a2d ÷ vanilla kd"] = ratio(peaks["a2d"], peaks["vanilla kd"])
    return figures


def peak(name: str, setting: Setting) -> float:
    """Bytes that a few steps need at most, models included."""
    data = batches(setting, 2)
    with tempfile.TemporaryDirectory() as folder:
        step = STEPS[name](setting, data, Path(folder))
        for batch in data:
            step(batch)
    if setting.device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    # Not getrusage's maximum: a process inherits that of the one which started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return float(peak) * 1024


def corpus_figures() -> dict[str, Any]:
    """Of the embedded corpus: padding share by token budget, and what an epoch takes."""
    pairs = read_corpus("builtin:de-dsb/train")
    sizes = lengths(tokenise(pairs, train_tokenizer((t for pair in pairs for t in pair), 4000)))
    figures: dict[str, Any] = {
        f"padding share at {budget} tokens": TokenBatchSampler(sizes, budget).padding_share()
        for budget in (512, 1024, 4096)
    }
    found = epochs(("baseline", "kd", "a2d"), 3)
    figures |= {name: spread(values) for name, values in found.items()}
    key = "seconds of an epoch: "
    figures["epoch: a2d ÷ kd"] = ratio(found[f"{key}a2d"], found[f"{key}kd"])
    return figures


if __name__ == "__main__":
    main()
