"""Stages of a run, in the order in which they are executed."""

from a2d.errors import UserError
from a2d.plugin_errors import defined_at
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage, check_stage
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.exports import Export
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.prepared import PreparedTeacher
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.speed import Speed
from a2d.runs.stages.students import Student, StudentStart
from a2d.runs.stages.teacher_outputs import TeacherOutputs
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.stages.translations import Translations
from a2d.runs.stages.vocabulary import Tokens, Vocabulary

PREPARATION: list[type[RunStage]] = [Corpus, PreparedTeacher, Vocabulary, Tokens]
"""Quick stages, which detect mistakes in the input."""

AFTER_PREPARATION: list[type[RunStage]] = [
    Teacher,
    TeacherScores,  # before the slow stages, to detect mistakes of an external system
    Sequences,
    TeacherOutputs,
    StudentStart,
    Student,
    Translations,
    Export,
    Speed,
]


def all_stages(run: Run) -> list[RunStage]:
    """List all stages of a run, in the order in which they are carried out."""
    return [stage for kind in (*PREPARATION, *AFTER_PREPARATION) for stage in run.all(kind)]


def register_stage(kind: type[RunStage]) -> type[RunStage]:
    """Add a kind of stage, to be executed after all others; usable as a decorator.

    Raises:
        UserError: it is not a subclass of `RunStage` with the methods `of` and `make`, or has been
            added already.
    """
    check_stage(kind)
    if kind in AFTER_PREPARATION:
        raise UserError(f"the stage {defined_at(kind)} is registered twice: remove one of the two.")
    AFTER_PREPARATION.append(kind)
    return kind
