"""The `a2d` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from a2d import __version__, cli_data, endings
from a2d.errors import UserError
from a2d.text.bounds import MAX_LINE
from a2d.text.entities import printable

app = typer.Typer(
    help="Make small, fast translation models out of big ones (Align-to-Distill).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(cli_data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"a2d {__version__}")
        raise typer.Exit


def _debug(wanted: bool) -> None:
    endings.debugging = wanted


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of defects.", callback=_debug)
    ] = False,
) -> None:
    """Keep the subcommands' names, however many there are."""


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A packaged recipe (demo, …) or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change: dotted.key=value", metavar="KEY=VALUE"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="runs/NAME, the recipe's")
    ] = None,
) -> None:
    """Carry out an experiment; the same command again continues one that was interrupted."""
    # Imported here: PyTorch takes seconds to load, which --help need not wait for.
    from a2d.runs.recipe import load_recipe
    from a2d.runs.run import carry_out

    experiment = load_recipe(recipe, overrides or [])
    carry_out(experiment, output or Path("runs") / experiment.name, Console())


@app.command()
def assist(
    folder: Annotated[Path, typer.Argument(help="Folder of a run that is at it.")],
) -> None:
    """Help a run to translate its training source, here or on another machine."""
    from a2d.runs.assist import assist as work

    first = os.environ.get("LOCAL_RANK", "0") == "0"
    work(folder, Console(quiet=not first))


_SIZE = typer.Option(show_default="the teacher's", min=1)


@app.command()
def distill(
    teacher: Annotated[str, typer.Option(help="Folder or hub name of the pretrained teacher.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="Parallel corpus (.tmx, .csv, …), or '{path: x.csv, source: 1, target: 3}'; any "
            "number of them, of any formats; plain text as two files in a row."
        ),
    ],
    source: Annotated[str, typer.Option(help="Language code of the source: de")],
    target: Annotated[str, typer.Option(help="Language code of the target: en")],
    student_layers: Annotated[str, typer.Option(help="Of encoder and decoder: 6x2")],
    output: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of its recipe to change.", metavar="KEY=VALUE"),
    ] = None,
    valid: Annotated[
        list[str] | None, typer.Option(help="Validation corpus.", show_default="held out")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="Test corpus.", show_default="held out")
    ] = None,
    student_heads: Annotated[int | None, _SIZE] = None,
    student_width: Annotated[int | None, _SIZE] = None,
    student_feed_forward: Annotated[int | None, _SIZE] = None,
    start: Annotated[
        str,
        typer.Option(
            help="The student's: teacher (its layers, evenly spaced), random, or marian (random, a "
            "plain Transformer)."
        ),
    ] = "teacher",
    method: Annotated[str, typer.Option(help="a2d, kd, seqkd+a2d, …")] = "a2d",
    trim: Annotated[
        bool, typer.Option("--trim", help="Keep only the tokens that the data needs.")
    ] = False,
    teacher_languages: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Codes of a multilingual teacher: deu_Latn hsb_Latn"),
    ] = None,
    source_prefix: Annotated[
        str,
        typer.Option(
            help="What the teacher expects before sources: 'translate German to English: '"
        ),
    ] = "",
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Most passes over the data; validation may end it earlier.",
            show_default="by the size of data and student",
        ),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Longest training, in hours.", show_default="no limit")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is random.", min=0)] = 1,
    licence: Annotated[str | None, typer.Option(help="For the model card: apache-2.0")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Upload the folder to this repository.")
    ] = None,
    least_share: Annotated[
        float,
        typer.Option(help="Share of the teacher's validation chrF to keep.", min=0, max=1),
    ] = 0.75,
    force: Annotated[
        bool, typer.Option("--force", help="Upload the student even if it keeps less.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan: data, sizes, time, disk. Then stop.")
    ] = False,
) -> None:
    """Make a small model out of a pretrained teacher and parallel text, with scores and a card.

    Exit code 3: the student keeps less than --least-share of its teacher's quality, or is no better
    than copying the source.
    """
    from a2d.runs.distill import FAILED
    from a2d.runs.distill import distill as work

    verdict = work(
        teacher,
        data,
        (source, target),
        output,
        Console(),
        layers=student_layers,
        heads=student_heads,
        width=student_width,
        feed_forward=student_feed_forward,
        valid=valid or (),
        test=test or (),
        teacher_languages=teacher_languages,
        source_prefix=source_prefix,
        method=method,
        start=start,
        trim=trim,
        epochs=epochs,
        hours=hours,
        seed=seed,
        licence=licence,
        overrides=overrides or (),
        push_to=push_to_hub,
        least_share=least_share,
        force=force,
        dry_run=dry_run,
    )
    if verdict is not None and not verdict.passed:
        raise typer.Exit(FAILED)


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="Folder of a student distilled with a2d.")],
    output: Annotated[Path, typer.Option(help="Picture to write.")] = Path("alignment.png"),
) -> None:
    """Draw which student heads a trained alignment connects to which teacher heads."""
    from a2d.method.alignment import FILE_NAME, AttentionAlignment
    from a2d.runs import plots

    plots.alignment(AttentionAlignment.load(folder / FILE_NAME), output)
    typer.echo(f"wrote {output}")


