"""How good a student is: its validation scores beside its teacher's, and beside copied sources."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from a2d.files import write_text
from a2d.models.decoding import translate
from a2d.models.loading import load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.runs.lines import one_line
from a2d.stage import Stage
from a2d.text.evaluation import score
from a2d.text.pairs import Pair

if TYPE_CHECKING:
    from a2d.runs.stages.models import Model

YARDSTICK = "yardstick.json"
LEAST_SHARE = 0.75
"""Share of its teacher's validation chrF that a student must keep by default."""


class Quality(NamedTuple):
    """BLEU and chrF on the validation set, of greedy translations."""

    bleu: float
    chrf: float


@dataclass(frozen=True)
class Yardstick:
    """What validation scores are compared with.

    Attributes:
        teacher: the teacher's scores.
        copy: scores of the source itself, as if nothing were translated.
        seconds: time that the teacher took to translate the validation set.
    """

    teacher: Quality
    copy: Quality
    seconds: float


def measure_yardstick(
    stage: Stage, teacher: str, tokenizer: Path, pairs: Sequence[Pair], report: Report
) -> None:
    """Carry out the stage of the yardstick: translate the validation set with the teacher."""
    started = time.perf_counter()
    quality = measure_quality("the teacher", teacher, tokenizer, pairs, report)
    seconds = time.perf_counter() - started
    with stage.work() as folder:
        write_yardstick(folder, quality, pairs, seconds)


def write_yardstick(folder: Path, teacher: Quality, pairs: Sequence[Pair], seconds: float) -> None:
    """Put the teacher's scores on the validation set beside those of copied sources."""
    sources, references = zip(*pairs, strict=True)
    copy = score(sources, references)
    yardstick = Yardstick(teacher, Quality(copy.bleu, copy.chrf), seconds)
    write_text(folder / YARDSTICK, json.dumps(asdict(yardstick), indent=1) + "\n")


def read_yardstick(folder: Path) -> Yardstick:
    """Read what `write_yardstick` wrote into a stage's folder."""
    raw: dict[str, Any] = json.loads((folder / YARDSTICK).read_text("utf-8"))
    return Yardstick(Quality(*raw["teacher"]), Quality(*raw["copy"]), raw["seconds"])


def measure_quality(
    name: str, model: str, tokenizer: Path, pairs: Sequence[Pair], report: Report
) -> Quality:
    """Translate the validation set greedily and score it."""
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
    """Whether a student is fit for use.

    Attributes:
        student: its scores.
        yardstick: what they are compared with.
        least_share: share of the teacher's chrF that it must keep.
        advice: what would help, a sentence each; empty for a student that passes.
    """

    student: Quality
    yardstick: Yardstick
    least_share: float
    advice: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the teacher's validation chrF that the student keeps."""
        return self.student.chrf / max(self.yardstick.teacher.chrf, 1e-9)

    @property
    def beats_copying(self) -> bool:
        """Whether the student is better than leaving the source as it is."""
        copy = self.yardstick.copy
        return self.student.chrf > copy.chrf and self.student.bleu > copy.bleu

    @property
    def passed(self) -> bool:
        """Whether the student keeps enough and is better than copying."""
        return self.share >= self.least_share and self.beats_copying

    @property
    def summary(self) -> str:
        """The figures in one sentence."""
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
        if not self.passed:
            return f"{text}; {self.least_share:.0%} is the least that counts as a success."
        return f"{text}."


def advise(model: Model, pairs: int, improving: bool) -> tuple[str, ...]:
    """What would help a student that failed, the most promising first.

    Args:
        model: the student.
        pairs: training pairs.
        improving: its last validation was its best.
    """
    assert model.training is not None
    advice = []
    if improving and model.training.max_hours is not None:
        advice.append("It was still improving when its time was up: raise --hours.")
    elif improving:
        advice.append("It was still improving at its last update: raise --epochs.")
    if model.method.student_start != "teacher":
        advice.append(
            "It started from random weights: start it from its teacher's (--start teacher)."
        )
    else:
        advice.append("Give it more of its teacher's layers (--student-layers).")
    if pairs < 20_000:
        advice.append(
            f"{pairs:,} pairs are few: add parallel text of the same kind (--data may be given "
            "several times), or source text that the teacher translates (--method seqkd+kd "
            "corpus.monolingual=FILE)."
        )
    return tuple(advice)
