"""The module that the Trainer trains: a student, and the parameters of its method."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from a2d.errors import UserError
from a2d.families import Geometry, attention_width, sizes_of
from a2d.method.alignment import AttentionAlignment
from a2d.method.formulas import FORMULAS
from a2d.method.methods import ModelSize
from a2d.method.objective import DeclaredObjective, Objective
from a2d.method.token_losses import Prediction, token_losses
from a2d.method.transfer import A2D, Transfer
from a2d.method.trial import FOR_FORMULAS, FOR_METHODS, try_transfer
from a2d.models.folders import read_checkpoint
from a2d.plugin_errors import defined_at
from a2d.quoting import quoted
from a2d.text.batching import IGNORE_INDEX
from a2d.training.gradients import GradientRecord
from a2d.training.outputs import Needs, Outputs, model_outputs


class Distillation(nn.Module):
    """A student with the parameters that its method trains, such as an alignment.

    The Trainer optimises, checkpoints and (on several devices) wraps this module. It has the
    interface of a model where the Trainer needs one. The teacher is not part of it: its outputs are
    inputs.

    Args:
        student: model to train.
        objective: settings of the objective.
        teacher_config: configuration of the teacher; None for methods that compare no features.

    Attributes:
        transfer: comparison of features, with its parameters; None if the method compares none.
        gradients: record of the gradients from a plugin's comparison; None if the package brings
            the code of the comparison.

    Raises:
        UserError: the method does not fit the shapes of the models.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        teacher_config: Any = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.transfer = build_transfer(objective, student.config, teacher_config)
        self.gradients: GradientRecord | None = None
        if self.transfer is not None and self.terms_outside:
            self.gradients = GradientRecord(self.transfer)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        teacher: Outputs | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms of the objective as sums over a batch.

        Args:
            input_ids: source token ids (B, S).
            attention_mask: 1 at source tokens, 0 at padding, (B, S).
            labels: target token ids (B, T), `IGNORE_INDEX` at padding.
            teacher: the teacher's outputs for the same batch; None without a teacher.

        Returns:
            Name → scalar, for each of the objective's `terms` and `trained_terms`. It is a plain
            dict, because distributed wrappers look for unused parameters in it.
        """
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        prediction, features = model_outputs(self.student, batch, self.needs)
        assert isinstance(prediction, Prediction)
        sums = self._token_sums(prediction, labels, teacher)
        if self.transfer is not None and teacher is not None:
            masks = group_masks(attention_mask.bool(), labels.ne(IGNORE_INDEX))
            if self.gradients is not None and features is not None:
                features = self.gradients.watch(features)
            sums |= self.transfer(features, teacher.features, masks)
        return sums

    def _token_sums(
        self, student: Prediction, labels: Tensor, teacher: Outputs | None
    ) -> dict[str, Tensor]:
        objective = self.objective
        valid = labels.ne(IGNORE_INDEX)
        teacher_tokens = None
        if teacher is not None and objective.definition.distribution:
            teacher_tokens = teacher.tokens.at(valid)
        losses = token_losses(
            student.at(valid),
            labels[valid],
            teacher_tokens,
            alpha=objective.alpha,
            temperature=objective.temperature,
            label_smoothing=objective.label_smoothing_for(len(student.weight)),
        )
        return objective.token_sums(losses._asdict(), labels)

    @property
    def needs(self) -> Needs | None:
        """Features that the method compares; None if it compares none."""
        if self.transfer is None:
            return None
        return Needs(self.objective.definition.hidden_states, self.transfer.complete_maps)

    @property
    def alignment(self) -> AttentionAlignment | None:
        """The alignment of an `a2d` method; None for other methods."""
        return self.transfer.alignment if isinstance(self.transfer, A2D) else None

    @property
    def terms_outside(self) -> dict[str, str]:
        """Names of the terms that code from outside the package computes → that code."""
        code = None if self.transfer is None else code_outside(self.transfer, self.objective)
        return {} if code is None else dict.fromkeys(self.objective.groups, code)

    # Interface of a model, for the Trainer

    @property
    def config(self) -> Any:
        """The student's configuration."""
        return self.student.config

    @property
    def generation_config(self) -> Any:
        """The student's generation configuration."""
        return self.student.generation_config

    @generation_config.setter
    def generation_config(self, config: Any) -> None:
        self.student.generation_config = config

    def train(self, mode: bool = True) -> Distillation:
        """Switch training mode on or off.

        Nothing is done if the mode is set already: the Trainer calls this before every step, and
        visiting all modules takes 1% of a short step.
        """
        is_set = (self.training, self.student.training) == (mode, mode)
        return self if is_set else super().train(mode)

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Recompute the student's layers in the backward pass."""
        self.student.gradient_checkpointing_enable(*args, **kwargs)

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Recompute layers in the backward pass: later transformers use this name."""
        self.student.activation_checkpointing_enable(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """Translate with the student."""
        generated: Tensor = self.student.generate(*args, **kwargs)
        return generated

    # Files

    def save(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the student, for plain transformers, and the method's parameters beside it.

        Args:
            folder: folder of the files.
            state_dict: weights of this module, gathered from several devices; None: its own.
        """
        if state_dict is not None:
            prefix = "student."
            names = [name for name in state_dict if name.startswith(prefix)]
            state_dict = {name.removeprefix(prefix): state_dict[name] for name in names}
        self.student.save_pretrained(folder, state_dict=state_dict)
        if self.transfer is not None:
            self.transfer.save(folder)

    def load(self, folder: Path) -> None:
        """Load what `save` has written.

        Raises:
            UserError: the files are of a model with another shape.
        """
        checkpoint = read_checkpoint(type(self.student), folder)
        try:
            self.student.load_state_dict(checkpoint.state_dict())
            if self.transfer is not None:
                self.transfer.load(folder)
        except RuntimeError as error:
            raise UserError(
                f"{folder} is the checkpoint of another model: choose another output_dir, or "
                "delete it."
            ) from error


