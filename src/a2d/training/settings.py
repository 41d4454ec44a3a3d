"""Settings of a training, defined once: `A2DConfig` and recipes embed these classes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from a2d.errors import UserError
from a2d.method.attention import GROUPS
from a2d.method.formulas import FORMULAS
from a2d.method.methods import METHODS
from a2d.method.transfer import STARTS
from a2d.plugin_errors import NAME_THE_FILE, defined_at
from a2d.plugins import Registry
from a2d.quoting import quoted
from a2d.suggestions import nearest

SCHEDULES = ("linear", "cosine", "inverse_sqrt", "constant_with_warmup")
"""Learning-rate schedules of transformers without further arguments."""

Precision = Literal["float32", "bfloat16", "int8"]
"""Precision of a teacher beside its student."""


def _one_of(setting: str, names: Collection[str]) -> AfterValidator:
    """Build a validator that accepts `names`, including names that are added to it later."""
    extensible = isinstance(names, Registry)

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"unknown {setting} {quoted(value)}{nearest(value, names)}{hint}")
        return value

    hint = f" A {setting} of your own needs its file: {NAME_THE_FILE}" if extensible else ""
    return AfterValidator(check)


def _check_groups(value: str) -> str:
    for group in value.split("+"):
        if group not in GROUPS:
            raise ValueError(f"unknown group {quoted(group)}{nearest(group, GROUPS)}")
    return value


def _check_build_settings(method: str) -> str:
    names = [field.name for field in fields(ObjectiveSettings)]
    for name in METHODS[method].build_settings:
        if name not in names:
            hint = nearest(name, names)
            raise ValueError(
                f"build_settings of method {method!r} ({defined_at(METHODS[method].build)}) has "
                f"{quoted(name)}{hint}. A method has no settings of its own: register one for each "
                "value"
            )
    return method


MethodName = Annotated[str, _one_of("method", METHODS), AfterValidator(_check_build_settings)]


@dataclass
class ObjectiveSettings:
    """Settings of the objective.

    Attributes:
        method: name of the method in `a2d.method.methods.METHODS`, such as `baseline` (references
            only), `kd` (word-level distillation) or `a2d` (attention transfer). A term that the
            method lacks has weight 0: for `baseline`, α is 0. Methods with `seqkd` expect the
            teacher's translations as labels.
        formula: name of the comparison of attention maps, in `a2d.method.formulas.FORMULAS`. Only
            `a2d` methods use it.
        alpha: α, weight of word-level distillation; references have weight 1-α.
        beta: β, weight of attention transfer. `a2d distill` takes 1 for students that start from
            their teacher's layers.
        decay: factor by which β is multiplied after each epoch.
        beta_until: share of all updates over which β falls linearly to zero; None: it does not
            fall. It multiplies with `decay`. Alignment guides the beginning of a training. With a
            constant β, a student of half its teacher's width ended 0.7 BLEU below word-level
            distillation; students of their teacher's width did not (`docs/schedule.md`).
        temperature: τ, temperature of word-level distillation.
        groups: compared kinds of attention, joined by `+`: `encoder` and `decoder` self-attention,
            and `cross`-attention. Groups that the method cannot compare are left out.
        alignment_start: initial weights of the alignment: `uniform` (layers correspond evenly, plus
            noise) or `random`.
        alignment_learning_rate: peak learning rate of the alignment and of other parameters that a
            method trains beside the student; None: `learning_rate`.
    """

    method: MethodName = "a2d"
    formula: Annotated[str, _one_of("formula", FORMULAS)] = "geometric"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    beta: Annotated[float, Field(ge=0)] = 3.0
    decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    beta_until: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    temperature: Annotated[float, Field(ge=1e-3)] = 1.0
    groups: Annotated[str, AfterValidator(_check_groups)] = "+".join(GROUPS)
    alignment_start: Annotated[str, _one_of("alignment_start", STARTS)] = "uniform"
    alignment_learning_rate: Annotated[float, Field(gt=0)] | None = 0.01


@dataclass
class TrainingSettings:
    """Settings of a training besides the objective, named as in transformers.

    Attributes:
        max_tokens: padded tokens per batch and device, for the source and for the target side each.
            It replaces `per_device_train_batch_size`, because sentences differ in length.
            Validation batches are four times as large.
        gradient_accumulation_steps: batches per update.
        learning_rate: peak learning rate.
        lr_scheduler_type: learning-rate schedule, by its name in transformers: `linear`, `cosine`,
            `inverse_sqrt` or `constant_with_warmup`.
        warmup_steps: number of warm-up updates; a value below 1 is a share of all updates.
        weight_decay: weight decay of AdamW.
        label_smoothing_factor: label smoothing of the cross-entropy with the references.
        max_grad_norm: largest norm of the gradients, which are clipped to it; 0: no clipping.
        plateau_patience: number of validations in a row, without a better BLEU (Python:
            `metric_for_best_model`) or a lower cross-entropy, after which the learning rate decays
            faster, to an early end (`a2d.training.schedule`). Until then it decays linearly over
            all planned updates. None: the schedule is `lr_scheduler_type`.
        early_stopping_patience: number of validations in a row, without a better BLEU (Python:
            `metric_for_best_model`), after which training ends; None: no early stopping.
        max_hours: longest duration of the training, in hours; it needs `plateau_patience`. The
            result then depends on the speed of the machine.
        bf16: compute in bfloat16; None: if the hardware multiplies bfloat16.
        replaces: setting → settings that have no meaning beside it (`a2d.runs.sections`).
    """

    replaces: ClassVar[dict[str, tuple[str, ...]]] = {
        "plateau_patience": ("lr_scheduler_type", "early_stopping_patience"),
        "lr_scheduler_type": ("plateau_patience", "max_hours"),
        "early_stopping_patience": ("plateau_patience", "max_hours"),
    }

    max_tokens: Annotated[int, Field(ge=1)] = 4096
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    lr_scheduler_type: Annotated[str, _one_of("lr_scheduler_type", SCHEDULES)] = "linear"
    warmup_steps: Annotated[float, Field(ge=0)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    label_smoothing_factor: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    plateau_patience: Annotated[int, Field(ge=1)] | None = None
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    max_hours: Annotated[float, Field(gt=0)] | None = None
    bf16: bool | None = None


def values_of(settings: Any, *owners: type) -> dict[str, Any]:
    """Return name → value of an object's attributes, for the fields that `owners` define."""
    names = [field.name for owner in owners for field in fields(owner)]
    return {name: getattr(settings, name) for name in names}


