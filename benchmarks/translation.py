"""Compare `a2d translate` with a program that calls CTranslate2 directly.

    python benchmarks/translation.py                     # 10,000 lines
    python benchmarks/translation.py --lines 500 --rounds 3

Both programs translate with the int8 export of the embedded teacher and the same search. They take
turns. Times begin after the first translation, so that loading does not count; it is measured
separately. The ratio is the speed of `a2d translate` over that of the direct program.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from tables import machine, require_idle, show, spread, write

TEACHER = "builtin:en-pt"
GOAL = 0.95


class Times(NamedTuple):
    """Seconds until the first translation, and from there to the last one."""

    start: float
    work: float


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, too")
    parser.add_argument("--name", help="name of the file in results")
    parser.add_argument("--direct", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.direct:
        direct(arguments.direct, arguments.beams, arguments.threads)
        return
    from a2d.models.export import export
    from a2d.progress import silence_libraries
    from a2d.text.corpus import read_corpus

    silence_libraries()
    busy = require_idle(arguments.busy)
    texts = [pair.source for pair in read_corpus(f"{TEACHER}/test")]
    lines = list(islice(cycle(texts), arguments.lines))
    options = ["--beams", str(arguments.beams), "--threads", str(arguments.threads)]
    with tempfile.TemporaryDirectory() as place:
        folder = str(Path(place) / "int8")
        export(TEACHER, Path(folder), "int8")
        programs = {
            "a2d translate": [sys.executable, "-m", "a2d", "translate", folder, *options],
            "direct": [sys.executable, __file__, "--direct", folder, *options],
        }
        times: dict[str, list[Times]] = {name: [] for name in programs}
        for number in range(arguments.rounds):
            for name in list(programs)[:: -1 if number % 2 else 1]:
                times[name].append(run(programs[name], lines))
    figures: dict[str, Any] = {}
    for name, rounds in times.items():
        figures[f"lines per second: {name}"] = spread([len(lines) / each.work for each in rounds])
        figures[f"seconds to the first translation: {name}"] = spread([e.start for e in rounds])
    pairs = zip(times["direct"], times["a2d translate"], strict=True)
    ratio = spread([engine.work / command.work for engine, command in pairs])
    figures["speed: a2d translate ÷ direct"] = ratio
    show(f"{len(lines):,} lines", figures, Console())
    print(f"a2d translate is {ratio['median']:.1%} as fast; the goal is {GOAL:.0%}.")
    figures["lines"] = len(lines)
    figures["machine"] = machine(arguments.threads, arguments.rounds, busy)
    if arguments.name:
        write(arguments.name, figures)


def run(command: list[str], lines: list[str]) -> Times:
    """Start a program, give it lines, and read as many."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{lines[0]}\n")
    process.stdin.flush()
    process.stdout.readline()
    first = time.perf_counter()
    writer = threading.Thread(target=feed, args=(process.stdin, lines))
    writer.start()
    translations = process.stdout.readlines()
    end = time.perf_counter()
    writer.join()
    if process.wait() != 0 or len(translations) != len(lines):
        sys.exit(f"{command} has failed")
    return Times(first - begin, end - first)


def feed(stream: Any, lines: list[str]) -> None:
    """Write lines, and close the stream."""
    stream.write("".join(f"{line}\n" for line in lines))
    stream.close()


def direct(folder: str, beams: int, threads: int) -> None:
    """Translate a first line of standard input, and then all others in one call of the engine."""
    import ctranslate2
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    translator = ctranslate2.Translator(folder, intra_threads=threads)
    settings = json.loads((Path(folder) / "generation_config.json").read_text("utf-8"))

    def translate(lines: list[str]) -> None:
        ids = tokenizer([line.rstrip("\n") for line in lines], truncation=True)["input_ids"]
        results = translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(each) for each in ids],
            beam_size=beams,
            patience=2,  # as a2d searches
            min_decoding_length=0,
            max_decoding_length=settings["max_length"] - 1,
            max_batch_size=4096,
            batch_type="tokens",
        )
        best = [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
        for text in tokenizer.batch_decode(best, skip_special_tokens=True):
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    translate([sys.stdin.readline()])
    translate(sys.stdin.readlines())


if __name__ == "__main__":
    main()
