"""Sections of a recipe: settings, their defaults and their valid values."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from a2d.defaults import BATCH_TOKENS, MAX_LOSS
from a2d.errors import UserError
from a2d.files import MAX_NAME, NAME
from a2d.method.methods import METHODS, Method
from a2d.models.export import SMALLEST_FIRST, Quantization
from a2d.models.loading import MAX_LAYERS
from a2d.models.search_settings import MAX_BEAMS
from a2d.models.students import Start
from a2d.runs.sections import CONFIG, Section, check_numbers, keep_kind
from a2d.text.languages import check_codes
from a2d.training.settings import MethodName, ObjectiveSettings, Precision, TrainingSettings


def _check_name(name: str) -> str:
    if len(name.encode()) > MAX_NAME:
        raise ValueError(f"a name must not have more than {MAX_NAME} bytes")
    return name


def _check_language(code: str) -> str:
    try:
        check_codes([code])
    except UserError as error:
        raise ValueError(str(error).removesuffix(".")) from error
    return code


Name = Annotated[str, Field(pattern=f"^{NAME}$"), AfterValidator(_check_name)]
"""Name that is also a folder's."""

LanguageCode = Annotated[str, AfterValidator(_check_language)]

MAX_PARALLEL = 256
"""Most processes at once."""
MAX_VOCABULARY = 1_000_000
"""Most tokens of a vocabulary, because its training holds all of them in memory."""

CorpusSpec = str | dict[str, Any] | list[str | dict[str, Any] | list[str]]
"""Corpus in one of the forms that `a2d.text.corpus.read_corpus` lists."""


class CleaningSettings(Section):
    """Rules that training pairs must pass (`a2d.text.cleaning.clean`); null switches a rule off.

    Attributes:
        max_words: largest number of words on either side, split at white space.
        max_ratio: largest ratio of the two sides' lengths in characters, longer to shorter. Pairs
            with both sides under 20 characters pass.
        min_letters: smallest share of letters among the characters of either side.
        drop_copies: drop pairs whose target equals their source.
        consistent: drop pairs whose sides differ in their numbers or placeholders.
        language: drop pairs with a side that is clearly in another language than the corpus's.
            `auto`: only if the language identifier is installed (extra `corpora`).
        deduplicate: keep the first of equal pairs only. `near`: also the first of pairs that
            differ only in case, numbers, punctuation and spaces.
    """

    max_words: int | None = Field(default=250, ge=1)
    max_ratio: float | None = Field(default=3.0, ge=1)
    min_letters: float | None = Field(default=None, ge=0, le=1)
    drop_copies: bool = False
    consistent: bool = False
    language: bool | Literal["auto"] = False
    deduplicate: bool | Literal["near"] = True


class CorpusSettings(Section):
    """The parallel text (`a2d.text.corpus.read_corpus` lists the forms of a corpus).

    Attributes:
        source_language: language code of the source, such as `de`.
        target_language: language code of the target.
        train: training corpus, or a list of corpora.
        valid: validation corpus. Without it, a twentieth of the training pairs is held out, at
            most 1,000.
        test: test corpus; held out in the same way.
        monolingual: plain text files in the source language, one sentence per line, for methods
            that learn from the teacher's translations (`a2d.text.monolingual`).
        cleaning: rules that training pairs must pass.
        limit: number of training pairs to use, chosen at random; None: all.
    """

    source_language: LanguageCode
    target_language: LanguageCode
    train: CorpusSpec
    valid: CorpusSpec | None = None
    test: CorpusSpec | None = None
    monolingual: str | list[str] | None = None
    cleaning: CleaningSettings = CleaningSettings()
    limit: int | None = Field(default=None, ge=1)


class VocabularySettings(Section):
    """Joint subword vocabulary of both languages, unless a pretrained teacher brings its own.

    Attributes:
        size: number of tokens of a vocabulary that is trained on the corpus.
        path: folder of a tokenizer to use instead.
    """

    replaces: ClassVar = {"size": ("path",)}

    size: int = Field(default=8000, ge=300, le=MAX_VOCABULARY)
    path: str | None = None


@dataclass(config=CONFIG)
class Training(TrainingSettings):
    """Training of a model.

    Attributes:
        num_train_epochs: number of passes over the data.
        max_steps: number of updates, in place of `num_train_epochs`. Either is rounded, so that a
            validation follows the last update.
        evaluate_every: epochs between two validations.
        sized: choose settings that the recipe does not name by the sizes of the corpus and the
            student (`a2d.runs.schedule`), those of the objective included.
    """

    replaces: ClassVar = TrainingSettings.replaces | {
        "num_train_epochs": ("max_steps",),
        "max_steps": ("num_train_epochs",),
    }

    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Annotated[int, Field(ge=1)] | None = None
    evaluate_every: Annotated[float, Field(gt=0)] = 1.0
    sized: bool = False

    _kinds = field_validator("*", mode="wrap")(keep_kind)
    _bounded = model_validator(mode="after")(check_numbers)

    @model_validator(mode="after")
    def _check_length(self) -> Training:
        lengths = [self.num_train_epochs, self.max_steps]
        if lengths.count(None) != 1 and not (self.sized and lengths.count(None) == 2):
            raise ValueError("give its length, as either num_train_epochs or max_steps")
        # `sized` sets plateau_patience later, when the corpus is known.
        if self.max_hours is not None and self.plateau_patience is None and not self.sized:
            raise ValueError("max_hours limits a schedule that can end early: set plateau_patience")
        return self