def check_boolean(value: Any, valid: Any) -> None:
    """Check that validation has not converted a boolean to a number, or a number to a boolean.

    Pydantic accepts true as 1, and 1 as true. In settings, both are mistakes.

    Args:
        value: value of a setting, or a list of values.
        valid: the value after validation.

    Raises:
        PydanticCustomError: one is a boolean and the other a number.
    """
    if isinstance(value, list) and isinstance(valid, list):
        for one, other in zip(value, valid, strict=True):
            check_boolean(one, other)
    elif isinstance(value, int | float) and isinstance(value, bool) != isinstance(valid, bool):
        if isinstance(value, bool):
            raise PydanticCustomError("number_type", "Input should be a number, not true or false")
        raise PydanticCustomError("bool_type", "Input should be true or false")


def validate(settings: Any, *owners: type) -> None:
    """Validate the settings of an object, and convert their values in place.

    Every value must fit the type annotation of its field.

    Args:
        settings: object that has the fields of all `owners` as attributes, such as an `A2DConfig`.
        owners: dataclasses that define the settings, such as `ObjectiveSettings`.

    Raises:
        UserError: a value is outside its range, of the wrong type, or an unknown name.
    """
    for owner in owners:
        hints = get_type_hints(owner, include_extras=True)
        for field in fields(owner):
            value = getattr(settings, field.name)
            try:
                valid = TypeAdapter(hints[field.name]).validate_python(value)
                check_boolean(value, valid)
            except (ValidationError, PydanticCustomError) as error:
                message = _message(error)
                if message.startswith("Value error, "):
                    raise UserError(message.removeprefix("Value error, ")) from None
                message = message.replace("Input should be", "it must be")
                raise UserError(f"{field.name} is {value!r}: {message}.") from None
            setattr(settings, field.name, valid)


def _message(error: ValidationError | PydanticCustomError) -> str:
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    return error.message()
