"""Commands that use finished models: `a2d translate` and `a2d export`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from a2d import plugins
from a2d.errors import UserError
from a2d.text.bounds import MAX_LINE
from a2d.text.entities import printable


def translate(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a model or of its export to CTranslate2, or a hub name."),
    ],
    beams: Annotated[
        int | None,
        typer.Option(
            help="Width of the beam; 1 is greedy search.",
            min=1,
            show_default="from the model's generation settings, or else 5",
        ),
    ] = None,
) -> None:
    """Translate standard input to standard output, one sentence per line.

    Example: a2d translate small-de-en < in.de > out.en
    """
    from a2d.models import decoding
    from a2d.models.export import ExportedModel, is_exported
    from a2d.models.loading import load_to_run
    from a2d.models.tokenizer import check_fits, load_tokenizer
    from a2d.progress import silence_libraries

    silence_libraries()
    plugins.load_plugins()
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
            # Each translation stays on one line, without characters that control a terminal.
            typer.echo(printable(" ".join(line.split())))


def export(
    model: Annotated[str, typer.Argument(help="Folder of a student, or a hub name.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    quantization: Annotated[
        str,
        typer.Option(
            help="Data type of the weights: float32, float16, bfloat16, int16, int8, int8_float32 "
            "or int8_float16."
        ),
    ] = "float32",
    valid: Annotated[
        list[str] | None,
        typer.Option(
            help="Parallel text to prove the export with, as --data of `a2d distill`.",
            show_default="the validation set of the model's run",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Language code of the source, where --valid needs it.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Language code of the target, where --valid needs it.")
    ] = None,
    max_loss: Annotated[
        float, typer.Option(help="Largest loss of BLEU and of chrF that is accepted.", min=0)
    ] = 0.3,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Export without the proof.")
    ] = False,
) -> None:
    """Convert a student to CTranslate2, which translates faster, and prove the result.

    The model and its export translate validation text. An export that differs too much is refused.
    `a2d translate` reads the new folder too.

    Example: a2d export small-de-en --output fast-de-en --quantization int8
    """
    from rich.console import Console

    from a2d.models import export as exporting
    from a2d.progress import silence_libraries
    from a2d.runs.exporting import export_checked

    silence_libraries()
    plugins.load_plugins()
    if unchecked:
        exporting.export(model, output, quantization)
    else:
        languages = None if source is None or target is None else (source, target)
        export_checked(model, output, quantization, valid or (), languages, max_loss, Console())
    typer.echo(f"wrote {output}")


_BATCH_LINES = 1000
"""Lines of standard input that are translated together: standard input may have no end."""


def _standard_input() -> Iterator[list[str]]:
    """Read standard input in batches of `_BATCH_LINES` lines, without line ends.

    Raises:
        UserError: standard input is closed, or a line is too long or not UTF-8. All batches before
            that line's batch have been yielded.
    """
    if sys.stdin is None:
        raise UserError("standard input is closed: give it sentences, one per line.")
    if isinstance(sys.stdin, TextIOWrapper):  # a strict decoder would not name the line
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="\n")
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
                f"standard input, line {number:,} is not UTF-8: convert it, for example with iconv."
            ) from error
        lines.append(line.rstrip("\n"))
        if len(lines) == _BATCH_LINES:
            yield lines
            lines = []
    yield lines
