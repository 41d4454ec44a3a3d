"""What a run found, as files that stand alone: scores, learning curves, translations.

A results folder can be moved, committed and read without the run that wrote it:

    scores.csv, scores.json       one row per student and for the teacher (`Row`)
    curves.csv                    validation scores during training, with the seconds it had taken
    hypotheses/NAME.txt.gz        each model's translations, one a line
    references.txt.gz             what they are compared with
    run.json                      recipe, sacreBLEU signatures, versions
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import a2d
from a2d.files import write_text
from a2d.runs.settings import MethodSettings
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.models import Model
from a2d.runs.stages.speed import read_speeds
from a2d.runs.stages.students import Student, models_of, trained_models_of
from a2d.runs.stages.translations import Translations, teacher_translations, translations_of
from a2d.runs.training import HISTORY
from a2d.text.evaluation import p_values

if TYPE_CHECKING:
    from a2d.runs.run import Run

SIGNIFICANT = 0.05
UNKNOWN = "–"
COMPARISONS = ("gain_vs_baseline", "p_vs_baseline", "gain_vs_kd", "p_vs_kd")


@dataclass(frozen=True)
class Row:
    """One model of a grid.

    `setting` names the settings in which it differs from other rows of the grid. Gains in BLEU and
    sacreBLEU's p-values, of paired bootstrap resampling, are against the student of the same size
    and seed, with the recipe's first setting of that method that starts alike, or else its first;
    None where there is none. `sentences_per_second` is that of the model's shape
    (`a2d.runs.speeds`); None where it was not measured or the translations are all but empty.
    `train_seconds` and `device` are None for a pretrained teacher. Of a teacher that a2d cannot
    load, `parameters` are None and `student` is a dash; so are `bleu` and `chrf` where its
    translations of the evaluated set are not known.
    """

    name: str
    pair: str
    method: str
    setting: str
    student: str
    seed: int
    parameters: int | None
    bleu: float | None
    chrf: float | None
    gain_vs_baseline: float | None
    p_vs_baseline: float | None
    gain_vs_kd: float | None
    p_vs_kd: float | None
    sentences_per_second: float | None
    train_seconds: float | None
    device: str | None

    @property
    def label(self) -> str:
        """The method with its setting."""
        return f"{self.method} {self.setting}".strip()


class Group(NamedTuple):
    """The rows that differ in nothing but the seed."""

    rows: list[Row]

    @property
    def method(self) -> str:
        """Their method."""
        return self.rows[0].method

    @property
    def label(self) -> str:
        """Their method with its setting."""
        return self.rows[0].label

    @property
    def student(self) -> str:
        """Their size."""
        return self.rows[0].student

    def mean(self, column: str) -> float:
        """Mean of a column over seeds."""
        return float(mean(getattr(row, column) for row in self.rows))

    def deviation(self, column: str) -> float:
        """Sample standard deviation over seeds; 0 for one seed."""
        values = [getattr(row, column) for row in self.rows]
        return stdev(values) if len(values) > 1 else 0.0

    def speed_up(self, teacher: Group) -> float | None:
        """How many times as fast as the teacher they translate; None without either's speed."""
        speeds = [row.sentences_per_second for row in (*self.rows, *teacher.rows)]
        if None in speeds:
            return None
        return self.mean("sentences_per_second") / teacher.mean("sentences_per_second")

    def significant(self, rival: str) -> int | None:
        """In how many seeds the mean gain over a rival shows, p < 0.05; None without a rival."""
        chances = [getattr(row, f"p_vs_{rival}") for row in self.rows]
        if None in chances:
            return None
        return significant([getattr(row, f"gain_vs_{rival}") for row in self.rows], chances)


def significant(gains: Sequence[float], chances: Sequence[float]) -> int:
    """How many gains are both significant and on the side of their mean, given their p-values."""
    pairs = zip(gains, chances, strict=True)
    return sum(p < SIGNIFICANT and gain * sum(gains) > 0 for gain, p in pairs)


def grouped(rows: Iterable[Row]) -> list[Group]:
    """Rows by method, setting and student, in order of appearance."""
    groups: dict[tuple[str, str], Group] = {}
    for row in rows:
        groups.setdefault((row.label, row.student), Group([])).rows.append(row)
    return list(groups.values())


def collect(run: Run) -> list[Row]:
    """Collect the rows of a finished run, the teacher's first."""
    recipe, students, models = run.recipe, run.all(Student), models_of(run)
    corpus, references = recipe.corpus, _references(run)
    hypotheses = {name: stage.hypotheses for name, stage in translations_of(run).items()}
    figures = {stage.model.name: _figures(stage) for stage in run.all(Translations)}
    settings = _settings(students, recipe.distillation)
    speeds = {
        name: speed
        for name, speed in read_speeds(run).items()
        if not _all_but_empty(hypotheses[name], references)
    }
    against: dict[str, dict[str, Any]] = {m.name: dict.fromkeys(COMPARISONS) for m in models}
    for rival in ("baseline", "kd"):
        for name, opponent, p in _compare(students, rival, hypotheses, references):
            gain = figures[name]["bleu"] - figures[opponent]["bleu"]
            against[name] |= {f"gain_vs_{rival}": gain, f"p_vs_{rival}": p}
    return [
        Row(
            name=model.name,
            pair=f"{corpus.source_language}-{corpus.target_language}",
            method=model.method.method if model.size is not None else model.name,
            setting=settings.get(model.name, ""),
            seed=model.seed,
            sentences_per_second=speeds.get(model.name),
            **against[model.name],
            **figures[model.name],
        )
        for model in models
    ]


