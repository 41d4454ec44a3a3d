"""The stages of a run, in the order in which they are carried out."""

from a2d.runs.stages.base import RunStage
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.prepared import PreparedTeacher
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.signals import TeacherSignals
from a2d.runs.stages.speed import Speed
from a2d.runs.stages.students import Student
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.stages.translations import Translations
from a2d.runs.stages.vocabulary import Tokens, Vocabulary

PREPARATION: list[type[RunStage]] = [Corpus, PreparedTeacher, Vocabulary, Tokens]
"""Quick stages. Mistakes in the input show in them."""

AFTER_PREPARATION: list[type[RunStage]] = [
    Teacher,
    TeacherScores,  # before what takes long: mistakes of a system elsewhere show here
    Sequences,
    TeacherSignals,
    Student,
    Translations,
    Speed,
]


def register_stage(kind: type[RunStage]) -> type[RunStage]:
    """Add a kind of stage, which is carried out after all others; usable as a decorator."""
    AFTER_PREPARATION.append(kind)
    return kind