class Shape(Section):
    """Size of a model.

    Students inherit sizes that they do not name from their teacher, and rates of dropout from the
    `shape` of a teacher that the recipe trains. Their feed-forward width shrinks with their width.

    Attributes:
        encoder_layers: number of encoder layers.
        decoder_layers: number of decoder layers.
        heads: attention heads of every layer.
        decoder_heads: attention heads of every decoder layer, if they differ from the encoder's.
        width: size of hidden states.
        feed_forward: inner size of the feed-forward layers.
        decoder_feed_forward: inner size of the decoder's feed-forward layers, if it differs from
            the encoder's.
        dropout: dropout rate.
        attention_dropout: dropout rate of attention probabilities.
        activation_dropout: dropout rate inside feed-forward layers.
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

    @property
    def equal_heads(self) -> bool:
        """Check whether the decoder has as many heads as the encoder: CTranslate2 needs that."""
        return self.decoder_heads in (None, self.heads)


_FOREIGN = ("command", "translations")
_ADAPTATION = ("languages", "source_prefix", "trim")
_OUTPUTS = ("cache", "precision", "sharded")
_FORMS = ("path", "shape", *_FOREIGN)


class TeacherSettings(Section):
    """The teacher, in one of four forms: `path`, `shape`, `command` or `translations`.

    From the last two, students can learn translations only.

    Attributes:
        path: folder or hub name of a pretrained model.
        languages: language codes of source and target in its tokenizer, if it is multilingual.
        source_prefix: text that it expects before every source (T5: "translate German to
            English: "). The students' tokenizer adds it, too.
        trim: reduce its vocabulary, and therefore the students', to the tokens of the training
            data.
        shape: size of a teacher to train from scratch.
        training: training of that teacher. It inherits settings that it does not name from the
            recipe's `training`.
        cache: apply the teacher to the training data once, and store its outputs on disk for all
            students.
        precision: precision in which it computes beside its students: `float32`, `bfloat16` (half
            of the memory) or `int8` (half of that for its linear layers, and slower; it needs the
            extra `bitsandbytes`). null: `bfloat16` if `training.bf16` is set.
        sharded: divide it among the GPUs of a training (`compute.gpus_per_training`), which then
            exchange the weights of its layers for every batch.
        command: program that translates standard input line by line.
        translations: corpus of sources with the translations that some system made of them.
    """

    replaces: ClassVar = {
        "path": ("shape", "training", *_FOREIGN),
        "shape": ("path", *_ADAPTATION, *_FOREIGN),
        "command": ("shape", "training", "path", *_ADAPTATION, *_OUTPUTS, "translations"),
        "translations": ("shape", "training", "path", *_ADAPTATION, *_OUTPUTS, "command"),
    }

    path: str | None = None
    languages: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    source_prefix: str = ""
    trim: bool = False
    shape: Shape | None = None
    training: Training | None = None
    cache: bool = False
    precision: Precision | None = None
    sharded: bool = False
    command: str | None = None
    translations: CorpusSpec | None = None

    @property
    def foreign(self) -> bool:
        """Return whether a2d cannot load the teacher, so that only its translations are known."""
        return self.command is not None or self.translations is not None

    @model_validator(mode="after")
    def _check_form(self) -> TeacherSettings:
        forms = [form for form in _FORMS if getattr(self, form) is not None]
        if len(forms) != 1:
            message = (
                "give one of path (pretrained), shape (trained from scratch), command and "
                "translations (a system elsewhere)"
            )
            if forms:
                message += f", not both {' and '.join(forms)}"
            raise ValueError(message)
        if self.path is None and any(getattr(self, name) for name in _ADAPTATION):
            raise ValueError(
                "languages, source_prefix and trim are for a pretrained teacher: give its path"
            )
        outputs = [name for name in _OUTPUTS if getattr(self, name)]
        if self.foreign and outputs:
            raise ValueError(
                f"{outputs[0]} is for a teacher that a2d runs: leave it out beside {forms[0]}"
            )
        if self.cache and len(outputs) > 1:
            raise ValueError(
                "cache holds what the teacher computes in float32, so that it does not run beside "
                f"its students: leave out either cache or {outputs[1]}"
            )
        if self.sharded and self.precision == "int8":
            raise ValueError("sharded is for float32 and bfloat16: choose another precision")
        return self


@dataclass(config=CONFIG)
class MethodSettings(ObjectiveSettings):
    """A method with its settings, or the settings that all methods of a recipe inherit.

    Attributes:
        student_start: initial weights of the student. `random`; `teacher`: those of the teacher,
            pruned to the student's shape and fitted to what the teacher computes; `marian`: random
            weights of a plain Transformer in the Marian class, for a teacher of any family.
        monolingual: learn from `corpus.monolingual`, too, if there is any; for methods with
            `seqkd`.
    """

    student_start: Start = "random"
    monolingual: bool = True

    @property
    def definition(self) -> Method:
        """Look up the method, which says what it needs."""
        return METHODS[self.method]

    def used(self, monolingual: bool) -> dict[str, Any]:
        """Return name → value of the settings that a student depends on.

        Args:
            monolingual: the corpus has monolingual text.
        """
        names = {"method", *self.definition.settings}
        if self.definition.uses_teacher or self.student_start != "random":
            names.add("student_start")
        if self.definition.sequences and monolingual:
            names.add("monolingual")
        return {name: getattr(self, name) for name in sorted(names)}

    _kinds = field_validator("*", mode="wrap")(keep_kind)
    _bounded = model_validator(mode="after")(check_numbers)


@dataclass(config=CONFIG, kw_only=True)
class MethodEntry(MethodSettings):
    """A method, its settings and its name.

    Attributes:
        method: name of the method. Here and for every other setting, a list makes one student for
            each value.
        name: name in tables and folders; by default the method's.
    """

    method: MethodName = Field()
    name: Name


class SequenceSettings(Section):
    """Translation of the training data by the teacher, for methods with `seqkd`.

    Attributes:
        engine: library that translates. `ctranslate2` is faster. One or two of a hundred
            translations differ from those of `transformers`, because its beam search ends by
            another rule; penalties on repetition work differently, too. `auto`: `ctranslate2` if
            it is installed, can convert the teacher, and the teacher has no such penalties;
            otherwise `transformers`. `auto` is resolved when a run begins (`a2d.runs.environment`).
        n_best: number of hypotheses per source, of which the closest to the reference by chrF is
            used.
    """

    engine: Literal["auto", "transformers", "ctranslate2"] = "auto"
    n_best: int = Field(default=1, ge=1, le=MAX_BEAMS)


class ExportSettings(Section):
    """Exports of the students to CTranslate2, compared with the students on the validation set.

    Attributes:
        quantizations: data types of the weights: `float32`, `float16`, `bfloat16`, `int16`, `int8`,
            `int8_float32` and `int8_float16`. Each makes an export of each student. `auto`: the
            first of `int8` and `float32` that is not refused, if CTranslate2 is installed
            and can convert the students, otherwise none.
        max_loss: largest loss of BLEU and of chrF; an export that loses more is reported as
            refused. A loss of up to 1 is accepted where the validation set is so small that it may
            be chance (p > 0.05 by paired bootstrap resampling).
    """

    quantizations: list[Quantization] | Literal["auto"] = Field(default=[])
    max_loss: float = Field(default=MAX_LOSS, ge=0)

    @property
    def candidates(self) -> tuple[Quantization, ...]:
        """Data types to try until an export is not refused; empty: those of the list are made."""
        return SMALLEST_FIRST if self.quantizations == "auto" else ()


class ComputeSettings(Section):
    """Use of the machine; apart from rounding, results do not depend on it.

    Attributes:
        engine: what executes the tasks: `local`, the processes of this machine, or `ray`, a Ray
            cluster.
        address: address of a running Ray cluster: `auto` for the one of this machine, or
            `HEAD:PORT`. Without it, a cluster is started on this machine for the run.
        parallel: number of tasks (trainings, translations, exports, evaluations) that run at once
            and share the cores of a machine.
        gpus_per_training: number of GPUs, or of processes on machines without GPUs, that share
            each batch of a training; with Ray, they may be on several machines. It must divide
            `training.gradient_accumulation_steps`: each process takes as many of an update's
            batches.
    """

    engine: Literal["local", "ray"] = "local"
    address: str | None = Field(default=None, min_length=1)
    parallel: int = Field(default=1, ge=1, le=MAX_PARALLEL)
    gpus_per_training: int = Field(default=1, ge=1, le=MAX_PARALLEL)

    @model_validator(mode="after")
    def _check_address(self) -> ComputeSettings:
        if self.address is not None and self.engine != "ray":
            raise ValueError("address is that of a Ray cluster: set compute.engine to ray")
        if self.address is not None and self.address.startswith("ray://"):
            raise ValueError(
                "address is one of Ray's client: start the command on a machine of the cluster, "
                "with auto or HEAD:PORT as the address"
            )
        return self


class EvaluationSettings(Section):
    """Translation, scoring and samples at the end of a run.

    Attributes:
        split: held-out set to score: `test`, or `valid` while you choose settings.
        beams: width of the beam; 1 is greedy search.
        max_tokens: largest number of padded tokens per batch. On CPU, a2d translates with smaller
            batches if they are faster.
        samples: number of sample translations to show.
    """

    split: Literal["valid", "test"] = "test"
    beams: int = Field(default=5, ge=1, le=MAX_BEAMS)
    max_tokens: int = Field(default=BATCH_TOKENS, ge=1)
    samples: int = Field(default=3, ge=0)