def write(folder: Path, rows: list[Row], run: Run) -> None:
    """Write a run's results folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "hypotheses").mkdir(parents=True, exist_ok=True)
    write_csv(folder / "scores.csv", [asdict(row) for row in rows])
    records = [asdict(row) for row in rows]
    write_text(folder / "scores.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    curves = [
        {"name": model.name, **{key: entry.get(key) for key in _CURVE}}
        for model in trained_models_of(run)
        for entry in history(model)["log"]
        if "eval_bleu" in entry
    ]
    write_csv(folder / "curves.csv", curves)
    for name, stage in translations_of(run).items():
        write_compressed(folder / f"hypotheses/{name}.txt.gz", stage.hypotheses)
    write_compressed(folder / "references.txt.gz", _references(run))
    libraries = ["torch", "transformers", "sacrebleu"]
    if run.recipe.sequences.engine == "ctranslate2":
        libraries.append("ctranslate2")
    description = {
        "recipe": run.recipe.model_dump(),
        "signatures": teacher_translations(run).figures["signatures"],
        "versions": {"a2d": a2d.__version__, **{name: version(name) for name in libraries}},
    }
    write_text(folder / "run.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> list[Row]:
    """Read the scores that `write` wrote."""
    columns = {field.name for field in fields(Row)}
    records = json.loads((folder / "scores.json").read_text("utf-8"))
    return [Row(**{k: v for k, v in record.items() if k in columns}) for record in records]


def history(model: Model) -> Any:
    """Seconds, device and log of a training."""
    return json.loads((model.folder / HISTORY).read_text("utf-8"))


def mean_log(logs: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """Average the logs of several seeds: one entry per step that all of them have.

    The Trainer logs training and validation of one step as two entries, and a summary as a third;
    here they are one. A figure that several of them hold, as the seconds, is the last one's.
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
    """Write records of the same keys."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    shutil.move(temporary, path)


def write_compressed(path: Path, lines: Iterable[str]) -> None:
    """Write gzip'd lines; the same lines give the same bytes."""
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0))


def read_compressed(path: Path) -> list[str]:
    """Read what `write_compressed` wrote."""
    return gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]


_CURVE = ("step", "epoch", "seconds", "eval_loss", "eval_ce", "eval_bleu", "eval_chrf")


def _references(run: Run) -> list[str]:
    return run.one(Corpus).references(run.recipe.evaluation.split)


def _figures(stage: Translations) -> dict[str, Any]:
    scores, model = stage.figures, stage.model
    layers = ("encoder_layers", "decoder_layers", "heads")
    shape = UNKNOWN if model.foreign else "{}+{}x{}".format(*map(scores.pop, layers))
    del scores["signatures"]
    scores.pop("sentences_per_second", None)  # of earlier versions, measured side by side
    trained = history(model) if model.trained else {"seconds": None, "device": None}
    return {
        **scores,
        "student": model.size or shape,
        "train_seconds": trained["seconds"],
        "device": trained["device"],
    }


def _all_but_empty(hypotheses: Sequence[str], references: Sequence[str]) -> bool:
    """Whether translations hold less than a tenth of the references' characters."""
    return 10 * sum(map(len, hypotheses)) < sum(map(len, references))


_SETTINGS = [field.name for field in fields(MethodSettings) if field.name != "method"]


def _settings(students: Sequence[Model], shared: MethodSettings) -> dict[str, str]:
    """Names of students → the settings in which they differ from other students.

    A setting that has the recipe's shared value goes without saying, unless it alone tells the
    method's students apart.
    """
    varied = {
        key for key in _SETTINGS if len({_used(student, key) for student in students} - {None}) > 1
    }
    labels = {}
    for student in students:
        method = student.method
        alike = [other.method for other in students if other.method.method == method.method]
        apart = {k for k in _SETTINGS if len({getattr(m, k) for m in alike}) > 1}
        labels[student.name] = " ".join(
            f"{key}={getattr(method, key)}"
            for key in _SETTINGS
            if key in apart | varied
            and (getattr(method, key) != getattr(shared, key) or apart == {key})
            and (key in apart or _used(student, key) is not None)
        )
    return labels


def _used(student: Model, key: str) -> Any:
    """A setting of a student's method; None where its training does not depend on it."""
    return student.settings["method"].get(key, _UNSAID.get(key))


_UNSAID = {"student_start": "random"}
"""Values that a stage's settings leave out."""


def _compare(
    students: Sequence[Model],
    rival: str,
    hypotheses: Mapping[str, list[str]],
    references: list[str],
) -> Iterator[tuple[str, str, float]]:
    """Student, opponent and p-value of every comparison with a rival other than oneself."""
    compared: dict[str, dict[str, list[str]]] = {}
    for student in students:
        opponent = _opponent(student, students, rival)
        if opponent is not None and opponent is not student:
            compared.setdefault(opponent.name, {})[student.name] = hypotheses[student.name]
    for against, others in compared.items():
        for name, p in p_values(hypotheses[against], others, references).items():
            yield name, against, p


def _opponent(student: Model, students: Sequence[Model], rival: str) -> Model | None:
    """The rival of the same shape and seed; if it can be, with the same start."""
    alike = [
        other
        for other in students
        if other.method.method == rival
        and (other.shape, other.seed) == (student.shape, student.seed)
    ]
    start = student.method.student_start
    same = [other for other in alike if other.method.student_start == start]
    return next(iter([*same, *alike]), None)
