"""COMET scores, by the command `comet-score` of the package unbabel-comet.

The package needs transformers 4, and this one transformers 5, so that they cannot share an
environment. The command can stand in one of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from a2d.errors import UserError
from a2d.files import temporary_folder
from a2d.programs import running
from a2d.quoting import quoted, shorten
from a2d.report.comparison import Comparison

COMMAND = "comet-score"
NAME = "comet"


def parse_metric(text: str) -> Path:
    """Return the checkpoint that `comet=CHECKPOINT` names.

    Raises:
        UserError: the metric is another one, or the checkpoint is missing.
    """
    name, _, place = text.partition("=")
    if name != NAME:
        raise UserError(f"{quoted(text)} is not a metric: write {NAME}=CHECKPOINT.")
    path = Path(place).expanduser()
    if path.suffix != ".ckpt" or not path.is_file():
        raise UserError(
            f"{quoted(text)} names no checkpoint (.ckpt) on this machine: write "
            f"{NAME}=CHECKPOINT, with the path of a COMET model that you have downloaded."
        )
    return path


def comet_scores(checkpoint: Path, comparison: Comparison) -> dict[str, list[float]]:
    """Score every translation of a comparison by COMET.

    The command runs offline: nothing is downloaded.

    Args:
        checkpoint: a COMET model (.ckpt) with its `hparams.yaml`, as the hub has them.
        comparison: the systems.

    Returns:
        system → score of each segment, times 100.

    Raises:
        UserError: the command is missing, or fails.
    """
    command = which(COMMAND)
    if command is None:
        raise UserError(
            f"the command {COMMAND} is not installed: install unbabel-comet in an environment of "
            "its own, because it needs an older transformers (docs/report.md says how)."
        )
    with TemporaryDirectory(dir=temporary_folder()) as place:
        folder = Path(place)
        names = [f"{number}.txt" for number in range(len(comparison.systems))]
        _write(folder / "sources.txt", comparison.sources)
        _write(folder / "references.txt", comparison.references)
        for name, system in zip(names, comparison.systems, strict=True):
            _write(folder / name, system.hypotheses)
        files = ["-s", "sources.txt", "-r", "references.txt", "-t", *names]
        options = ["--to_json", "scores.json", "--gpus", _gpus(), "--quiet", "--only_system"]
        status, message = _run(
            [command, *files, "--model", str(checkpoint.resolve()), *options], folder
        )
        if status or not (folder / "scores.json").is_file():
            raise UserError(f"{COMMAND} failed: {message}")
        try:
            records = json.loads((folder / "scores.json").read_text("utf-8"))
            scores = [[100 * float(record["COMET"]) for record in records[name]] for name in names]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{COMMAND} wrote no scores: {error!r:.200}") from error
    sizes = {len(comparison.sources), *map(len, scores)}
    if len(sizes) > 1 or not all(isfinite(value) for row in scores for value in row):
        raise UserError(f"{COMMAND} did not give every segment a finite score.")
    return {system.name: row for system, row in zip(comparison.systems, scores, strict=True)}


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command in a folder, offline.

    Returns:
        Exit status, and the last line of standard error.
    """
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    null = subprocess.DEVNULL
    with running(command, cwd=folder, env=os.environ | offline, stdin=null, stdout=null) as program:
        status = program.process.wait()
    return status, shorten(program.last_line, 200) or "it says nothing"


def _write(path: Path, segments: Sequence[str]) -> None:
    """Write one line per segment, whatever line ends a segment holds."""
    path.write_text("".join(f"{' '.join(text.split())}\n" for text in segments), "utf-8")


def _gpus() -> str:
    import torch

    return "1" if torch.cuda.is_available() else "0"
