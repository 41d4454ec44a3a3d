"""What a run shows at its end: one table, sample translations, pictures."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from a2d.method.alignment import FILE_NAME, AttentionAlignment
from a2d.progress import show_activity
from a2d.runs import plots, results
from a2d.runs.results import UNKNOWN, Group, Row
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.students import Student, trained_models_of
from a2d.runs.stages.translations import teacher_translations, translations_of

if TYPE_CHECKING:
    from a2d.runs.run import Run


def write(run: Run) -> None:
    """Write results and plots of a finished run; show its table and samples."""
    folder, console, split = run.folder, run.console, run.recipe.evaluation.split
    place = folder / "results" / split
    with show_activity(console, "Writing results and plots…"):
        rows = results.collect(run)
        results.write(place, rows, run)
        plots.curves(_curves(run), folder / "plots/curves.png")
        plots.scores(rows, folder / f"plots/scores-{split}.png", split)
        for model in run.all(Student):
            if (model.folder / FILE_NAME).exists():
                alignment = AttentionAlignment.load(model.folder / FILE_NAME)
                plots.alignment(alignment, folder / f"plots/alignment-{model.name}.png")
    console.print(table(rows, "Test set" if split == "test" else "Validation set"), "")
    for name, signature in teacher_translations(run).figures["signatures"].items():
        console.print(f"[dim]{name}: {signature}[/]", highlight=False)
    _show_samples(run)
    console.print(f"\nEverything is in {escape(str(folder))}: results, models, plots, run.log.")


def table(rows: list[Row], title: str) -> Table:
    """One row per method, setting and student, means over seeds; the teacher's first.

    `±` is the sample standard deviation of BLEU over seeds. The gain is over the baseline of the
    same size; a `*` marks p < 0.05 in every seed. It fits 80 columns: methods and sizes take
    several lines where they are long.
    """
    teacher, *groups = results.grouped(rows)
    several = any(len(group.rows) > 1 for group in groups)
    gap = 0 if several else 1  # 80 columns are few
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0))
    out.show_edge = False
    out.add_column("method", overflow="fold")
    out.add_column("size", no_wrap=True)
    for name in ("params", "BLEU", "gain", "chrF", "speed", "training"):
        out.add_column(name, justify="right", no_wrap=True)
    for group in (teacher, *groups):
        out.add_row(
            escape(group.label),
            group.student.replace("x", "×").replace("-", "\n", 1),
            millions(group.rows[0]),
            spread(group, "bleu", several),
            _gain(group),
            UNKNOWN if group.rows[0].chrf is None else f"{group.mean('chrf'):.2f}",
            times(group.speed_up(teacher)),
            duration(group),
        )
    return out


def millions(row: Row) -> str:
    """A model's parameters in millions; a dash where they are unknown."""
    return UNKNOWN if row.parameters is None else f"{row.parameters / 1e6:.1f}M"


def times(ratio: float | None) -> str:
    """A ratio of speeds; a dash where none was measured."""
    return UNKNOWN if ratio is None else f"{ratio:.2f}×"


def spread(group: Group, column: str, several: bool) -> str:
    """A mean, and its deviation where several seeds were run; a dash where it is unknown."""
    if getattr(group.rows[0], column) is None:
        return UNKNOWN
    text = f"{group.mean(column):.2f}"
    return f"{text} ± {group.deviation(column):.2f}" if several and len(group.rows) > 1 else text


def duration(group: Group) -> str:
    """Mean training time in hours, minutes and seconds; a dash for a pretrained model."""
    if group.rows[0].train_seconds is None:
        return UNKNOWN
    minutes, seconds = divmod(round(group.mean("train_seconds")), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _curves(run: Run) -> dict[str, list[dict[str, float]]]:
    """The logs of every method and size, averaged over seeds."""
    logs: dict[str, list[Any]] = {}
    for model in trained_models_of(run):
        name = model.name.removesuffix(f"-seed{model.seed}")
        logs.setdefault(name, []).append(results.history(model)["log"])
    return {name: results.mean_log(seeds) for name, seeds in logs.items()}


def _gain(group: Group) -> str:
    significant = group.significant("baseline")
    if significant is None:
        return ""
    mark = "*" if significant == len(group.rows) else ""
    return f"{group.mean('gain_vs_baseline'):+.2f}{mark}"


def _show_samples(run: Run) -> None:
    """Print sentences of middling length, evenly spread over the evaluated set."""
    search, corpus, console = run.recipe.evaluation, run.one(Corpus), run.console
    count, sources = search.samples, corpus.sources(search.split)
    rows = {"source": sources, "reference": corpus.references(search.split)}
    students = run.all(Student)
    shown = [run.one(Teacher), *(m for m in students if m.seed == students[0].seed)]
    translations = translations_of(run)
    rows |= {model.name: translations[model.name].hypotheses for model in shown}
    middling = [i for i, text in enumerate(sources) if 5 <= len(text.split()) <= 12]
    width = max(map(len, rows)) + 2
    for index in middling[:: max(1, len(middling) // count)][:count] if count else []:
        console.print()
        for name, lines in rows.items():
            text = textwrap.shorten(lines[index], 160)
            line = f"[dim]{escape(name.ljust(width))}[/]{escape(text)}"
            console.print(line, highlight=False, emoji=False)