@app.command()
def translate(
    model: Annotated[str, typer.Argument(help="Model folder or hub name.")],
    beams: Annotated[
        int | None,
        typer.Option(
            help="Width of the beam; 1 is greedy search. By default the model's own, or 5.",
            min=1,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Translate standard input to standard output, one sentence a line."""
    from a2d.models import decoding
    from a2d.models.export import ExportedModel, is_exported
    from a2d.models.loading import load_to_run
    from a2d.models.tokenizer import check_fits, load_tokenizer
    from a2d.progress import silence_libraries

    silence_libraries()
    if beams is not None:
        decoding.check_beams(beams, "--beams")
    if is_exported(Path(model)):
        work = partial(ExportedModel(Path(model)).translate, beams=beams)
    else:
        network, tokenizer = load_to_run(model), load_tokenizer(model)
        check_fits(tokenizer, network.config, model)
        work = partial(decoding.translate, network, tokenizer, beams=beams)
    for lines in _standard_input():
        for line in work(lines):
            # One line, whatever line breaks it has, and nothing that a terminal obeys.
            typer.echo(printable(" ".join(line.split())))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Folder of a student.")],
    output: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    quantization: Annotated[
        str, typer.Option(help="How weights are kept: float32, int8, …")
    ] = "float32",
) -> None:
    """Convert a student to CTranslate2, for fast translation; `a2d translate` runs it too."""
    from a2d.models import export as exporting
    from a2d.progress import silence_libraries

    silence_libraries()
    exporting.export(model, output, quantization)
    typer.echo(f"wrote {output}")


_AT_ONCE = 1000
"""Lines of standard input that are translated together: it may have no end."""


def _standard_input() -> Iterator[list[str]]:
    """Read standard input in portions of `_AT_ONCE` lines, without the lines' ends.

    Raises:
        UserError: it is closed, or a line is too long or not UTF-8; the lines before have been
            yielded but for those of the same portion.
    """
    if sys.stdin is None:
        raise UserError("standard input is closed: give it sentences, one a line.")
    if isinstance(sys.stdin, TextIOWrapper):  # a strict decoder would not say which line it is
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    lines: list[str] = []
    for number, line in enumerate(iter(partial(sys.stdin.readline, MAX_LINE + 1), ""), 1):
        if len(line) > MAX_LINE:
            raise UserError(
                f"standard input, line {number:,} has more than {MAX_LINE:,} characters: "
                "split it into sentences."
            )
        try:
            line.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"standard input, line {number:,} is not UTF-8: convert it, as with iconv."
            ) from error
        lines.append(line.rstrip("\n"))
        if len(lines) == _AT_ONCE:
            yield lines
            lines = []
    yield lines
