"""Carry out everything that needs a GPU within a time budget: CUDA tests, steps, trainings.

    python benchmarks/gpu.py --out DIR --minutes 10

Each part is a process of its own, with a log file. A part that fails, or whose time is over, does
not end the others. DIR then holds at most eight files, each below 16 MiB, and `summary.json`
describes them. Arguments KEY=VALUE change settings of the recipe. `--device cpu --smoke` tries the
program without a GPU. The program needs no installation: packages that are missing only disable the
parts that use them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

LIMIT = 15 * 2**20
"""Largest size of a file in the output folder, in bytes."""

PACKAGES = (
    *("accelerate", "datasets", "filelock", "numpy", "pydantic", "rich", "sacrebleu"),
    *("safetensors", "tensorboard", "tokenizers", "torch", "tqdm", "transformers", "yaml"),
)
"""Modules that all parts import."""

GRACE = 5.0
"""Seconds that a part has to end by itself after its time is over."""

STATES = {"checkpoints", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
"""Files and folders of a run that are never packed."""


class Part(NamedTuple):
    """A part of the programme.

    Attributes:
        share: share of the budget that it may use.
        packages: modules that it imports besides `PACKAGES`.
    """

    share: float
    packages: tuple[str, ...] = ()


PARTS = {
    "tests": Part(0.2, ("hypothesis", "pytest")),
    "steps": Part(0.25),
    "training": Part(1.0, ("jinja2", "matplotlib", "typer")),
}


def main(words: Sequence[str] | None = None) -> None:
    """Carry out the parts, and describe them in `summary.json`."""
    arguments = parse_arguments(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    out: Path = arguments.out.resolve()
    parts: dict[str, Any] = {}
    summary = {"device": arguments.device, "begin": time.strftime("%F %T"), "parts": parts}
    budget = 60 * arguments.minutes
    end = time.monotonic() + budget - min(20.0, 0.05 * budget)  # the rest: the last archive
    for name in arguments.parts:
        begin = time.monotonic()
        seconds = min(budget * PARTS[name].share, end - begin)
        record: dict[str, Any] = {"status": "interrupted"}
        parts[name] = record
        write_summary(out, summary)
        report(f"{name}: {seconds:.0f} s at most")
        with tempfile.TemporaryDirectory() as folder:
            try:
                record["status"] = carry_out(name, arguments, out, Path(folder), seconds)
            except Exception as error:
                record["status"] = f"failed: {error}"
            finally:  # after SIGTERM, too
                dropped = pack(Path(folder) / "run", out / f"{name}.tar.gz")
                cut(out / f"{name}.log")
                files = sorted(path.name for path in out.glob(f"{name}.*"))
                passed = round(time.monotonic() - begin, 1)
                record |= {"seconds": passed, "files": files, "dropped": dropped}
                write_summary(out, summary)
                report(f"{name}: {record['status']} ({passed:.0f} s)")


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; exit if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=10.0, help="time budget")
    parser.add_argument("--parallel", type=int, default=8, help="students trained at once")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny models, few updates")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--recipe", default=str(ROOT / "experiments/gpu-de-dsb.yaml"))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe settings")
    arguments = parser.parse_args(words)
    if arguments.device == "cpu" and not arguments.smoke:
        sys.exit("Without a GPU the whole programme takes days: add --smoke for a tiny one.")
    if arguments.device == "cuda" and not has_cuda():
        sys.exit(
            "PyTorch finds no CUDA GPU on this machine: run the command on one that has a GPU, or "
            "try the program with --device cpu --smoke."
        )
    return arguments


def has_cuda() -> bool:
    """Check whether PyTorch is there, and finds a GPU."""
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def report(line: str) -> None:
    """Print a line with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Write `summary.json`."""
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")


def carry_out(
    name: str, arguments: argparse.Namespace, out: Path, folder: Path, seconds: float
) -> str:
    """Carry out a part, and return its status.

    Args:
        name: name of the part.
        arguments: arguments of the program.
        out: folder of the results.
        folder: empty folder; its subfolder `run` is packed afterwards.
        seconds: time of the part.
    """
    log = out / f"{name}.log"
    for path in out.glob(f"{name}.*"):  # from an earlier call
        path.unlink()
    missing = [p for p in (*PACKAGES, *PARTS[name].packages) if find_spec(p) is None]
    if missing:
        sentence = f"skipped: Python has no module {', '.join(missing)}"
        log.write_text(sentence + ".\n", "utf-8")
        return sentence
    if seconds < 1:
        return "skipped: no time is left"
    end = time.monotonic() + seconds
    command = command_of(name, arguments, out, folder, seconds)
    return run_command(command, log, end - time.monotonic(), arguments.device)


def command_of(
    name: str, arguments: argparse.Namespace, out: Path, folder: Path, seconds: float
) -> list[str]:
    """Return the arguments of Python for a part (arguments as those of `carry_out`).

    The teacher's training may take 30% of the time, the students' 40%. The rest is for the start,
    translations and scores.

    Raises:
        UserError: the recipe is invalid.
    """
    if name == "tests":
        return ["-m", "pytest", "-p", "no:cacheprovider", "--durations=10", "tests/test_cuda.py"]
    if name == "steps":
        return ["benchmarks/gpu_steps.py", str(out), *(["--smoke"] if arguments.smoke else [])]
    from a2d.runs.recipe import load_recipe

    settings = [f"compute.parallel={arguments.parallel}", *arguments.set]
    if arguments.smoke:
        settings += smoke_settings(folder)
    recipe = load_recipe(arguments.recipe, settings)
    students = len(recipe.students) * len(recipe.methods) * len(recipe.seeds)
    rounds = math.ceil(students / arguments.parallel)
    settings += [
        f"teacher.training.max_hours={0.3 * seconds / 3600:.5f}",
        f"training.max_hours={0.4 * seconds / rounds / 3600:.5f}",
    ]
    return ["-m", "a2d", "run", arguments.recipe, *settings, "--output", str(folder / "run")]


def smoke_settings(folder: Path) -> list[str]:
    """Write a tiny corpus, and return settings of tiny models that train for two updates."""
    with gzip.open(ROOT / "src/a2d/corpora/de-dsb/train.tsv.gz", "rt", encoding="utf-8") as file:
        lines = [next(file) for _ in range(240)]
    sizes = "encoder_layers: 1, decoder_layers: 1, heads: 4, width: 32, feed_forward: 32"
    settings = ["vocabulary.size=400", f"teacher.shape={{{sizes}}}", f"students=[{{{sizes}}}]"]
    settings += ["teacher.training.max_steps=2", "training.max_steps=2"]
    for name, part in (("train", lines[:200]), ("valid", lines[200:220]), ("test", lines[220:])):
        path = folder / f"{name}.tsv"
        path.write_text("".join(part), "utf-8")
        settings.append(f"corpus.{name}={path}")
    return settings


def run_command(command: Sequence[str], log: Path, seconds: float, device: str) -> str:
    """Run Python with a log file, and report the log's last line from time to time.

    Returns:
        `ok`, or a sentence on what went wrong.
    """
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
    }
    deadline = time.monotonic() + seconds
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group, which `end_group` ends
        )
        try:
            while time.monotonic() < deadline:
                try:
                    code = process.wait(max(0.0, min(20.0, deadline - time.monotonic())))
                    return "ok" if code == 0 else f"failed: exit code {code}, see {log.name}"
                except subprocess.TimeoutExpired:
                    report(f"  … {last_line(log)}")
            return f"stopped after {seconds:.0f} s, when its time was over"
        finally:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its children: first with SIGTERM, then with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass


def last_line(log: Path) -> str:
    """Return the last line of a log, at most 150 characters."""
    lines = log.read_bytes()[-2000:].decode("utf-8", "replace").split("\n")
    return next((line.strip()[:150] for line in reversed(lines) if line.strip()), "")


def cut(log: Path) -> None:
    """Cut a log to its end, if it is too large."""
    if log.exists() and log.stat().st_size > LIMIT:
        log.write_bytes(log.read_bytes()[-LIMIT:])


def pack(folder: Path, archive: Path) -> list[str]:
    """Pack a run's folder without checkpoints, small files first, until the archive is full.

    Returns:
        Names of the files that were left out.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    if not files:
        return []
    dropped, room = [], LIMIT
    partial = archive.with_suffix(".partial")
    with tarfile.open(partial, "w:gz") as tar:
        for path in sorted(files, key=lambda path: path.stat().st_size):
            name, size = path.relative_to(folder), path.stat().st_size
            if STATES & set(name.parts):
                dropped.append(f"{name} (state of a training)")
                continue
            # Weights hardly shrink: there is no use in trying it with very large files.
            needed = 2048 + (size if size > 4 * LIMIT else len(zlib.compress(path.read_bytes())))
            if needed > room:
                dropped.append(f"{name} ({size / 2**20:.1f} MiB)")
                continue
            room -= needed
            tar.add(path, str(Path(archive.name.removesuffix(".tar.gz")) / name))
    os.replace(partial, archive)
    return dropped


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
