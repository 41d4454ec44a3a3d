"""Verdict on a student: its validation scores compared with its teacher's and copied sources'."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from a2d.files import write_text
from a2d.models.decoding import translate
from a2d.models.loading import load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.runs.lines import one_line
from a2d.runs.model import Model
from a2d.stage import Stage
from a2d.text.evaluation import score
from a2d.text.pairs import Pair
from a2d.training.schedule import FINISH_SHARE

YARDSTICK = "yardstick.json"
VERDICT = "verdict.json"
"""File of the verdict, in a run's folder."""


class Quality(NamedTuple):
    """Scores of greedy translations of the validation set.

    Attributes:
        bleu, chrf: sacreBLEU's scores, 0 to 100.
    """

    bleu: float
    chrf: float


@dataclass(frozen=True)
class Yardstick:
    """Scores that a student's validation scores are compared with.

    Attributes:
        teacher: the teacher's scores.
        copy: scores of the sources themselves, as if nothing were translated.
        seconds: time that the teacher took to translate the validation set.
    """

    teacher: Quality
    copy: Quality
    seconds: float

    def beats_copying(self, quality: Quality) -> bool:
        """Return whether scores are better than those of copied sources."""
        return quality.chrf > self.copy.chrf and quality.bleu > self.copy.bleu

    @property
    def doubt(self) -> str | None:
        """Clause on a teacher that is no better than copied sources; None for any other one."""
        if self.beats_copying(self.teacher):
            return None
        return (
            "the teacher translates the validation set no better than copied sources (chrF "
            f"{self.teacher.chrf:.1f} and {self.copy.chrf:.1f}, BLEU {self.teacher.bleu:.1f} and "
            f"{self.copy.bleu:.1f}): check --source and --target, --teacher-languages and "
            "--source-prefix"
        )


def measure_yardstick(
    stage: Stage, teacher: str, tokenizer: Path, pairs: Sequence[Pair], report: Report
) -> None:
    """Carry out the stage of the yardstick: translate the validation set with the teacher.

    Args:
        stage: the stage.
        teacher: folder or hub name of the teacher.
        tokenizer: folder of the tokenizer.
        pairs: the validation set.
        report: receives progress events.
    """
    started = time.perf_counter()
    quality = measure_quality("the teacher", teacher, tokenizer, pairs, report)
    seconds = time.perf_counter() - started
    with stage.work() as folder:
        write_yardstick(folder, quality, pairs, seconds)


def write_yardstick(folder: Path, teacher: Quality, pairs: Sequence[Pair], seconds: float) -> None:
    """Score copied sources, and write the yardstick into a stage's folder."""
    sources, references = zip(*pairs, strict=True)
    copy = score(sources, references)
    yardstick = Yardstick(teacher, Quality(copy.bleu, copy.chrf), seconds)
    write_text(folder / YARDSTICK, json.dumps(asdict(yardstick), indent=1) + "\n")


def read_yardstick(folder: Path) -> Yardstick:
    """Read the yardstick in a stage's folder."""
    raw: dict[str, Any] = json.loads((folder / YARDSTICK).read_text("utf-8"))
    return Yardstick(Quality(*raw["teacher"]), Quality(*raw["copy"]), raw["seconds"])


def measure_quality(
    name: str, model: str, tokenizer: Path, pairs: Sequence[Pair], report: Report
) -> Quality:
    """Translate the validation set greedily, and score the translations.

    Args:
        name: name of the model in progress events.
        model: folder or hub name of the model.
        tokenizer: folder of the tokenizer.
        pairs: the validation set.
        report: receives progress events.
    """
    sources, references = zip(*pairs, strict=True)
    task = f"validating: {name}"
    hypotheses = translate(
        load_to_run(model),
        load_tokenizer(tokenizer),
        sources,
        beams=1,
        progress=lambda done: report(Event(task, done, len(sources))),
    )
    return quality_of(hypotheses, references)


def quality_of(hypotheses: Sequence[str], references: Sequence[str]) -> Quality:
    """Score translations of the validation set."""
    scores = score(list(map(one_line, hypotheses)), list(map(one_line, references)))
    return Quality(scores.bleu, scores.chrf)


@dataclass(frozen=True)
class Verdict:
    """Judgement whether a student is fit for use.

    Attributes:
        student: the student's scores.
        yardstick: scores of the teacher and of copied sources.
        least_share: share of the teacher's chrF that the student must keep, 0 to 1.
        advice: sentences with measures against a failure; empty for a student that passes.
    """

    student: Quality
    yardstick: Yardstick
    least_share: float
    advice: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the teacher's validation chrF that the student keeps, 0 to 1."""
        return self.student.chrf / max(self.yardstick.teacher.chrf, 1e-9)

    @property
    def beats_copying(self) -> bool:
        """Return whether the student scores better than copied sources."""
        return self.yardstick.beats_copying(self.student)

    @property
    def passed(self) -> bool:
        """Return whether the student keeps enough chrF, and both models beat copied sources."""
        judged = self.yardstick.doubt is None  # otherwise the teacher is no measure
        return judged and self.share >= self.least_share and self.beats_copying

    @property
    def summary(self) -> str:
        """Sum up the scores in one sentence."""
        student, teacher = self.student, self.yardstick.teacher
        text = (
            f"The student keeps {self.share:.0%} of its teacher's validation chrF "
            f"({student.chrf:.1f} of {teacher.chrf:.1f}; BLEU {student.bleu:.1f} of "
            f"{teacher.bleu:.1f})"
        )
        if not self.beats_copying:
            copy = self.yardstick.copy
            return (
                f"{text}, and is no better than copying the source (chrF {copy.chrf:.1f}, BLEU "
                f"{copy.bleu:.1f})."
            )
        if self.yardstick.doubt is not None:
            return f"{text}, but its teacher is no better than copying the source."
        if not self.passed:
            return f"{text}, less than the required {self.least_share:.0%}."
        return f"{text}."


def advise(model: Model, pairs: int, improving: bool, seconds: float) -> tuple[str, ...]:
    """List measures against the failure of a student, the most promising first.

    Args:
        model: the student.
        pairs: number of training pairs.
        improving: whether its last validation was its best.
        seconds: duration of its training.
    """
    assert model.training is not None
    hours, advice = model.training.max_hours, []
    if improving and hours is not None and seconds >= 3600 * hours * (1 - FINISH_SHARE):
        advice.append("It was still improving when its time ended: raise --hours.")
    elif improving:
        advice.append(
            "It was still improving at its last update: train longer (--epochs, or "
            "training.max_steps)."
        )
    if model.method.student_start != "teacher":
        advice.append(
            "It started from random weights: start it from its teacher's (--start teacher)."
        )
    else:
        advice.append("Give it more of its teacher: more layers or a greater width (--student).")
    if pairs < 20_000:
        advice.append(
            f"{pairs:,} pairs are few: add parallel text of the same kind (--data may be given "
            "several times), or source text that the teacher translates (--method seqkd+kd "
            "corpus.monolingual=FILE)."
        )
    return tuple(advice)
