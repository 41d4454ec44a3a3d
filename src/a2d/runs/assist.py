"""Helping a run to translate its training source, from another process or another machine."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from a2d.errors import UserError
from a2d.progress import Bars, silence_libraries
from a2d.runs.environment import RECIPE
from a2d.runs.recipe import load_recipe
from a2d.runs.run import LOG, open_run
from a2d.runs.shards import task_of, translate_shards
from a2d.runs.stages.sequences import Sequences
from a2d.runs.workers import Workers


def assist(folder: Path, console: Console) -> None:
    """Translate shards that nobody is translating, one after the other.

    The run waits for what is under way here, and does itself what was left. Started by `torchrun`
    or `accelerate launch`, every process uses its own GPU.

    Args:
        folder: folder of the run; this process sees it and the corpus by the same names.
        console: where to show progress.

    Raises:
        UserError: no run is there, or it is not translating.
    """
    silence_libraries()
    written = folder / RECIPE
    if not written.is_file():
        raise UserError(f"{folder} holds no run: give the --output of `a2d run`.")
    run = open_run(load_recipe(str(written)), folder, console)
    begun = [stage for stage in run.all(Sequences) if stage.done or stage.partial.exists()]
    if not begun or run.recipe.teacher.translations is not None:
        raise UserError(
            f"the run in {folder} is not translating its training source: help it when it is."
        )
    for stage in begun:
        stage.check()
    if all(stage.done for stage in begun):
        console.print("Everything is translated already.")
        return
    processes, rank = run.recipe.compute.parallel, os.environ.get("LOCAL_RANK")
    if rank is not None:
        processes = 1
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(rank) % len(gpus)] or rank
    with (
        Bars(console) as bars,
        Workers(processes, folder / LOG, bars.show, run.recipe.plugins) as workers,
    ):
        for stage in begun:
            translate_shards(stage.pairs(run), stage.partial, task_of(run), workers, wait=False)
    console.print("Nothing is left to begin.")
