"""Measure training steps on a GPU: seconds, memory, and the time without a running kernel.

    python benchmarks/gpu_steps.py DIR

DIR then holds `steps.json`, in the format of benchmarks/results/gpu.json, and `steps.kernels.json`.
All steps run in this process, in alternation, in bf16. Memory is what a step adds at its peak to
the memory of models and optimisers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench import PAPER, WARM_UP, applies, summarise
from parts import kernel_profile
from steps import Setting, batches, prepared_students
from tables import machine
from teams import BATCHES, MEMBERS, seconds_of

from a2d.progress import silence_libraries

TOKENS = (1024, 4096, 16384)
TINY = Setting(
    (1, 1, 2, 32, 64), (1, 1, 4, 32, 64), vocabulary=100, length=6, tokens=64, device=PAPER.device
)
PROFILED = ("our kd", "a2d")


def main() -> None:
    """Measure, and write after each setting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="tiny models, one round")
    arguments = parser.parse_args()
    silence_libraries()
    rounds = 1 if arguments.smoke else arguments.rounds
    settings = [PAPER._replace(tokens=tokens, bf16=True) for tokens in TOKENS]
    steps: dict[str, Any] = {"machine": machine(torch.get_num_threads(), rounds, 0.0)}
    kernels: dict[str, Any] = {}
    for setting in [TINY] if arguments.smoke else settings:
        print(f"{setting.name} …", flush=True)
        try:
            figures, profiles = measure(setting, rounds)
        except torch.OutOfMemoryError:
            print(f"{setting.name}: left out, because it needs too much memory.", flush=True)
            continue
        finally:
            prepared_students.close()
        steps |= {f"{name}, {setting.name}": figure for name, figure in figures.items()}
        kernels[setting.name] = profiles
        for name, content in (("steps", steps), ("steps.kernels", kernels)):
            text = json.dumps(content, indent=1, ensure_ascii=False)
            (arguments.folder / f"{name}.json").write_text(text + "\n", "utf-8")


def measure(setting: Setting, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure all steps in a setting.

    Returns:
        Figures as those of `bench.measure`, with memory; profiles of the steps `PROFILED`.
    """
    data = batches(setting, BATCHES)
    names = [name for name in MEMBERS if applies(name, setting)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: MEMBERS[name](setting, data, Path(folder)) for name in names}
        for number in range(WARM_UP + rounds):
            for name in names if number // BATCHES % 2 else reversed(names):
                step_seconds = seconds_of(steps[name], data[number % BATCHES])
                if number >= WARM_UP:
                    seconds[name].append(step_seconds)
        figures = summarise(setting, seconds, {})
        if setting.device == "cuda":
            for name in names:
                figures[f"GiB added by a step: {name}"] = added_memory(steps[name], data[0])
        profiles = {
            name: kernel_profile(steps[name], data[0], figures[f"seconds: {name}"]["median"])
            for name in PROFILED
        }
    return figures, profiles


def added_memory(step: Any, batch: Any) -> float:
    """Measure how much GPU memory a step needs beside models and optimiser states, in GiB."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(batch)
    return (torch.cuda.max_memory_allocated() - before) / 2**30


if __name__ == "__main__":
    main()
