"""Results of a run in a folder of their own: scores, learning curves, translations.

A results folder can be moved, committed and read without the run that wrote it:

    scores.csv, scores.json       a row for the teacher and for each student (`Row`)
    curves.csv                    validation scores during training, with the training time so far
    hypotheses/NAME.txt.gz        each model's translations, one per line
    sources.txt.gz, references.txt.gz   one per line
    rarest.txt.gz                 count of each source's rarest word in the training data
    files.txt.gz                  file of each source, where the set comes from several
    energy.json                   energy of the run, where the machine can measure it
    details.json                  what else the report shows: training logs, alignments, attention
                                  maps of sample sentences, counts of the corpus
    run.json                      recipe, sacreBLEU signatures, versions
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, NamedTuple

from pydantic import Field, FiniteFloat

import a2d
from a2d.files import write_text
from a2d.method.alignment import FILE_NAME, AttentionAlignment
from a2d.models.exported import WEIGHTS
from a2d.report.plain import MAX_SEGMENT
from a2d.runs.attention import sample_maps
from a2d.runs.damage import intact, read_results
from a2d.runs.energy import EnergyMeter, total_energy
from a2d.runs.labels import distinctive_settings
from a2d.runs.model import Model
from a2d.runs.run import Run
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.exports import Export
from a2d.runs.stages.speed import read_speeds
from a2d.runs.stages.students import Student, models_of, trained_models_of
from a2d.runs.stages.translations import (
    SIZES,
    Translations,
    sizes_in_short,
    teacher_translations,
    translations_of,
)
from a2d.runs.training import HISTORY
from a2d.teachers import model_path
from a2d.text import evaluation

SCORES = "scores.json"
SOURCES, REFERENCES, RAREST = "sources.txt.gz", "references.txt.gz", "rarest.txt.gz"
FILES = "files.txt.gz"
DETAILS, DESCRIPTION, ENERGY = "details.json", "run.json", "energy.json"
"""Files of a results folder."""

UNKNOWN = "–"
"""Text of an unknown figure in tables."""
COMPARISONS = ("gain_vs_baseline", "p_vs_baseline", "gain_vs_kd", "p_vs_kd")


Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Row:
    """Results of one model.

    Attributes:
        name: name of the model.
        pair: language pair, such as `de-en`.
        method: name of the method; `teacher` for the teacher.
        setting: the settings in which it differs from other rows, such as `beta=2`.
        student: size in short, such as `6+2x8`; a dash for a teacher that a2d cannot load.
        seed: seed of the training.
        parameters: number of parameters; None for a teacher that a2d cannot load.
        bleu, chrf: scores on the evaluated set; None for a teacher whose translations of the set
            are incomplete.
        gain_vs_baseline, gain_vs_kd: BLEU minus that of the opponent: the student of the same size
            and seed with method `baseline` or `kd`. Of several such students the first one with the
            same start is taken, or else the first one. None without an opponent.
        p_vs_baseline, p_vs_kd: sacreBLEU's p-values of these gains, by paired bootstrap resampling.
        sentences_per_second: speed of the model's shape: the teacher's, times the speed-up over it
            (`a2d.runs.stages.speed.read_speeds`); None if it was not measured, or the translations
            are nearly empty.
        train_seconds: training time; None for a teacher that the run did not train.
        device: device of the training, in words; None as for `train_seconds`.
        size_bytes: size of the weights on disk; None if it is unknown.
        quantization: data type of the weights of an export; empty for other models.
        refused: why an export was refused; empty for other models.
    """

    name: str
    pair: str
    method: str
    setting: str
    student: str
    seed: int
    parameters: Count | None
    bleu: FiniteFloat | None
    chrf: FiniteFloat | None
    gain_vs_baseline: FiniteFloat | None
    p_vs_baseline: FiniteFloat | None
    gain_vs_kd: FiniteFloat | None
    p_vs_kd: FiniteFloat | None
    sentences_per_second: FiniteFloat | None
    train_seconds: FiniteFloat | None
    device: str | None
    size_bytes: Count | None = None
    quantization: str = ""
    refused: str = ""

    @property
    def label(self) -> str:
        """Method, setting, data type and a mark of refused exports in one string."""
        mark = "(refused)" if self.refused else ""
        return " ".join(filter(None, (self.method, self.setting, self.quantization, mark)))


class Group(NamedTuple):
    """Rows that differ in the seed only.

    Attributes:
        rows: the rows, at least one.
    """

    rows: list[Row]

    @property
    def method(self) -> str:
        """Method of the rows."""
        return self.rows[0].method

    @property
    def label(self) -> str:
        """Method and setting of the rows in one string."""
        return self.rows[0].label

    @property
    def student(self) -> str:
        """Size of the students in short."""
        return self.rows[0].student

    def mean(self, column: str) -> float:
        """Mean of a column over seeds."""
        return float(mean(getattr(row, column) for row in self.rows))

    def deviation(self, column: str) -> float:
        """Sample standard deviation over seeds; 0 for one seed."""
        values = [getattr(row, column) for row in self.rows]
        return stdev(values) if len(values) > 1 else 0.0

    def speed_up(self, teacher: Group) -> float | None:
        """Return the ratio of their speed to the teacher's; None if one of them is unknown."""
        speeds = [row.sentences_per_second for row in (*self.rows, *teacher.rows)]
        if None in speeds:
            return None
        return self.mean("sentences_per_second") / teacher.mean("sentences_per_second")

    def count_significant(self, rival: str) -> int | None:
        """Count the seeds with a significant gain over a rival, as `count_significant` does.

        Args:
            rival: `baseline` or `kd`.

        Returns:
            The number of seeds; None without an opponent.
        """
        p_values = [getattr(row, f"p_vs_{rival}") for row in self.rows]
        if None in p_values:
            return None
        return count_significant([getattr(row, f"gain_vs_{rival}") for row in self.rows], p_values)


