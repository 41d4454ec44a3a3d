"""Report at the end of a run: table of results, sample translations, plots."""

from __future__ import annotations

import textwrap
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from a2d.method.alignment import FILE_NAME, AttentionAlignment
from a2d.progress import show_activity
from a2d.runs import page, plots, results
from a2d.runs.attention import sample_sentences
from a2d.runs.energy import EnergyMeter
from a2d.runs.page import PAGE
from a2d.runs.results import UNKNOWN, Group, Row
from a2d.runs.run import Run
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.exports import Export
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.students import Student
from a2d.runs.stages.translations import teacher_translations, translations_of


def folders(run: Run) -> tuple[Path, Path]:
    """Folders of the results and of the plots."""
    return run.folder / "results" / run.recipe.evaluation.split, run.folder / "plots"


def write(run: Run, meter: EnergyMeter) -> None:
    """Write results and plots of a finished run; print its table and samples.

    Args:
        run: the run.
        meter: energy that the command has used.
    """
    folder, console, split = run.folder, run.console, run.recipe.evaluation.split
    results_folder, plots_folder = folders(run)
    with show_activity(console, "Writing results and plots…"):
        rows = results.collect(run)
        results.write(results_folder, rows, run, meter)
        plots.curves(results.mean_curves(run), plots_folder / "curves.png")
        plots.scores(rows, plots_folder / f"scores-{split}.png", split)
        for model in run.all(Student):
            if (model.folder / FILE_NAME).exists():
                alignment = AttentionAlignment.load(model.folder / FILE_NAME)
                plots.alignment(alignment, plots_folder / f"alignment-{model.name}.png")
        page.report(folder)
    console.print(table(rows, "Test set" if split == "test" else "Validation set"), "")
    for name, signature in teacher_translations(run).figures["signatures"].items():
        console.print(f"[dim]{name}: {signature}[/]", highlight=False)
    _show_samples(run)
    exports = ["exports"] * bool(run.all(Export))
    contents = ", ".join([PAGE, "results", "models", *exports, "plots", "run.log"])
    console.print(f"\nEverything is in {escape(str(folder))}: {contents}.")


def table(rows: list[Row], title: str) -> Table:
    """Make a table of means over seeds: the teacher, then every method, setting and student.

    `±` is the sample standard deviation of BLEU over seeds. The gain is over the baseline of the
    same size; a `*` marks p < 0.05 in every seed. The table fits into 80 columns, because long
    names of methods and sizes are wrapped.

    Args:
        rows: the teacher's row, then the students'.
        title: title of the table.
    """
    teacher, *groups = results.group_rows(rows)
    several = any(len(group.rows) > 1 for group in groups)
    gap = 0 if several else 1  # the deviations need the space
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
    """Format a model's parameters in millions; a dash if they are unknown."""
    return UNKNOWN if row.parameters is None else f"{row.parameters / 1e6:.1f}M"


def times(ratio: float | None) -> str:
    """Format a ratio of speeds; a dash if it is unknown."""
    return UNKNOWN if ratio is None else f"{ratio:.2f}×"


def spread(group: Group, column: str, several: bool) -> str:
    """Format the mean of a column over seeds; a dash if it is unknown.

    Args:
        group: the rows.
        column: name of the column.
        several: whether to add the standard deviation, if the group has several seeds.
    """
    if getattr(group.rows[0], column) is None:
        return UNKNOWN
    text = f"{group.mean(column):.2f}"
    return f"{text} ± {group.deviation(column):.2f}" if several and len(group.rows) > 1 else text


def duration(group: Group) -> str:
    """Format the mean training time (h:mm:ss); a dash for a model that was not trained."""
    if group.rows[0].train_seconds is None:
        return UNKNOWN
    minutes, seconds = divmod(round(group.mean("train_seconds")), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _gain(group: Group) -> str:
    """Format the mean gain over the baseline; empty without a baseline."""
    count = group.count_significant("baseline")
    if count is None:
        return ""
    mark = "*" if count == len(group.rows) else ""
    return f"{group.mean('gain_vs_baseline'):+.2f}{mark}"


def _show_samples(run: Run) -> None:
    """Print translations of medium-length sentences, evenly spread over the evaluated set."""
    search, corpus, console = run.recipe.evaluation, run.one(Corpus), run.console
    count, sources = search.samples, corpus.sources(search.split)
    rows = {"source": sources, "reference": corpus.references(search.split)}
    students = run.all(Student)
    models = [run.one(Teacher), *(m for m in students if m.seed == students[0].seed)]
    translations = translations_of(run)
    rows |= {model.name: translations[model.name].hypotheses for model in models}
    width = max(map(len, rows)) + 2
    for index in sample_sentences(sources, count):
        console.print()
        for name, lines in rows.items():
            text = textwrap.shorten(lines[index], 160)
            line = f"[dim]{escape(name.ljust(width))}[/]{escape(text)}"
            console.print(line, highlight=False, emoji=False)
