"""Exports that are proved before they are written: `a2d export`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from a2d.errors import UserError
from a2d.files import damage
from a2d.models.export import SMALLEST_FIRST, export
from a2d.models.fidelity import Original, UnfaithfulExport, check_fidelity, compare_export
from a2d.progress import Bars, Event
from a2d.runs.lines import read_lines
from a2d.text.corpus import from_arguments, read_corpus
from a2d.text.pairs import Pair

MIN_PAIRS = 50
"""Smallest validation set that an export is proved with."""
AUTO = "auto"
"""Data type of the first of `SMALLEST_FIRST` that translates as the model does."""


def export_checked(
    model: str,
    output: Path,
    quantization: str,
    valid: Sequence[str],
    languages: tuple[str, str] | None,
    max_loss: float,
    console: Console,
) -> str:
    """Export a model, and keep the export only if it translates as the model does.

    Args:
        model: folder or hub name of the model.
        output: folder to write, which must not exist.
        quantization: data type of the weights, or `AUTO`.
        valid: validation corpora (`a2d.text.corpus.from_arguments`); empty: the validation set of
            the model's run.
        languages: language codes of source and target, for corpora of several languages.
        max_loss: largest loss of BLEU and of chrF.
        console: console for progress and the comparison.

    Returns:
        The data type of the export.

    Raises:
        UserError: there is no validation text, or the export is refused.
    """
    pairs = read_corpus(from_arguments(valid), "valid", languages) if valid else find_pairs(model)
    if not pairs:
        raise UserError(
            f"there is no validation set beside {model} to prove the export with: give one by "
            "--valid, or skip the proof by --unchecked."
        )
    if len(pairs) < MIN_PAIRS:
        raise UserError(
            f"{len(pairs)} validation pairs prove nothing: give at least {MIN_PAIRS} by --valid, "
            "or skip the proof by --unchecked."
        )
    sources, references = map(list, zip(*pairs, strict=True))
    task = "translating with the original"
    *tries, last = SMALLEST_FIRST if quantization == AUTO else [quantization]
    with Bars(console) as bars:
        original = Original(
            model, sources, progress=lambda done: bars.show(Event(task, done, len(sources)))
        )

        def check(data_type: str, folder: Path) -> None:
            check_fidelity(
                compare_export(original, folder, data_type, references),
                max_loss,
                lambda line: console.print(escape(line), highlight=False),
            )

        for data_type in tries:
            try:
                export(model, output, data_type, partial(check, data_type))
            except UnfaithfulExport:
                console.print(f"{data_type} loses too much.", highlight=False)
            else:
                return data_type
        export(model, output, last, partial(check, last))
    return last


def find_pairs(model: str) -> list[Pair]:
    """Find the validation set of the run that a model comes from.

    Args:
        model: folder of a student of `a2d distill`, or of a model in a run's folder.

    Returns:
        The pairs; nothing if there is no such run.
    """
    folder = Path(model)
    runs = [folder.with_name(folder.name + ".run")] if folder.name else []
    if folder.absolute().parent.name == "models":
        runs.append(folder.absolute().parent.parent)
    for run in runs:
        files = [run / f"corpus/valid.{side}.txt" for side in ("source", "reference")]
        if all(file.is_file() for file in files):
            return _read_pairs(run, files)
    return []


def _read_pairs(run: Path, files: Sequence[Path]) -> list[Pair]:
    """Read the validation set of a run.

    Raises:
        UserError: it is damaged.
    """
    if damage(run / "corpus") is None:
        with suppress(UnicodeDecodeError, ValueError):
            sources, references = map(read_lines, files)
            return list(map(Pair._make, zip(sources, references, strict=True)))
    raise UserError(
        f"the validation set in {run / 'corpus'} is damaged: repeat the run's command, or give "
        "another set by --valid."
    )
