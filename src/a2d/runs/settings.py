"""Sections of a recipe: settings, their defaults, and what they may be."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from a2d.models.decoding import MAX_BEAMS
from a2d.models.loading import MAX_LAYERS
from a2d.models.students import Start
from a2d.runs.sections import CONFIG, Section, check_numbers
from a2d.training.settings import MethodName, ObjectiveSettings, TrainingSettings

LONGEST_NAME = 180
"""Characters: names of files have 255 at most, and some begin with this one."""

Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$", max_length=LONGEST_NAME)]
"""What names a folder."""

MOST_PARALLEL = 256
"""Processes at once."""
MOST_TOKENS = 1_000_000
"""Tokens of a vocabulary; its training takes memory for all of them at once."""

CorpusSpec = str | dict[str, Any] | list[str | dict[str, Any] | list[str]]


class Cleaning(Section):
    """Rules that training pairs must pass (`a2d.text.cleaning.clean`); null switches one off.

    `language`: no side is clearly in another language than the corpus's; `auto`: where the
    identifier of languages is installed (`a2d.text.identification`).
    """

    max_words: int | None = Field(default=250, ge=1)
    max_ratio: float | None = Field(default=3.0, ge=1)
    min_letters: float | None = Field(default=None, ge=0, le=1)
    drop_copies: bool = False
    consistent: bool = False
    language: bool | Literal["auto"] = False
    deduplicate: bool | Literal["near"] = True


class Corpus(Section):
    """Where the parallel text is (`a2d.text.corpus.read_corpus` lists the forms).

    Without `valid` or `test`, a twentieth of the training pairs, 1,000 at most, is held out for it.
    `monolingual`: plain text files in the source language, one sentence a line, for methods that
    learn from the teacher's translations (`a2d.text.monolingual`).
    """

    source_language: str
    target_language: str
    train: CorpusSpec
    valid: CorpusSpec | None = None
    test: CorpusSpec | None = None
    monolingual: str | list[str] | None = None
    cleaning: Cleaning = Cleaning()
    limit: int | None = Field(default=None, ge=1)


class Vocabulary(Section):
    """Joint subword vocabulary: its size, or the folder of one to use."""

    replaces: ClassVar = {"size": ("path",)}

    size: int = Field(default=8000, ge=300, le=MOST_TOKENS)
    path: str | None = None


@dataclass(config=CONFIG)
class Training(TrainingSettings):
    """How a model is trained.

    Attributes:
        num_train_epochs: passes over the data.
        max_steps: updates, in place of `num_train_epochs`.
        evaluate_every: epochs between two validations.
        sized: settings that the recipe does not name follow from the corpus and the student
            (`a2d.runs.schedule`), those of the objective included.
    """

    replaces: ClassVar = TrainingSettings.replaces | {
        "num_train_epochs": ("max_steps",),
        "max_steps": ("num_train_epochs",),
    }

    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Annotated[int, Field(ge=1)] | None = None
    evaluate_every: Annotated[float, Field(gt=0)] = 1.0
    sized: bool = False

    _bounded = model_validator(mode="after")(check_numbers)

    @model_validator(mode="after")
    def _limited(self) -> Training:
        lengths = [self.num_train_epochs, self.max_steps]
        if lengths.count(None) != 1 and not (self.sized and lengths.count(None) == 2):
            raise ValueError("give its length, as either num_train_epochs or max_steps")
        if self.max_hours is not None and self.plateau_patience is None:
            raise ValueError("max_hours limits a schedule that can end early: set plateau_patience")
        return self


class Shape(Section):
    """Size of a model.

    `decoder_heads`, `decoder_feed_forward`: those of its decoder, if they are not the encoder's.
    """

    encoder_layers: int = Field(ge=1, le=MAX_LAYERS)
    decoder_layers: int = Field(ge=1, le=MAX_LAYERS)
    heads: int = Field(ge=1)
    decoder_heads: int | None = Field(default=None, ge=1)
    width: int = Field(ge=2)
    feed_forward: int = Field(ge=1)
    decoder_feed_forward: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    activation_dropout: float = Field(default=0.0, ge=0, lt=1)


_FOREIGN = ("command", "translations")
_TRAINED = ("languages", "source_prefix", "trim")
_KINDS = ("path", "shape", *_FOREIGN)


class Teacher(Section):
    """The teacher, in one of four forms.

    `shape`: train one from scratch. `path`: the folder or hub name of a trained one. `command`: a
    program that translates standard input line by line. `translations`: a corpus of sources and
    the translations that some system made of them. Of the last two, students get to know
    translations alone.

    `languages`: codes of source and target as its tokenizer has them, if it knows many.
    `source_prefix`: what it expects before every source (T5: "translate German to English: "); the
    students' tokenizer keeps it. `trim`: reduce its vocabulary, and so the students', to the tokens
    of the training data. `cache`: run it over the training data once, and let all students read
    from disk what it said.
    """

    replaces: ClassVar = {
        "path": ("shape", "training", *_FOREIGN),
        "shape": ("path", *_TRAINED, *_FOREIGN),
        "command": ("shape", "training", "path", *_TRAINED, "cache", "translations"),
        "translations": ("shape", "training", "path", *_TRAINED, "cache", "command"),
    }

    path: str | None = None
    languages: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    source_prefix: str = ""
    trim: bool = False
    shape: Shape | None = None
    training: Training | None = None
    cache: bool = False
    command: str | None = None
    translations: CorpusSpec | None = None

    @property
    def foreign(self) -> bool:
        """Whether nothing is known of it but translations."""
        return self.command is not None or self.translations is not None

    @model_validator(mode="after")
    def _one_of(self) -> Teacher:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            message = (
                "give one of path (pretrained), shape (trained from scratch), command and "
                "translations (a system elsewhere)"
            )
            if given:
                message += f", not both {' and '.join(given)}"
            raise ValueError(message)
        if self.path is None and (self.languages or self.source_prefix or self.trim):
            raise ValueError(
                "languages, source_prefix and trim are for a pretrained teacher: give its path"
            )
        if self.foreign and self.cache:
            raise ValueError(
                f"cache is for a teacher that a2d runs: leave it out beside {given[0]}"
            )
        return self


@dataclass(config=CONFIG)
class MethodSettings(ObjectiveSettings):
    """A method and its settings, or those that methods share unless they name their own.

    Attributes:
        student_start: a student starts at `random`, or from its `teacher`'s layers and embeddings.
            `marian`: at random, as a plain Transformer in the Marian class, whatever the teacher's
            family.
        monolingual: methods with `seqkd` also learn from `corpus.monolingual`, if there is any.
    """

    student_start: Start = "random"
    monolingual: bool = True

    _bounded = model_validator(mode="after")(check_numbers)


@dataclass(config=CONFIG, kw_only=True)
class MethodEntry(MethodSettings):
    """A method, its settings and its name, which is the method's unless given."""

    method: MethodName = Field()
    name: Name


class Sequences(Section):
    """How the teacher translates the training data for methods with `seqkd`.

    `engine`: CTranslate2 is faster, and finds the same in all but one or two of a hundred sentences
    (its beams end by a rule of its own; more, for models that are released with penalties on
    repetition, which it weighs otherwise). `auto`: that, where it is installed and converts the
    teacher, which has no such penalties; otherwise transformers. It is settled when a run begins
    (`a2d.runs.environment`).
    `n_best`: of so many hypotheses, take the one closest to the reference by chrF.
    """

    engine: Literal["auto", "transformers", "ctranslate2"] = "auto"
    n_best: int = Field(default=1, ge=1, le=MAX_BEAMS)


class Compute(Section):
    """How the machine is used; but for rounding, what a run finds does not depend on it."""

    parallel: int = Field(default=1, ge=1, le=MOST_PARALLEL)


class Evaluation(Section):
    """How translations are made and shown; settings are chosen by those of `valid`."""

    split: Literal["valid", "test"] = "test"
    beams: int = Field(default=5, ge=1, le=MAX_BEAMS)
    max_tokens: int = Field(default=4096, ge=1)
    samples: int = Field(default=3, ge=0)
