"""The report of a run as a page, made from the run's results folder (`a2d.runs.results`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import FiniteFloat
from typing_extensions import TypedDict

from a2d.errors import UserError
from a2d.report.comet import comet_scores
from a2d.report.comparison import Comparison, Gain, Role, System
from a2d.report.details import (
    CheckedMaps,
    Details,
    ExportScores,
    Figure,
    GroupAlignment,
)
from a2d.report.page import check_page, write_page
from a2d.runs import results
from a2d.runs.damage import intact, is_there, read_results
from a2d.runs.results import Row
from a2d.runs.verdict import VERDICT

PAGE = "report.html"
"""File of the page, in a run's folder."""


class _Corpus(TypedDict):
    """Counts of the corpus in the details."""

    cleaning: dict[str, int]
    sizes: dict[_Set, int]


class _Parts(TypedDict, total=False):
    """Content of the details; the parts but the corpus are fields of `Details`."""

    curves: dict[str, list[dict[str, Figure]]]
    alignments: dict[str, dict[str, GroupAlignment]]
    attention: list[CheckedMaps]
    exports: list[ExportScores]
    corpus: _Corpus


class _Languages(TypedDict):
    source_language: str
    target_language: str


class _Evaluation(TypedDict):
    split: str
    beams: int


class _Recipe(TypedDict):
    """What the page reads of a recipe."""

    name: str
    corpus: _Languages
    evaluation: _Evaluation


class _Description(TypedDict):
    """Content of the description of a run."""

    recipe: _Recipe
    versions: dict[str, str]


class _Whole(TypedDict):
    """The description with every key of the recipe."""

    recipe: dict[str, Any]


class _Energy(TypedDict):
    """Content of the record of a run's energy."""

    watt_hours: FiniteFloat
    seconds: FiniteFloat


class _Verdict(TypedDict):
    """What the page reads of a verdict."""

    passed: bool
    summary: str
    advice: list[str]


_Set = Literal["train", "valid", "test", "monolingual"]


def report(folder: Path, output: Path | None = None, comet: Path | None = None) -> Path:
    """Write the report of a finished run.

    Args:
        folder: a run's folder, or a results folder.
        output: file to write; None: `PAGE` in `folder`.
        comet: COMET model to score the translations with; None: without.

    Returns:
        The file.

    Raises:
        UserError: there are no results, or they were written by an earlier version.
    """
    found = find_results(folder)
    path = output or folder / PAGE
    check_page(path)
    comparison = _comparison(found)
    scores = None if comet is None else comet_scores(comet, comparison)
    write_page(path, comparison, _details(found), scores)
    return path


def find_results(folder: Path) -> Path:
    """Find the results in a run's folder, the latest if there are several; or the folder itself.

    Raises:
        UserError: there are none.
    """
    if (folder / results.SCORES).is_file():
        return folder
    candidates = [path.parent for path in folder.glob(f"results/[!.]*/{results.SCORES}")]
    if candidates:
        return max(candidates, key=lambda path: (path / results.SCORES).stat().st_mtime)
    run = folder.with_name(folder.name + ".run") if folder.name else folder
    if run != folder and run.is_dir():
        raise UserError(f"{folder} is a student: give the folder of its run, {run}.")
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: give the folder of a run.")
    raise UserError(
        f"{folder} has no results: give the folder of a finished run (the same command "
        "continues an unfinished one)."
    )


def _comparison(folder: Path) -> Comparison:
    rows = [row for row in results.read(folder) if row.bleu is not None]
    recipe = read_results(folder / results.DESCRIPTION, _Description)["recipe"]
    corpus = recipe["corpus"]
    sources = folder / results.SOURCES
    if not is_there(sources):
        raise UserError(
            f"{folder} was written by an earlier version of a2d, without the sources: repeat the "
            "run's command, which writes it again."
        )
    rarest, files = folder / results.RAREST, folder / results.FILES
    return Comparison(
        title=recipe["name"],
        pair=(corpus["source_language"], corpus["target_language"]),
        sources=results.read_compressed(sources),
        references=results.read_compressed(folder / results.REFERENCES),
        systems=[_system(row, folder, first=row is rows[0]) for row in rows],
        rarest=_counts(rarest) if is_there(rarest) else None,
        domains=_short_names(results.read_compressed(files)) if is_there(files) else None,
    )


