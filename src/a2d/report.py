"""What a run found: `results.json`, one table, sample translations, pictures."""

from __future__ import annotations

import json
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from a2d import plots
from a2d.alignment import FILE_NAME, AttentionAlignment
from a2d.plan import Model, Plan
from a2d.stage import write_text
from a2d.training import HISTORY

Result = dict[str, Any]


def write(folder: Path, plan: Plan, console: Console, samples: int) -> None:
    """Write `results.json` and the plots of a finished run; show its table and samples."""
    results = [_result(model) for model in plan.models]
    write_text(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    plots.curves(
        {model.name: _history(model)["log"] for model in plan.trained}, folder / "plots/curves.png"
    )
    for model in plan.students:
        if (model.stage.folder / FILE_NAME).exists():
            alignment = AttentionAlignment.load(model.stage.folder / FILE_NAME)
            plots.alignment(alignment, folder / f"plots/alignment-{model.name}.png")
    console.print(table(results))
    for name, signature in results[0]["signatures"].items():
        console.print(f"[dim]{name}: {signature}[/]", highlight=False)
    _show_samples(plan, console, samples)
    console.print(
        f"\nEverything is in {escape(str(folder))}: results.json, models, plots, run.log."
    )


def table(results: list[Result]) -> Table:
    """One row per model, compared with the first, the teacher."""
    teacher = results[0]
    out = Table(title="Test set", title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    out.add_column("method", no_wrap=True)
    out.add_column("layers×heads", no_wrap=True)
    for name in ("params", "BLEU", "chrF", "sent/s", "speed-up", "size", "training"):
        out.add_column(name, justify="right", no_wrap=True)
    for result in results:
        speedup = result["sentences_per_second"] / teacher["sentences_per_second"]
        out.add_row(
            escape(result["name"] if result is teacher else _label(result, results)),
            f"{result['layers']}×{result['heads']}",
            f"{result['parameters'] / 1e6:.1f}M",
            f"{result['bleu']:.2f}",
            f"{result['chrf']:.2f}",
            f"{result['sentences_per_second']:.1f}",
            f"{speedup:.2f}×",
            f"{result['parameters'] / teacher['parameters']:.0%}",
            _duration(result["seconds"]),
        )
    return out


def _label(result: Result, results: list[Result]) -> str:
    """The method, and the seed where several were run."""
    seeds = {other["seed"] for other in results[1:]}
    return (
        f"{result['method']} (seed {result['seed']})" if len(seeds) > 1 else str(result["method"])
    )


def _result(model: Model) -> Result:
    scores = json.loads((model.translations.folder / "scores.json").read_text("utf-8"))
    layers = f"{scores.pop('encoder_layers')}+{scores.pop('decoder_layers')}"
    seconds = _history(model)["seconds"] if model.shape is not None else None
    return {
        "name": model.name,
        "method": model.method.name,
        "seed": model.seed,
        "layers": layers,
        **scores,
        "seconds": seconds,
    }


def _history(model: Model) -> Any:
    return json.loads((model.stage.folder / HISTORY).read_text("utf-8"))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "pretrained"
    return str(timedelta(seconds=round(seconds)))


def _show_samples(plan: Plan, console: Console, count: int) -> None:
    """Sentences of middling length, evenly spread over the test set."""
    corpus = plan.corpus.folder
    sources = _read_lines(corpus / "test.source.txt")
    rows = {"source": sources, "reference": _read_lines(corpus / "test.reference.txt")}
    rows |= {m.name: _read_lines(m.translations.folder / "test.txt") for m in plan.models}
    middling = [i for i, text in enumerate(sources) if 5 <= len(text.split()) <= 12]
    width = max(map(len, rows)) + 2
    for index in middling[:: max(1, len(middling) // count)][:count] if count else []:
        console.print()
        for name, lines in rows.items():
            text = textwrap.shorten(lines[index], 160)
            line = f"[dim]{escape(name.ljust(width))}[/]{escape(text)}"
            console.print(line, highlight=False, emoji=False)


def _read_lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1]