def count_significant(gains: Sequence[float], p_values: Sequence[float]) -> int:
    """Count gains that are significant and have the sign of their mean."""
    pairs = zip(gains, p_values, strict=True)
    return sum(p < evaluation.SIGNIFICANT and gain * sum(gains) > 0 for gain, p in pairs)


def group_rows(rows: Iterable[Row]) -> list[Group]:
    """Group rows by method, setting and student, in order of appearance."""
    groups: dict[tuple[str, str], Group] = {}
    for row in rows:
        groups.setdefault((row.label, row.student), Group([])).rows.append(row)
    return list(groups.values())


def collect(run: Run) -> list[Row]:
    """Collect the rows of a finished run: the teacher's, the students', and their exports'."""
    recipe, students, models = run.recipe, run.all(Student), models_of(run)
    corpus, references = recipe.corpus, _references(run)
    hypotheses = {name: stage.hypotheses for name, stage in translations_of(run).items()}
    figures = {stage.model.name: _figures(stage) for stage in run.all(Translations)}
    sizes = sizes_in_short(run)
    settings = distinctive_settings(students, recipe.distillation)
    speeds = {
        name: speed
        for name, speed in read_speeds(run).items()
        if name in hypotheses and not _nearly_empty(hypotheses[name], references)
    }
    comparisons: dict[str, dict[str, Any]] = {m.name: dict.fromkeys(COMPARISONS) for m in models}
    for rival in ("baseline", "kd"):
        for name, opponent, p in _compare(students, rival, hypotheses, references):
            gain = figures[name]["bleu"] - figures[opponent]["bleu"]
            comparisons[name] |= {f"gain_vs_{rival}": gain, f"p_vs_{rival}": p}
    rows = [
        Row(
            name=model.name,
            pair=f"{corpus.source_language}-{corpus.target_language}",
            method=model.method.method if model.size is not None else model.name,
            setting=settings.get(model.name, ""),
            student=sizes.get(model.name, UNKNOWN),
            seed=model.seed,
            sentences_per_second=speeds.get(model.name),
            **comparisons[model.name],
            **figures[model.name],
        )
        for model in models
    ]
    return rows + _export_rows(run, {row.name: row for row in rows})


def _export_rows(run: Run, rows: Mapping[str, Row]) -> list[Row]:
    """Make the rows of exports from those of their students, by name; without comparisons."""
    speeds = read_speeds(run)
    exports = []
    for export in run.all(Export):
        student, scores = rows[export.student.name], export.scores
        exports.append(
            replace(
                student,
                name=export.name,
                bleu=scores["bleu"],
                chrf=scores["chrf"],
                sentences_per_second=speeds.get(export.name),
                size_bytes=_bytes_of(export.model, f"*{WEIGHTS}"),
                quantization=export.quantization,
                refused=export.problem or "",
                gain_vs_baseline=None,
                p_vs_baseline=None,
                gain_vs_kd=None,
                p_vs_kd=None,
            )
        )
    return exports


