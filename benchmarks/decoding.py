"""Measure how fast models of several shapes translate with PyTorch and CTranslate2.

    python benchmarks/decoding.py

Weights are random and all translations have the same length, so that only the shape counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import torch
from rich.console import Console
from tables import machine, require_idle, show, spread, write

from a2d.models.export import export
from a2d.models.loading import new_model
from a2d.models.tokenizer import train_tokenizer
from a2d.progress import silence_libraries
from a2d.text.corpus import read_corpus

TEACHER = (6, 6)
STUDENTS = ((6, 3), (6, 2), (6, 1), (3, 3), (3, 1), (2, 1))
WIDTHS: dict[str, Any] = {"heads": 8, "width": 512, "feed_forward": 2048}
LENGTH = 24
"""Tokens of a source sentence and of its translation."""

Decode = Callable[[], Any]


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds after the warm-up")
    parser.add_argument("--sentences", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, too")
    parser.add_argument("--name", default="decoding", help="name of the file in results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    silence_libraries()
    busy = require_idle(arguments.busy)
    pairs = read_corpus("builtin:de-dsb/train")
    tokenizer = train_tokenizer((text for pair in pairs for text in pair), 8000)
    sources = torch.randint(300, 7000, (arguments.sentences, LENGTH))
    ways: dict[str, dict[tuple[int, int], Decode]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in (TEACHER, *STUDENTS):
            decoders = make_decoders(shape, tokenizer, sources, Path(folder), arguments.threads)
            for name, decode in decoders.items():
                ways.setdefault(name, {})[shape] = decode
        seconds = {name: measure(shapes, arguments.rounds) for name, shapes in ways.items()}
    figures: dict[str, Any] = {}
    for name, shapes in seconds.items():
        for shape in STUDENTS:
            rounds = zip(shapes[TEACHER], shapes[shape], strict=True)
            title = "{}+{}".format(*shape)
            figures[f"{name}: speed-up of {title} over 6+6"] = spread([a / b for a, b in rounds])
    teacher_seconds = seconds["PyTorch, beam 5"][TEACHER]
    exported = seconds["CTranslate2 int8, beam 5"]
    for shape in (TEACHER, *STUDENTS):
        rounds = zip(teacher_seconds, exported[shape], strict=True)
        title = "{}+{} as CTranslate2 int8 over 6+6 in PyTorch".format(*shape)
        figures[f"beam 5: {title}"] = spread([a / b for a, b in rounds])
    show("speed-ups", figures, Console())
    figures["machine"] = machine(arguments.threads, arguments.rounds, busy)
    write(arguments.name, figures)


def make_decoders(
    shape: tuple[int, int], tokenizer: Any, sources: torch.Tensor, folder: Path, threads: int
) -> dict[str, Decode]:
    """Make functions that translate `sources` with a random model of a shape."""
    model = new_model(tokenizer, encoder_layers=shape[0], decoder_layers=shape[1], **WIDTHS).eval()
    model_folder = folder / "{}-{}".format(*shape)
    model.save_pretrained(model_folder)
    tokenizer.save_pretrained(model_folder)
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in sources.tolist()]

    def in_torch(beams: int) -> Decode:
        limits = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH}
        return lambda: model.generate(sources, num_beams=beams, **limits)

    def in_ctranslate2(kind: str, beams: int) -> Decode:
        output = model_folder / kind
        if not output.exists():
            export(model_folder, output, kind)
        translator = ctranslate2.Translator(str(output), intra_threads=threads)
        limits = {"min_decoding_length": LENGTH, "max_decoding_length": LENGTH}
        return lambda: translator.translate_batch(tokens, beam_size=beams, **limits)

    decoders = {f"PyTorch, beam {beams}": in_torch(beams) for beams in (1, 5)}
    for kind in ("float32", "int8"):
        for beams in (1, 5):
            decoders[f"CTranslate2 {kind}, beam {beams}"] = in_ctranslate2(kind, beams)
    return decoders


@torch.inference_mode()
def measure(shapes: dict[tuple[int, int], Decode], rounds: int) -> dict[tuple[int, int], Any]:
    """Measure the seconds of each shape, in alternation."""
    seconds: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    for number in range(rounds + 1):
        for shape, decode in shapes.items():
            start = time.perf_counter()
            decode()
            if number:
                seconds[shape].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
