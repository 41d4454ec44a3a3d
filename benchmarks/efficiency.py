"""Measure how much faster two workers are than one, in preparing a corpus and in translating it.

    python benchmarks/efficiency.py
    python benchmarks/efficiency.py --pairs 1000000 --sentences 4000 --rounds 3

One worker has one core, two have two. Rounds alternate. The corpus of the preparation is that of
corpus.py; the teacher's translations are of the packaged sample memory, by CTranslate2 in float32.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

# Other imports are in functions: processes that share the preparation import this file.

WORK = ("preparation", "translation")
STUDENT = "{encoder_layers: 2, decoder_layers: 1, heads: 4, width: 32, feed_forward: 64}"
"""Student that a recipe needs; it is not trained."""


def main() -> None:
    """Measure in processes of their own, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=4_000_000, help="pairs to prepare")
    parser.add_argument("--sentences", type=int, default=20_000, help="sentences to translate")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", choices=WORK, nargs="+", default=WORK)
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, too")
    parser.add_argument(
        "--name",
        default="efficiency",
        help="name of the file in results, which keeps its other figures",
    )
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)  # kind, corpus, workers
    arguments = parser.parse_args()
    if arguments.worker:
        kind, corpus, workers = arguments.worker
        print(WORKS[kind](Path(corpus), int(workers)))
        return
    from corpus import make_corpus
    from rich.console import Console
    from tables import add, machine, require_idle, show, spread

    busy = require_idle(arguments.busy)
    makers = {
        "preparation": partial(make_corpus, count=arguments.pairs),
        "translation": partial(make_memory, count=arguments.sentences),
    }
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.work:
            figures: dict[str, Any] = {}
            corpus = Path(folder) / f"{kind}.tsv"
            makers[kind](corpus)
            seconds: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(arguments.rounds):
                for workers in seconds:
                    seconds[workers].append(measure(kind, corpus, workers))
            for workers, values in seconds.items():
                figures[f"{kind}, {workers} worker(s), s"] = spread(values)
            ratios = [one / two for one, two in zip(*seconds.values(), strict=True)]
            figures[f"{kind}, two workers over one"] = spread(ratios)
            size = {"preparation": arguments.pairs, "translation": arguments.sentences}[kind]
            show(f"{size:,} pairs", figures, Console())
            figures[kind] = {"pairs": size, "machine": machine(2, arguments.rounds, busy)}
            add(arguments.name, figures)


def measure(kind: str, corpus: Path, workers: int) -> float:
    """Return the seconds that so many workers, each with one core, need."""
    done = subprocess.run(
        [sys.executable, __file__, "--worker", kind, str(corpus), str(workers)],
        env=os.environ | {"OMP_NUM_THREADS": str(workers), "RAYON_NUM_THREADS": str(workers)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def make_memory(path: Path, count: int) -> None:
    """Write different pairs of the sample memory: what it lacks is repeated with a number."""
    from a2d.text.corpus import read_corpus

    pairs = read_corpus("builtin:en-pt/memory", languages=("en", "pt"))
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            pair, turn = pairs[number % len(pairs)], number // len(pairs)
            mark = f" {turn}" if turn else ""
            file.write(f"{pair.source}{mark}\t{pair.target}{mark}\n")


def prepare(corpus: Path, workers: int) -> float:
    """Time the first stages of a run, in which `workers` cores take part."""
    from corpus import LANGUAGE_OFF

    from a2d.progress import silence_libraries
    from a2d.runs.execution import open_run
    from a2d.runs.recipe import load_recipe
    from a2d.runs.stages.corpus import Corpus
    from a2d.runs.stages.vocabulary import Tokens, Vocabulary
    from a2d.text.parts import kept_processes

    silence_libraries()
    recipe = load_recipe("methods", [f"corpus.train={corpus}", *LANGUAGE_OFF])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with kept_processes():
            run = open_run(recipe, Path(folder) / "run")
            for kind in (Corpus, Vocabulary, Tokens):
                kind.carry_out(run)
        return time.perf_counter() - start


def translate(corpus: Path, workers: int) -> float:
    """Time the stage of the teacher's translations, with `workers` processes of a core each."""
    from corpus import LANGUAGE_OFF

    from a2d.progress import silence_libraries
    from a2d.runs.execution import open_run
    from a2d.runs.recipe import load_recipe
    from a2d.runs.stages.corpus import Corpus
    from a2d.runs.stages.sequences import Sequences
    from a2d.runs.stages.vocabulary import Tokens, Vocabulary

    silence_libraries()
    languages = ["corpus.source_language=en", "corpus.target_language=pt"]
    held_out = [f"corpus.{split}=builtin:en-pt/{split}" for split in ("valid", "test")]
    recipe = load_recipe(
        "methods",
        [
            *languages,
            f"corpus.train={corpus}",
            *held_out,
            *LANGUAGE_OFF,
            "teacher.path=builtin:en-pt",
            f"students=[{STUDENT}]",
            "methods=[seqkd]",
            "sequences.engine=ctranslate2",
            f"compute.parallel={workers}",
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(recipe, Path(folder) / "run")
        with run:
            for kind in (Corpus, Vocabulary, Tokens):
                kind.carry_out(run)
            start = time.perf_counter()
            Sequences.carry_out(run)
            return time.perf_counter() - start


WORKS = {"preparation": prepare, "translation": translate}

if __name__ == "__main__":
    main()