def group_masks(source: Tensor, target: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Build the masks of attention rows and keys for each group.

    Args:
        source: True at source tokens (B, S).
        target: True at target tokens (B, T).

    Returns:
        Group → two boolean masks: True at keys that a query may attend to, broadcastable to
        (B, Q, K), and True at valid query rows, (B, Q).
    """
    length = target.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=target.device).tril()
    return {
        "encoder": (source[:, None, :], source),
        "decoder": (causal & target[:, None, :], target),
        "cross": (source[:, None, :], target),
    }


def build_transfer(
    objective: Objective, student_config: Any, teacher_config: Any
) -> Transfer | None:
    """Build the comparison of features for models of two configurations.

    Args:
        objective: settings of the objective.
        student_config: configuration of the student.
        teacher_config: configuration of the teacher; None for methods that compare no features.

    Returns:
        The comparison; None if the method compares no features.

    Raises:
        UserError: the method does not fit the shapes of the models, reads settings that it does
            not declare, or a method or formula of a plugin fails.
    """
    definition = objective.definition
    build = definition.build
    if build is None:
        return None
    assert teacher_config is not None
    student, teacher = (
        ModelSize(Geometry.of(config), sizes_of(config)["width"], attention_width(config))
        for config in (student_config, teacher_config)
    )
    objective = DeclaredObjective(*objective)
    transfer = build(student, teacher, objective)
    _check_transfer(transfer, objective)
    name = code_outside(transfer, objective)
    if name is not None:
        padded = torch.tensor([[1, 1, 1], [1, 1, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        masks = group_masks(*(tokens.bool() for tokens in padded))
        build_again, hidden = partial(build, student, teacher, objective), definition.hidden_states
        # A comparison of the package fails only because of the formula.
        advice = FOR_FORMULAS if _is_ours(type(transfer)) else FOR_METHODS
        try_transfer(name, build_again, (student, teacher), masks, hidden, advice)
    return transfer


def code_outside(transfer: Transfer, objective: Objective) -> str | None:
    """Name the method and its code, for messages; None if the package brings all of the code."""
    name, parts = f"method {objective.method!r}", list[type]([type(transfer)])
    if "formula" in objective.definition.settings:
        parts.append(type(FORMULAS[objective.formula]))
        name += f" with formula {objective.formula!r}"
    outside = [defined_at(part) for part in parts if not _is_ours(part)]
    return ", ".join([name, *outside]) if outside else None


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("a2d.")


def _check_transfer(transfer: Transfer, objective: Objective) -> None:
    """Check what a method's `build` returns.

    Raises:
        UserError: it is no `Transfer`, or compares other groups than the objective.
    """
    name = f"method {objective.method!r}"
    if not isinstance(transfer, Transfer):
        raise UserError(
            f"build of {name} returns {quoted(transfer)}: it must return an object of a subclass "
            "of Transfer."
        )
    if not hasattr(transfer, "groups"):
        raise UserError(
            f"{defined_at(type(transfer))} of {name} has no groups: call super().__init__(groups) "
            "at the start of its __init__."
        )
    if set(transfer.groups) != set(objective.groups):
        raise UserError(
            f"{name} compares the groups {'+'.join(transfer.groups)}, but the objective has "
            f"{'+'.join(objective.groups)}: pass objective.groups on to the Transfer, and name the "
            "groups that the method is for in Method(groups=…)."
        )
