"""Compare models with another translation program: quality, size and speed, one sentence at a time.

The program reads sentences from standard input, translates one after another, and prints each
translation at once, as `tools/firefox_translate.py` does with one thread. It takes turns with the
models, which have one thread, too.

    python benchmarks/yardstick.py --command "python tools/firefox_translate.py" \
        --size 17140836 --test test.tsv.gz small-en-pt-int8 --name yardstick
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from tables import machine, require_idle, show, spread, write
from translation import feed

from a2d.models.translator import open_translator
from a2d.progress import silence_libraries
from a2d.runs.benchmarking import Sample, measure
from a2d.text.corpus import read_corpus
from a2d.text.evaluation import score

BEAMS = (5, 2, 1)
COMMAND = "the other program"


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help="folders of models or exports")
    parser.add_argument("--command", required=True, help="the other program, as in a shell")
    parser.add_argument("--size", type=int, required=True, help="size of its model in bytes")
    parser.add_argument("--test", required=True, help="corpus that quality is measured on")
    parser.add_argument("--sentences", type=int, default=200, help="sentences for the speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, too")
    parser.add_argument("--name", help="name of the file in results")
    arguments = parser.parse_args()
    silence_libraries()
    busy = require_idle(arguments.busy)
    pairs = list(read_corpus(arguments.test))
    sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
    sample = sources[:: max(1, len(sources) // arguments.sentences)][: arguments.sentences]
    command = shlex.split(arguments.command)

    figures: dict[str, dict[str, Any]] = {
        COMMAND: {"bytes": arguments.size, **quality(translate(command, sources)[0], references)}
    }
    for model in arguments.models:
        for beams in BEAMS:
            lists = open_translator(model, threads=1, beams=beams).n_best(sources)
            texts = [hypotheses[0].text for hypotheses in lists]
            figures[name_of(model, beams)] = quality(texts, references)
    seconds: dict[str, list[float]] = {name: [] for name in figures}
    part = Sample(arguments.test, sample, range(1, len(sample) + 1))
    for _ in range(arguments.rounds):
        seconds[COMMAND].append(median(translate(command, sample)[1]))
        for beams in BEAMS:
            options: dict[str, Any] = {"rounds": 1, "threads": 1, "beams": beams}
            for measured in measure(arguments.models, part, lambda _: None, **options):
                name = name_of(measured.model, beams)
                seconds[name] += measured.p50_seconds
                figures[name]["bytes"] = measured.disk_bytes
    for name, rounds in seconds.items():
        figures[name]["milliseconds"] = spread([1000 * each for each in rounds])
        show(name, figures[name], Console())
    if arguments.name:
        write(arguments.name, {**figures, "machine": machine(1, arguments.rounds, busy)})


def name_of(model: str, beams: int) -> str:
    """Name a model with its beam."""
    return f"{Path(model).name}, beam {beams}"


def quality(translations: list[str], references: list[str]) -> dict[str, float]:
    """Score translations."""
    found = score(translations, references)
    return {"bleu": found.bleu, "chrf": found.chrf}


def translate(command: list[str], sentences: list[str]) -> tuple[list[str], list[float]]:
    """Return the program's translations, and the seconds between them.

    The first one has no time: the program has to start.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdin is not None
    assert process.stdout is not None
    writer = threading.Thread(target=feed, args=(process.stdin, sentences))
    writer.start()
    translations, times = [], []
    for line in process.stdout:
        translations.append(line.rstrip("\n"))
        times.append(time.perf_counter())
    writer.join()
    if process.wait() != 0 or len(translations) != len(sentences):
        sys.exit(f"{shlex.join(command)} has failed")
    return translations, [later - earlier for earlier, later in pairwise(times)]


if __name__ == "__main__":
    main()
