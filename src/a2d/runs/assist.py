"""Help for a run that translates its training source, by other processes or machines."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from a2d.errors import UserError
from a2d.progress import Bars, silence_libraries
from a2d.runs.environment import RECIPE
from a2d.runs.recipe import load_recipe
from a2d.runs.run import LOG_FILE, open_run
from a2d.runs.shards import task_of, translate_shards
from a2d.runs.stages.sequences import Sequences
from a2d.runs.workers import Workers


def assist(folder: Path, console: Console) -> None:
    """Translate the shards that no other process is translating, one after the other.

    The run waits for shards that are in progress here, and translates the remaining ones itself.
    Each process that `torchrun` or `accelerate launch` starts uses a GPU of its own.

    Args:
        folder: folder of the run. This process must see it and the corpus under the same paths.
        console: console for progress.

    Raises:
        UserError: the folder holds no run, or the run is not translating.
    """
    silence_libraries()
    recipe = folder / RECIPE
    if not recipe.is_file():
        raise UserError(f"{folder} holds no run: give the --output of `a2d run`.")
    run = open_run(load_recipe(str(recipe)), folder, console)
    stages = [stage for stage in run.all(Sequences) if stage.done or stage.partial.exists()]
    if not stages or run.recipe.teacher.translations is not None:
        raise UserError(
            f"the run in {folder} is not translating its training source: start assist "
            "while it does."
        )
    for stage in stages:
        stage.check()
    if all(stage.done for stage in stages):
        console.print("Everything is already translated.")
        return
    processes, rank = run.recipe.compute.parallel, os.environ.get("LOCAL_RANK")
    if rank is not None:
        processes = 1
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(rank) % len(gpus)] or rank
    with (
        Bars(console) as bars,
        Workers(processes, folder / LOG_FILE, bars.show) as workers,
    ):
        for stage in stages:
            translate_shards(stage.pairs(run), stage.partial, task_of(run), workers, wait=False)
    console.print("No shards are left to translate here.")
