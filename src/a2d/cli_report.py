"""Commands that show results: `a2d report`, `a2d compare` and `a2d plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Metric = Annotated[
    str | None,
    typer.Option(
        metavar="comet=CHECKPOINT",
        help="Score by COMET, too, with a model (.ckpt) on this machine. Needs the command "
        "comet-score of unbabel-comet, in an environment of its own.",
    ),
]


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run, or its results.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Page to write (.html).", show_default="report.html in FOLDER"),
    ] = None,
    metric: Metric = None,
) -> None:
    """Write the report of a finished run again: one HTML page, which needs no network.

    Every run writes it at its end.

    Example: a2d report runs/demo --output demo.html
    """
    from rich.console import Console

    from a2d.progress import show_activity
    from a2d.report.comet import parse_metric
    from a2d.runs.page import report as write

    checkpoint = None if metric is None else parse_metric(metric)
    with show_activity(Console(), "Scoring the systems…"):
        path = write(folder, output, checkpoint)
    typer.echo(f"wrote {path}")


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=FILE",
            help="Translations of each system, one per line. The others are compared with the "
            "first one.",
        ),
    ],
    sources: Annotated[Path, typer.Option(help="Sources of the test set, one per line.")],
    references: Annotated[Path, typer.Option(help="Human translations, one per line.")],
    domains: Annotated[
        Path | None,
        typer.Option(help="Domain of each segment, one per line: scores are also shown by domain."),
    ] = None,
    metric: Metric = None,
    output: Annotated[Path, typer.Option(help="Page to write (.html).")] = Path("report.html"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing page.")
    ] = False,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Comparison",
    source: Annotated[
        str | None, typer.Option(help="Language code of the source, such as en.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Language code of the target, to find texts in a wrong language."),
    ] = None,
) -> None:
    """Compare translations of a test set, from any systems, on one HTML page.

    Example: a2d compare --sources test.en --references test.pt ours=ours.pt marian=marian.pt
    """
    from rich.console import Console

    from a2d.files import check_output
    from a2d.progress import show_activity
    from a2d.report.comet import comet_scores, parse_metric
    from a2d.report.page import check_page, write_page
    from a2d.report.plain import read_comparison
    from a2d.text.languages import check_pair

    pair = check_pair(source, target)
    check_page(output)
    check_output(output, overwrite)
    checkpoint = None if metric is None else parse_metric(metric)
    comparison = read_comparison(title, sources, references, systems, pair, domains)
    with show_activity(Console(), "Scoring the systems…"):
        scores = None if checkpoint is None else comet_scores(checkpoint, comparison)
        write_page(output, comparison, comet=scores)
    typer.echo(f"wrote {output}")


def plot(
    folder: Annotated[Path, typer.Argument(help="Folder of a student distilled with a2d.")],
    output: Annotated[Path, typer.Option(help="Picture to write (.png, .svg or .pdf).")] = Path(
        "alignment.png"
    ),
) -> None:
    """Draw which student heads feed each teacher head in a trained alignment."""
    from a2d.method.alignment import FILE_NAME, AttentionAlignment
    from a2d.runs import plots

    plots.alignment(AttentionAlignment.load(folder / FILE_NAME), output)
    typer.echo(f"wrote {output}")
