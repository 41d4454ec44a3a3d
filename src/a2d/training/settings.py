"""Settings of a training, each defined once: `A2DConfig` and recipes embed these classes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, get_type_hints

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from a2d.errors import UserError
from a2d.method.attention import GROUPS
from a2d.method.formulas import FORMULAS
from a2d.method.methods import METHODS
from a2d.method.transfer import STARTS
from a2d.suggestions import nearest

SCHEDULES = ("linear", "cosine", "inverse_sqrt", "constant_with_warmup")
"""Learning-rate schedules of transformers that need no further arguments."""


def _one_of(setting: str, known: Collection[str]) -> AfterValidator:
    """Validator of a name; it reads `known` when it is called, as names may be registered late."""

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"unknown {setting} {value!r}{nearest(value, known)}")
        return value

    return AfterValidator(check)


def _check_groups(value: str) -> str:
    for group in value.split("+"):
        if group not in GROUPS:
            raise ValueError(f"unknown group {group!r}{nearest(group, GROUPS)}")
    return value


MethodName = Annotated[str, _one_of("method", METHODS)]


@dataclass
class ObjectiveSettings:
    """Settings of the objective.

    Attributes:
        method: `baseline` (references only), `kd` (word-level distillation), `a2d` (with attention
            transfer), or another of `a2d.method.methods.METHODS`. A term that the method lacks has
            no weight: `baseline` is α = 0. Methods with `seqkd` expect the teacher's translations
            as labels.
        formula: how `a2d` compares attention maps with the teacher's
            (`a2d.method.formulas.FORMULAS`).
        alpha: α, weight of word-level distillation against the references.
        beta: β, weight of attention transfer. A student that starts from its teacher's layers does
            better with 1.
        decay: factor on β after each epoch.
        temperature: τ of word-level distillation.
        groups: the compared kinds of attention, joined by `+`: `encoder` and `decoder`
            self-attention, `cross`-attention.
        alignment_start: `uniform` (layers correspond evenly, plus noise) or `random`.
        alignment_learning_rate: peak learning rate of the alignment, or of whatever else a method
            learns beside the student; None: `learning_rate`.
    """

    method: MethodName = "a2d"
    formula: Annotated[str, _one_of("formula", FORMULAS)] = "geometric"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    beta: Annotated[float, Field(ge=0)] = 3.0
    decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    temperature: Annotated[float, Field(ge=1e-3)] = 1.0
    groups: Annotated[str, AfterValidator(_check_groups)] = "+".join(GROUPS)
    alignment_start: Annotated[str, _one_of("alignment_start", STARTS)] = "uniform"
    alignment_learning_rate: Annotated[float, Field(gt=0)] | None = 0.01


@dataclass
class TrainingSettings:
    """Settings of a training that are not about distillation, by the names of transformers.

    Attributes:
        max_tokens: padded tokens per batch and device, on the source and on the target side
            (`per_device_train_batch_size` is not used: sentences differ too much in length).
            Validation takes four times as many.
        gradient_accumulation_steps: batches per update.
        learning_rate: peak learning rate.
        lr_scheduler_type: learning-rate schedule, by its name in transformers.
        warmup_steps: updates of warm-up; a value below 1 is a share of all updates.
        weight_decay: of AdamW.
        label_smoothing_factor: of the cross-entropy against the references.
        max_grad_norm: gradients are clipped to this norm; 0 switches clipping off.
        plateau_patience: if set, the learning rate decays linearly over all planned updates, and
            faster, to an early end, once this number of validations brought neither a better
            `metric_for_best_model` nor a lower cross-entropy (`a2d.training.schedule`). It takes
            the place of `lr_scheduler_type`.
        early_stopping_patience: if set, training ends once this number of validations brought no
            better `metric_for_best_model`.
        max_hours: with `plateau_patience`, the time that the training may take. The result then
            depends on the machine's speed.
        bf16: compute in bfloat16; None: where the hardware makes it pay.
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
    """The values of an object for the fields that `owners` define, by name."""
    names = [field.name for owner in owners for field in fields(owner)]
    return {name: getattr(settings, name) for name in names}


def validate(settings: Any, *owners: type) -> None:
    """Check the values of settings against the classes that define them, and convert them.

    Args:
        settings: an object with the attributes of `owners`.
        owners: classes like `ObjectiveSettings`.

    Raises:
        UserError: a value is outside its range, of the wrong type, or an unknown name.
    """
    for owner in owners:
        hints = get_type_hints(owner, include_extras=True)
        for field in fields(owner):
            value = getattr(settings, field.name)
            try:
                checked = TypeAdapter(hints[field.name]).validate_python(value)
            except ValidationError as error:
                message = error.errors()[0]["msg"]
                if message.startswith("Value error, "):
                    raise UserError(message.removeprefix("Value error, ")) from None
                message = message.replace("Input should be", "it must be")
                raise UserError(f"{field.name} is {value!r}: {message}.") from None
            setattr(settings, field.name, checked)
