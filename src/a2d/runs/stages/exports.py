"""Stages of exports: each student in CTranslate2, compared with the student, and scored."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from a2d.files import write_text
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.models.fidelity import EXACT, MAX_DOUBTED, Fidelity, Original, compare_export
from a2d.progress import Event, Report
from a2d.runs.lines import one_line, read_lines, write_lines
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.settings import EvaluationSettings
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.students import Student
from a2d.runs.stages.translations import HYPOTHESES, SCORES, Translations
from a2d.text.evaluation import score

MODEL = "model"
"""Folder of the exported model, in the stage's folder."""
FIDELITY = "fidelity.json"


@dataclass(frozen=True)
class Export(RunStage):
    """An export of a student, with its fidelity and its translations of the evaluated set.

    An export that is not faithful is not kept; its translations are, for the report.

    Attributes:
        student: the student.
        quantization: data type of the weights.
    """

    student: Student
    quantization: str

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List a stage for each student and quantization.

        Where the data type is to be found, a further one is listed once those before it have been
        refused.
        """
        settings = run.recipe.export
        search = run.recipe.evaluation.model_dump(include={"split", "beams"})
        search["max_loss"] = settings.max_loss
        stages: list[Self] = []
        for student in run.all(Student):
            for quantization in settings.candidates or settings.quantizations:
                stage = cls(
                    run.folder / "exports" / f"{student.name}-{quantization}",
                    {"model": student.fingerprint, "quantization": quantization, **search},
                    student,
                    quantization,
                )
                stages.append(stage)
                if settings.candidates and not (stage.done and stage.may_be_bettered):
                    break
        return stages

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Make the unfinished exports, as many at once as the recipe allows."""
        search, corpus = run.recipe.evaluation, run.one(Corpus)
        max_loss = run.recipe.export.max_loss
        valid, evaluated = (
            (corpus.sources(split), corpus.references(split)) for split in ("valid", search.split)
        )
        while waiting := [stage for stage in run.all(cls) if not stage.done]:
            futures = [
                run.workers.submit(make_export, stage, valid, evaluated, search, max_loss)
                for stage in waiting
            ]
            for future in futures:
                future.result()
            run.list_again()
        advice = "`a2d export --quantization auto` tries data types of more precision."
        students = {each.model.name: each.figures["bleu"] for each in run.all(Translations)}
        for stage in run.all(cls):
            if stage.problem is not None:
                refusal = f"The export {stage.name} was refused: {stage.problem}."
                run.warn(refusal if run.recipe.export.candidates else f"{refusal} {advice}")
            elif stage.doubt is not None:
                run.warn(f"The export {stage.name}: {stage.doubt}.")
            elif search.split == "test" and stage.quantization != EXACT:
                lost = students[stage.student.name] - stage.scores["bleu"]
                if lost > max(max_loss, MAX_DOUBTED):
                    run.warn(
                        f"The export {stage.name} loses {lost:.1f} BLEU on the test set, more than "
                        "on the validation set: compare their translations, or export with "
                        f"`a2d export --quantization {EXACT}`."
                    )

    @property
    def name(self) -> str:
        """Name in tables and files."""
        return self.folder.name

    @property
    def model(self) -> Path:
        """Folder of the exported model."""
        return self.folder / MODEL

    @property
    def fidelity(self) -> Fidelity:
        """The comparison with the student on the validation set."""
        return Fidelity(**json.loads((self.folder / FIDELITY).read_text("utf-8")))

    @property
    def problem(self) -> str | None:
        """Why the export was refused; None if it was not."""
        return self.fidelity.problem(self.settings["max_loss"])

    @property
    def doubt(self) -> str | None:
        """Which loss may be chance; None if none is more than the limit."""
        return self.fidelity.doubt(self.settings["max_loss"])

    @property
    def may_be_bettered(self) -> bool:
        """Whether the export was refused, and one of more precision may not be."""
        return self.problem is not None and self.fidelity.is_measurable

    @property
    def hypotheses(self) -> list[str]:
        """Translations of the evaluated set, one line each."""
        return read_lines(self.folder / HYPOTHESES)

    @property
    def scores(self) -> dict[str, Any]:
        """BLEU and chrF of the evaluated set, with signatures."""
        scores: dict[str, Any] = json.loads((self.folder / SCORES).read_text("utf-8"))
        return scores


Texts = tuple[list[str], list[str]]
"""Sources and references of a held-out set."""


def make_export(
    stage: Export,
    valid: Texts,
    evaluated: Texts,
    search: EvaluationSettings,
    max_loss: float,
    report: Report,
) -> None:
    """Execute a stage, in any process.

    Args:
        stage: the stage.
        valid: the validation set, on which export and student are compared.
        evaluated: the evaluated set.
        search: settings of the evaluation.
        max_loss: largest loss of BLEU and of chrF.
        report: receiver of progress events.
    """
    sources, references = evaluated
    task = f"exporting: {stage.name}"
    with stage.work() as folder:
        shutil.rmtree(folder / MODEL, ignore_errors=True)  # of an interrupted attempt
        export(stage.student.path, folder / MODEL, stage.quantization)
        texts, proof = valid
        original = Original(
            stage.student.path,
            texts,
            search.beams,
            lambda done: report(Event(task, done, len(texts))),
        )
        fidelity = compare_export(original, folder / MODEL, stage.quantization, proof)
        write_text(folder / FIDELITY, json.dumps(fidelity._asdict(), ensure_ascii=False) + "\n")
        hypotheses = ExportedModel(folder / MODEL).translate(sources, beams=search.beams)
        write_lines(folder / HYPOTHESES, hypotheses)
        scores = score(list(map(one_line, hypotheses)), references)
        write_text(folder / SCORES, json.dumps(scores._asdict(), indent=1) + "\n")
        if fidelity.problem(max_loss) is not None:
            shutil.rmtree(folder / MODEL)