def _bytes_of(folder: Path, pattern: str) -> int | None:
    """Add up the sizes of files; None if there are none."""
    sizes = [file.stat().st_size for file in folder.glob(pattern)]
    return sum(sizes) if sizes else None


def write(folder: Path, rows: list[Row], run: Run, meter: EnergyMeter) -> None:
    """Write the results of a run into a new folder; an existing one is replaced.

    Args:
        folder: folder to write.
        rows: rows of the table.
        run: the run.
        meter: energy that the command has used; that of earlier commands is added.
    """
    energy = total_energy(meter, folder / ENERGY)
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # of an interrupted attempt
    try:
        _write_files(new, rows, run, energy)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_files(
    folder: Path, rows: list[Row], run: Run, energy: Mapping[str, float] | None
) -> None:
    (folder / "hypotheses").mkdir(parents=True, exist_ok=True)
    records = [asdict(row) for row in rows]
    write_csv(folder / "scores.csv", records)
    write_text(folder / SCORES, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    curves = [
        {"name": model.name, **{key: entry.get(key) for key in _CURVE}}
        for model in trained_models_of(run)
        for entry in history(model)["log"]
        if "eval_bleu" in entry
    ]
    write_csv(folder / "curves.csv", curves)
    for name, stage in (translations_of(run) | {e.name: e for e in run.all(Export)}).items():
        write_compressed(folder / f"hypotheses/{name}.txt.gz", stage.hypotheses)
    split, corpus = run.recipe.evaluation.split, run.one(Corpus)
    write_compressed(folder / SOURCES, corpus.sources(split))
    write_compressed(folder / REFERENCES, corpus.references(split))
    rarest = corpus.rarest(split)
    if rarest is not None:
        write_compressed(folder / RAREST, map(str, rarest))
    files = corpus.files(split)
    if files is not None:
        write_compressed(folder / FILES, files)
    details = {
        "curves": mean_curves(run),
        "alignments": _alignments(run),
        "attention": sample_maps(run),
        "exports": [
            {
                "name": export.name,
                **export.fidelity._asdict(),
                "problem": export.problem,
                "doubt": export.doubt,
            }
            for export in run.all(Export)
        ],
        "corpus": {"cleaning": run.corpus.cleaning, "sizes": run.corpus.sizes},
    }
    if energy is not None:
        write_text(folder / ENERGY, json.dumps(energy) + "\n")
    write_text(folder / DETAILS, json.dumps(details, ensure_ascii=False) + "\n")
    libraries = ["torch", "transformers", "sacrebleu"]
    if run.recipe.sequences.engine == "ctranslate2":
        libraries.append("ctranslate2")
    description = {
        "recipe": run.recipe.model_dump(),
        "signatures": teacher_translations(run).figures["signatures"],
        "versions": {"a2d": a2d.__version__, **{name: version(name) for name in libraries}},
    }
    write_text(folder / DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> list[Row]:
    """Read the rows of a results folder; columns of other versions of a2d are ignored."""
    with intact(folder / SCORES):
        rows = read_results(folder / SCORES, list[Row])
        if not rows:
            raise ValueError("it has no rows")
    return rows


def history(model: Model) -> Any:
    """Read `seconds`, `device` and the Trainer's `log` of a model's training."""
    return json.loads((model.folder / HISTORY).read_text("utf-8"))


def mean_curves(run: Run) -> dict[str, list[dict[str, float]]]:
    """Average the logs of every method and size over seeds."""
    logs: dict[str, list[Any]] = {}
    for model in trained_models_of(run):
        name = model.name.removesuffix(f"-seed{model.seed}")
        logs.setdefault(name, []).append(history(model)["log"])
    return {name: mean_log(seeds) for name, seeds in logs.items()}


def mean_log(logs: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """Average the logs of several seeds: one entry per step that all seeds have.

    The Trainer logs training and validation of a step as two entries, and a summary as a third.
    They are merged into one entry; of a figure in several of them, the last one counts.

    Args:
        logs: the Trainer's log history of each seed.
    """
    merged: list[dict[float, dict[str, float]]] = []
    for log in logs:
        steps: dict[float, dict[str, float]] = {}
        for entry in log:
            figures = {key: float(value) for key, value in entry.items()}
            steps.setdefault(figures["step"], {}).update(figures)
        merged.append(steps)
    return [
        {
            key: mean(steps[step][key] for steps in merged)
            for key in figures
            if all(key in steps[step] for steps in merged)
        }
        for step, figures in (merged[0] if merged else {}).items()
        if all(step in steps for steps in merged)
    ]


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records that have the same keys."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    shutil.move(temporary, path)


def write_compressed(path: Path, lines: Iterable[str]) -> None:
    """Write lines compressed by gzip; equal lines give equal bytes."""
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0))


def read_compressed(path: Path) -> list[str]:
    """Read the lines of `write_compressed`."""
    with intact(path):
        if not path.stat().st_size:  # not even no lines
            raise EOFError("it is empty")
        with gzip.open(path) as file:
            data = file.read(_MAX_TEXT + 1)
        if len(data) > _MAX_TEXT:
            raise ValueError(f"it has more than {_MAX_TEXT:,} bytes")
        lines = data.decode().split("\n")[:-1]
        if max(map(len, lines), default=0) > MAX_SEGMENT:
            raise ValueError(f"a line has more than {MAX_SEGMENT:,} characters")
        return lines


_MAX_TEXT = 200_000_000
"""Largest text of a file of results, in bytes."""


_CURVE = ("step", "epoch", "seconds", "eval_loss", "eval_ce", "eval_bleu", "eval_chrf")


def _alignments(run: Run) -> dict[str, Any]:
    """Describe the alignments of the first seed's students, for heat maps."""
    first = run.recipe.seeds[0]
    found = {}
    for model in run.all(Student):
        path = model.folder / FILE_NAME
        if model.seed == first and path.exists():
            alignment = AttentionAlignment.load(path)
            found[model.name] = {
                group: {
                    "weights": [[round(w, 3) for w in row] for row in weights.tolist()],
                    "student": alignment.student.heads(group),
                    "teacher": alignment.teacher.heads(group),
                }
                for group, weights in alignment.weights.items()
            }
    return found


def _references(run: Run) -> list[str]:
    return run.one(Corpus).references(run.recipe.evaluation.split)


def _figures(stage: Translations) -> dict[str, Any]:
    """Collect scores, sizes and training time of a model, as columns of `Row`."""
    scores, model = stage.figures, stage.model
    for name in ("signatures", *SIZES):
        scores.pop(name, None)  # external systems have no sizes
    trained = history(model) if model.trained else {"seconds": None, "device": None}
    place = Path(model_path(model.path)) if model.path else None
    return {
        **scores,
        "size_bytes": None if place is None else _bytes_of(place, "*.safetensors"),
        "train_seconds": trained["seconds"],
        "device": trained["device"],
    }


def _nearly_empty(hypotheses: Sequence[str], references: Sequence[str]) -> bool:
    """Return whether translations have less than a tenth of the references' characters."""
    return 10 * sum(map(len, hypotheses)) < sum(map(len, references))


def _compare(
    students: Sequence[Model],
    rival: str,
    hypotheses: Mapping[str, list[str]],
    references: list[str],
) -> Iterator[tuple[str, str, float]]:
    """Yield names of student and opponent with the p-value of their difference.

    Args:
        students: all students.
        rival: method of the opponents.
        hypotheses: translations by name of the model.
        references: references of the evaluated set.
    """
    challengers: dict[str, dict[str, list[str]]] = {}
    for student in students:
        opponent = _opponent(student, students, rival)
        if opponent is not None and opponent is not student:
            challengers.setdefault(opponent.name, {})[student.name] = hypotheses[student.name]
    for opponent_name, others in challengers.items():
        for name, p in evaluation.p_values(hypotheses[opponent_name], others, references).items():
            yield name, opponent_name, p


def _opponent(student: Model, students: Sequence[Model], rival: str) -> Model | None:
    """Choose the student of method `rival` with the same shape and seed, and start if possible."""
    candidates = [
        other
        for other in students
        if other.method.method == rival
        and (other.shape, other.seed) == (student.shape, student.seed)
    ]
    start = student.method.student_start
    same_start = [other for other in candidates if other.method.student_start == start]
    return next(iter([*same_start, *candidates]), None)
