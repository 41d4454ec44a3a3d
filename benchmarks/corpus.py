"""Measure how long the preparation of a large corpus takes, and how much memory.

    python benchmarks/corpus.py                          # 1 and 10 million pairs
    python benchmarks/corpus.py --pairs 200000
    python benchmarks/corpus.py corpus.cleaning.deduplicate=near

The corpus is a table whose pairs are put together from segments of the embedded German→Lower
Sorbian corpus. It goes through the first stages of a run: reading, cleaning,
search for leaks, vocabulary, tokens. Memory is that of this process and its children, once without
and once with the pages of files that they have mapped, which the system may drop at any time.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Other imports are in functions: the processes that share the work import this file.

CORPUS = "builtin:de-dsb/train"
CHARACTERS = 95
"""Least characters of a source: pairs then have some 230 bytes, and about 15 words a side."""


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, too")
    parser.add_argument("--name", help="name of the file in results")
    parser.add_argument("settings", nargs="*", help="settings of the recipe")
    arguments = parser.parse_args()
    from tables import machine, require_idle, write

    from a2d.progress import silence_libraries
    from a2d.text.parts import usable_cores

    silence_libraries()
    busy = require_idle(arguments.busy)
    figures = {f"{count:,} pairs": measure(count, arguments.settings) for count in arguments.pairs}
    if arguments.name:
        write(arguments.name, {**figures, "machine": machine(usable_cores(), 1, busy)})


def measure(count: int, settings: list[str]) -> dict[str, dict[str, float]]:
    """Prepare a corpus of so many pairs; return seconds and MB by step."""
    from a2d.runs.execution import open_run
    from a2d.runs.recipe import load_recipe
    from a2d.runs.stages.corpus import Corpus
    from a2d.runs.stages.vocabulary import Tokens, Vocabulary
    from a2d.text.parts import kept_processes

    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        table, folder = Path(place) / "corpus.tsv", Path(place) / "run"
        make_corpus(table, count)
        recipe = load_recipe("methods", [f"corpus.train={table}", *LANGUAGE_OFF, *settings])
        figures["table"] = {"seconds": 0, "MB of its file": table.stat().st_size / 1e6}
        with kept_processes():
            with measured(figures, "reading, cleaning, leaks"):
                run = open_run(recipe, folder)
            for kind in (Corpus, Vocabulary, Tokens):
                with measured(figures, kind.__name__.lower()):
                    kind.carry_out(run)
        kept = run.corpus.sizes["train"]
    show(f"{count:,} pairs, {kept:,} of them kept", figures)
    return figures


LANGUAGE_OFF = ["corpus.cleaning.language=false"]
"""The identification of languages takes longer than everything else; it has a figure of its own
with `corpus.cleaning.language=auto`."""


def make_corpus(path: Path, count: int) -> None:
    """Write pairs of several segments each."""
    from a2d.text.corpus import read_corpus

    segments = [(pair, len(pair.source)) for pair in read_corpus(CORPUS)]
    numbers = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            sources, targets, size = [], [], 0
            while size < CHARACTERS:
                pair, length = segments[int(numbers.random() * len(segments))]
                sources.append(pair.source)
                targets.append(pair.target)
                size += length
            file.write(f"{' '.join(sources)}\t{' '.join(targets)}\n")


@contextmanager
def measured(figures: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Add the seconds and the most memory of a block to `figures`."""
    peaks, ended = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for number, size in enumerate(memory()):
                peaks[number] = max(peaks[number], size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    figures[name] = {"seconds": seconds, "MB": peaks[0], "MB with pages of files": peaks[1]}


def memory() -> tuple[float, float]:
    """Return the memory of this process and its children in MB, without and with file pages."""
    import psutil  # type: ignore[import-untyped]

    private = resident = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            info = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        resident += info.rss / 1e6
        private += (info.rss - getattr(info, "shared", 0)) / 1e6
    return private, resident


def show(title: str, figures: dict[str, dict[str, float]]) -> None:
    """Print a table with a row for each step, and the sum."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None)
    for column in ("", "seconds", "MB", "MB with pages of files"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in figures.items():
        values = (row["seconds"], *list(row.values())[1:])
        table.add_row(name, *(f"{value:,.0f}" for value in values))
    total = sum(row["seconds"] for row in figures.values())
    table.add_row("all", f"{total:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
