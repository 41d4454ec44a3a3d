"""Translations of a held-out set, one a line, and their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from a2d.families import Geometry
from a2d.files import write_text
from a2d.models.decoding import translate
from a2d.models.loading import count_parameters, load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.runs.plan import Model
from a2d.runs.settings import Evaluation
from a2d.text.evaluation import score

HYPOTHESES = "hypotheses.txt"
SCORES = "scores.json"


def one_line(text: str) -> str:
    """A text as files with one sentence a line hold it."""
    return " ".join(text.split())


def read_lines(path: Path) -> list[str]:
    """What `write_lines` wrote; sentences may hold characters that other readers break lines at."""
    return path.read_text("utf-8").split("\n")[:-1]


def write_lines(path: Path, texts: Sequence[str]) -> None:
    """Write one sentence a line."""
    write_text(path, "".join(f"{one_line(text)}\n" for text in texts))


def translate_and_score(
    model: Model,
    tokenizer: Path,
    sources: Sequence[str],
    references: Sequence[str],
    search: Evaluation,
    report: Report,
) -> None:
    """Carry out a model's stage of translations: `hypotheses.txt` and `scores.json`."""
    name = f"translating: {model.name}"
    report(Event(name, 0, len(sources)))
    network = load_to_run(model.path)
    hypotheses = translate(
        network,
        load_tokenizer(tokenizer),
        sources,
        beams=search.beams,
        max_tokens=search.max_tokens,
        progress=lambda done: report(Event(name, done, len(sources))),
    )
    # What is scored is what is written, so that anyone can score it again.
    scores = score([one_line(t) for t in hypotheses], [one_line(t) for t in references])
    geometry = Geometry.of(network.config)
    heads = dict.fromkeys((geometry.encoder_heads, geometry.decoder_heads))
    figures = {
        **scores._asdict(),
        "encoder_layers": geometry.encoder_layers,
        "decoder_layers": geometry.decoder_layers,
        "heads": "+".join(map(str, heads)),
        "parameters": count_parameters(network),
    }
    with model.translations.work() as folder:
        write_lines(folder / HYPOTHESES, hypotheses)
        write_text(folder / SCORES, json.dumps(figures, indent=1) + "\n")