def _counts(path: Path) -> list[int]:
    with intact(path):
        counts = list(map(int, results.read_compressed(path)))
        if min(counts, default=0) < 0:
            raise ValueError("a count is negative")
        return counts


def _short_names(paths: Sequence[str]) -> Sequence[str]:
    """Name files without their folders, if they still differ."""
    names = {path: path.rpartition("/")[2] for path in paths}
    return [names[path] for path in paths] if len(set(names.values())) == len(names) else paths


def _system(row: Row, folder: Path, first: bool) -> System:
    role: Role = "teacher" if first and row.method == "teacher" else "student"
    return System(
        name=row.name,
        label=row.label,
        hypotheses=results.read_compressed(folder / f"hypotheses/{row.name}.txt.gz"),
        role=role,
        shape=row.student.replace("x", "×") if row.parameters is not None else "",
        parameters=row.parameters,
        speed=row.sentences_per_second,
        train_seconds=row.train_seconds,
        size_bytes=row.size_bytes,
        gains={
            rival: Gain(gain, p)
            for rival in ("baseline", "kd")
            if (gain := getattr(row, f"gain_vs_{rival}")) is not None
            and (p := getattr(row, f"p_vs_{rival}")) is not None
        },
        refused=row.refused,
        original="" if not row.quantization else row.name.removesuffix(f"-{row.quantization}"),
    )


def _details(folder: Path) -> Details:
    rows, path = results.read(folder), folder / results.DETAILS
    devices = dict.fromkeys(row.device for row in rows if row.device)
    description = folder / results.DESCRIPTION
    run = read_results(description, _Description)
    recipe, evaluation = read_results(description, _Whole)["recipe"], run["recipe"]["evaluation"]
    facts = {
        "Evaluated": f"{evaluation['split']} set, beam {evaluation['beams']}",
        "Trained on": ", ".join(devices),
        "Energy": _energy(folder / results.ENERGY),
        **run["versions"],
    }
    parts: _Parts = read_results(path, _Parts) if is_there(path) else {}
    place = f"results/{evaluation['split']}"
    # The last row is a student's.
    again = (
        f"zcat hypotheses/{rows[-1].name}.txt.gz | sacrebleu <(zcat references.txt.gz) -m bleu chrf"
    )
    return Details(
        verdict=_verdict(folder),
        curves=parts.get("curves", {}),
        alignments=parts.get("alignments", {}),
        attention=parts.get("attention", ()),
        exports=parts.get("exports", ()),
        funnel=_funnel(parts["corpus"]) if "corpus" in parts else (),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        facts={name: value for name, value in facts.items() if value},
        commands=[
            (
                f"Scores, computed again by sacreBLEU in the folder {place}:",
                again,
            ),
            ("The whole run, with the recipe below as recipe.yaml:", "a2d run recipe.yaml"),
        ],
    )


def _energy(record: Path) -> str:
    """Describe the energy that a run has used; nothing if it was not measured."""
    if not is_there(record):
        return ""
    energy = read_results(record, _Energy)
    return (
        f"{energy['watt_hours']:.3g} Wh of processors and GPUs, counted by the whole machine "
        f"in {energy['seconds'] / 60:.0f} minutes"
    )


def _verdict(folder: Path) -> list[str]:
    """Read why a student of `a2d distill` is not fit for use, from its run's folder."""
    path = folder.parent.parent / VERDICT
    if not is_there(path):
        return []
    verdict = read_results(path, _Verdict)
    return [] if verdict["passed"] else [verdict["summary"], *verdict["advice"]]


def _funnel(corpus: _Corpus) -> list[tuple[str, int]]:
    """List what became of the pairs: counts of cleaning, then the sizes of the sets."""
    counts = {f"dropped: {rule}": count for rule, count in corpus["cleaning"].items() if count}
    names = {"dropped: read": "pairs read", "dropped: kept": "kept"}
    rows = [(names.get(name, name).replace("_", " "), count) for name, count in counts.items()]
    sets = {"train": "training pairs", "valid": "validation pairs", "test": "test pairs"}
    sets |= {"monolingual": "sentences of monolingual text"}
    return rows + [(sets[name], count) for name, count in corpus["sizes"].items() if count]
