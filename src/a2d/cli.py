"""Command line of a2d: `a2d run`, `a2d distill`, `a2d translate` and others (`a2d --help`)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from a2d import __version__, cli_data, cli_models, cli_report, endings, interruptions, plugins
from a2d.defaults import LEAST_SHARE

app = typer.Typer(
    help="Distil big translation models into small, fast ones (Align-to-Distill).",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


app.add_typer(cli_data.app, name="data")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"a2d {__version__}")
        raise typer.Exit


def _plugins(files: list[Path] | None) -> None:
    plugins.named[:] = map(str, files or ())


def _debug(show_tracebacks: bool) -> None:
    endings.debugging = show_tracebacks


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version)
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show the traceback of a defect of a2d or of a plugin.",
            callback=_debug,
        ),
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            help="Python file that adds methods, formulas, model families, corpus formats or "
            "stages (docs/extend.md). Repeat the option for more files.",
            metavar="FILE",
            callback=_plugins,
        ),
    ] = None,
) -> None:
    """Define the options of `a2d` itself."""


RecipeName = Annotated[
    str, typer.Argument(help="Name of a packaged recipe, such as demo, or a YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Settings of the recipe to change, such as training.num_train_epochs=3 or "
        "students.0.heads=4.",
        metavar="KEY=VALUE",
    ),
]


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run.", show_default="runs/NAME, with the name in the recipe"
        ),
    ] = None,
) -> None:
    """Run the experiment of a recipe. The same command continues an interrupted run.

    Example: a2d run demo training.num_train_epochs=3 --output runs/short
    """
    interruptions.resumable = True
    # Imported here, because PyTorch takes seconds to load, which would delay --help.
    from a2d.runs.execution import carry_out
    from a2d.runs.recipe import load_recipe

    experiment = load_recipe(recipe, overrides or [])
    carry_out(experiment, output or Path("runs") / experiment.name, Console())


@app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
) -> None:
    """Estimate what a run will take: time, disk and memory, stage by stage.

    The corpus is read and prepared, and every kind of training and translation is tried for a few
    seconds on this machine. Nothing is written.

    Example: a2d plan methods compute.parallel=2
    """
    from rich.console import Console

    from a2d.runs.planning import plan_run, show_plan
    from a2d.runs.recipe import load_recipe

    console = Console()
    show_plan(plan_run(load_recipe(recipe, overrides or []), console), console)


@app.command()
def distill(
    teacher: Annotated[str, typer.Option(help="Folder or hub name of the pretrained teacher.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="Parallel corpus to learn from: a file (.tmx, .csv, …), or "
            "'{path: x.csv, source: 1, target: 3}' to name its columns. Repeat the option for more "
            "corpora, of any formats, and for the second file of a plain-text corpus."
        ),
    ],
    source: Annotated[str, typer.Option(help="Language code of the source, such as de.")],
    target: Annotated[str, typer.Option(help="Language code of the target, such as en.")],
    student: Annotated[
        str,
        typer.Option(
            "--student",
            help="Shape of the student: 6x2 (6 encoder and 2 decoder layers), 6x2-256-1024-8 (with "
            "width, feed-forward width and heads), or tiny, base-memory, base. Other sizes are as "
            "in the teacher. `a2d shapes` shows what they cost.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder to write the student to; it must not exist. The run is in OUTPUT.run."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of the run's recipe to change, such as training.learning_rate=1e-4.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    valid: Annotated[
        list[str] | None,
        typer.Option(
            help="Validation corpus, in the form of --data.",
            show_default="a twentieth of the data, at most 1,000 pairs",
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            help="Test corpus, in the form of --data.",
            show_default="a twentieth of the data, at most 1,000 pairs",
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            help="Initial weights of the student: teacher (evenly spaced layers of the teacher), "
            "random, or marian (random weights of a plain Transformer)."
        ),
    ] = "teacher",
    method: Annotated[
        str,
        typer.Option(
            help="Distillation method: a2d aligns attention maps, kd is word-level distillation, "
            "seqkd+a2d learns from translations of the teacher; docs/methods.md has them all."
        ),
    ] = "a2d",
    trim: Annotated[
        bool, typer.Option("--trim", help="Reduce the vocabulary to the tokens of the data.")
    ] = False,
    teacher_languages: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Codes of source and target for a multilingual teacher, such as deu_Latn hsb_Latn."
        ),
    ] = None,
    source_prefix: Annotated[
        str,
        typer.Option(
            help="Text that the teacher expects before every source, such as "
            "'translate German to English: '."
        ),
    ] = "",
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Largest number of passes over the data. Validation may end the training earlier.",
            show_default="from the sizes of data and student",
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="Longest time to train, in hours.", show_default="no limit"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)] = 1,
    licence: Annotated[
        str | None, typer.Option(help="Licence to name in the model card, such as apache-2.0.")
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            help="Repository on the hub to upload the student to, such as me/small-de-en."
        ),
    ] = None,
    least_share: Annotated[
        float,
        typer.Option(
            help="Share of the teacher's validation chrF that the student must keep.", min=0, max=1
        ),
    ] = LEAST_SHARE,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Go on with a teacher that is no better than copied sources, and upload a student "
            "that is not fit for use.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the plan (data, sizes, time, disk space) and stop."),
    ] = False,
) -> None:
    """Distil a pretrained teacher into a small model, with scores and a model card.

    The same command continues an interrupted run. Exit code 3 means that the student is not fit for
    use: it keeps less than --least-share of the teacher's quality, or is no better than copied
    sources.

    Example: a2d distill --teacher Helsinki-NLP/opus-mt-de-en --data memory.tmx --source de --target
    en --student 6x2 --output small-de-en
    """
    interruptions.resumable = not dry_run
    from a2d.runs.distill import FAILED
    from a2d.runs.distill import distill as work

    verdict = work(
        teacher,
        data,
        (source, target),
        output,
        Console(),
        student=student,
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
def shapes(
    teacher: Annotated[str, typer.Argument(help="Folder or hub name of the teacher.")],
    shape: Annotated[
        list[str] | None,
        typer.Argument(
            help="Shapes of students, as for `a2d distill --student`: 6x2-256, tiny, ….",
            show_default="some between the teacher's and a tenth of it",
        ),
    ] = None,
) -> None:
    """Show sizes and speeds of students on this machine, before any is trained.

    Example: a2d shapes Helsinki-NLP/opus-mt-de-en tiny 6x2 6x1-256
    """
    from a2d.progress import silence_libraries
    from a2d.runs.shapes import measure_shapes

    silence_libraries()
    plugins.load_plugins()
    measure_shapes(teacher, shape or [], Console())


app.command()(cli_report.report)
app.command()(cli_report.compare)
app.command()(cli_report.plot)
app.command()(cli_models.translate)
app.command()(cli_models.export)
app.command()(cli_models.serve)
app.command()(cli_models.bench)

for _each in (app, cli_data.app):
    for _command in _each.registered_commands:
        _paragraphs = (inspect.getdoc(_command.callback) or "").split("\n\n")
        _text = "\n\n".join(" ".join(text.split()) for text in _paragraphs)
        _command.help = escape(_text)  # Rich would read [serve] as markup
