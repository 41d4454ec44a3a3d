"""Sections of a recipe: settings, their defaults, and what they may be."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from a2d.method.methods import METHODS, Method
from a2d.models.decoding import MAX_BEAMS
from a2d.models.loading import MAX_LAYERS
from a2d.models.students import Start
from a2d.runs.sections import CONFIG, Section, check_numbers
from a2d.training.settings import MethodName, ObjectiveSettings, TrainingSettings

MAX_NAME = 180
"""Characters: names of files have 255 at most, and some begin with this one."""

Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$", max_length=MAX_NAME)]
"""What names a folder."""

MAX_PARALLEL = 256
"""Processes at once."""
MAX_VOCABULARY = 1_000_000
"""Tokens of a vocabulary; its training takes memory for all of them at once."""

CorpusSpec = str | dict[str, Any] | list[str | dict[str, Any] | list[str]]


class Cleaning(Section):
    """Rules that training pairs must pass (`a2d.text.cleaning.clean`); null switches a rule off.

    Attributes:
        max_words: most words on either side, split at white space.
        max_ratio: how many times longer, in characters, the longer side may be. Pairs with both
            sides under 20 characters pass.
        min_letters: least share of letters among the characters of either side.
        drop_copies: drop pairs whose target equals their source.
        consistent: drop pairs whose sides differ in their numbers or placeholders.
        language: drop pairs with a side that is clearly in another language than the corpus's.
            `auto`: if the language identifier is installed (extra `corpora`).
        deduplicate: keep the first of equal pairs. `near`: also of pairs that differ only in case,
            numbers, punctuation and spaces.
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

    Attributes:
        source_language: language code of the source, such as `de`.
        target_language: language code of the target.
        train: training corpus, or a list of corpora.
        valid: validation corpus. Without it, a twentieth of the training pairs is held out, 1,000
            at most.
        test: test corpus; held out in the same way.
        monolingual: plain text files in the source language, one sentence a line, for methods that
            learn from the teacher's translations (`a2d.text.monolingual`).
        cleaning: rules that training pairs must pass.
        limit: number of training pairs to use, chosen at random; None: all.
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
    """Joint subword vocabulary of both languages, unless a pretrained teacher brings its own.

    Attributes:
        size: tokens of a vocabulary that is trained on the corpus.
        path: folder of a tokenizer to use.
    """

    replaces: ClassVar = {"size": ("path",)}

    size: int = Field(default=8000, ge=300, le=MAX_VOCABULARY)
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
        # `sized` sets plateau_patience later, when the corpus is known.
        if self.max_hours is not None and self.plateau_patience is None and not self.sized:
            raise ValueError("max_hours limits a schedule that can end early: set plateau_patience")
        return self


class Shape(Section):
    """Size of a model. Students take what they do not name from the teacher's `shape`.

    Attributes:
        encoder_layers: layers of the encoder.
        decoder_layers: layers of the decoder.
        heads: attention heads of every layer.
        decoder_heads: heads of the decoder's layers, if they differ from the encoder's.
        width: size of hidden states.
        feed_forward: size of the feed-forward layers.
        decoder_feed_forward: that of the decoder's layers, if it differs from the encoder's.
        dropout: rate of dropout.
        attention_dropout: rate of dropout on attention probabilities.
        activation_dropout: rate of dropout in feed-forward layers.
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

    The forms are `path`, `shape`, `command` and `translations`. Of the last two, students get to
    know translations alone.

    Attributes:
        path: folder or hub name of a trained model.
        languages: codes of source and target as its tokenizer has them, if it knows many.
        source_prefix: text that it expects before every source (T5: "translate German to
            English: "). The students' tokenizer keeps it.
        trim: reduce its vocabulary, and so the students', to the tokens of the training data.
        shape: sizes of a teacher to train from scratch.
        training: how it is trained; what is left out is as in the recipe's `training`.
        cache: run it over the training data once, and store its outputs on disk for all students.
        command: a program that translates standard input line by line.
        translations: a corpus of sources and the translations that some system made of them.
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

    @property
    def definition(self) -> Method:
        """The method itself, which says what it needs."""
        return METHODS[self.method]

    _bounded = model_validator(mode="after")(check_numbers)


@dataclass(config=CONFIG, kw_only=True)
class MethodEntry(MethodSettings):
    """A method, its settings and its name.

    Attributes:
        method: as in `distillation`. A list gives one student per value, here as for every setting.
        name: name in tables and folders; the method's, unless given.
    """

    method: MethodName = Field()
    name: Name


class Sequences(Section):
    """How the teacher translates the training data for methods with `seqkd`.

    Attributes:
        engine: `ctranslate2` is faster, and finds the same translation in all but one or two of a
            hundred sentences: its beams end by a rule of its own, and it weighs penalties on
            repetition otherwise. `auto`: CTranslate2, if it is installed, converts the teacher, and
            the teacher has no such penalties; otherwise `transformers`. It is settled when a run
            begins (`a2d.runs.environment`).
        n_best: take the hypothesis that is closest to the reference by chrF, out of this number.
    """

    engine: Literal["auto", "transformers", "ctranslate2"] = "auto"
    n_best: int = Field(default=1, ge=1, le=MAX_BEAMS)


class Compute(Section):
    """How the machine is used; apart from rounding, results do not depend on it.

    Attributes:
        parallel: models that are trained at once and share the cores.
    """

    parallel: int = Field(default=1, ge=1, le=MAX_PARALLEL)


class Evaluation(Section):
    """How translations are made and shown.

    Attributes:
        split: the set to score: `test`, or `valid` while you choose settings.
        beams: width of the beam; 1 is greedy search.
        max_tokens: padded tokens per batch.
        samples: translations to show at the end.
    """

    split: Literal["valid", "test"] = "test"
    beams: int = Field(default=5, ge=1, le=MAX_BEAMS)
    max_tokens: int = Field(default=4096, ge=1)
    samples: int = Field(default=3, ge=0)
