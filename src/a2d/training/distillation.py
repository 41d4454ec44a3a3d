"""The module that is trained: a student, what its method learns beside it, and their objective."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from a2d.families import Geometry, sizes_of
from a2d.method.alignment import AttentionAlignment
from a2d.method.methods import ModelSize
from a2d.method.objective import Objective
from a2d.method.token_losses import Prediction, token_losses
from a2d.method.transfer import A2D, Transfer
from a2d.training.signals import Needs, Signals, model_signals

IGNORE_INDEX = -100
"""Label of positions that take no part, as everywhere in transformers."""


class Distillation(nn.Module):
    """A student and what its method learns beside it: all that is trained, and nothing else.

    The Trainer optimises it, checkpoints it and, on several devices, wraps it; the teacher's
    signals are inputs. It behaves like the student wherever the Trainer expects a model.

    Args:
        student: the model to train.
        objective: the settings of the loss.
        teacher_config: the teacher's configuration; None for methods that compare no features.

    Raises:
        UserError: the method does not fit the models' shapes.
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

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        teacher: Signals | None = None,
    ) -> dict[str, Tensor]:
        """Compute every term of the objective as a sum over the batch.

        Args:
            input_ids: source tokens (B, S).
            attention_mask: 1 at source tokens, 0 at padding, (B, S).
            labels: target tokens (B, T), `IGNORE_INDEX` at padding.
            teacher: the teacher's signals for the same batch; None without one.

        Returns:
            Scalars by name, one for each of the objective's `terms` and `trained_terms`. A plain
            dict: distributed wrappers look for unused parameters in it.
        """
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        prediction, features = model_signals(self.student, batch, self.needs)
        assert isinstance(prediction, Prediction)
        sums = self._token_sums(prediction, labels, teacher)
        if self.transfer is not None and teacher is not None:
            masks = group_masks(attention_mask.bool(), labels.ne(IGNORE_INDEX))
            sums |= self.transfer(features, teacher.features, masks)
        return sums

    def _token_sums(
        self, student: Prediction, labels: Tensor, teacher: Signals | None
    ) -> dict[str, Tensor]:
        objective = self.objective
        valid = labels.ne(IGNORE_INDEX)
        distils = teacher is not None and objective.definition.distribution
        losses = token_losses(
            student.at(valid),
            labels[valid],
            teacher.tokens.at(valid) if teacher is not None and distils else None,
            alpha=objective.alpha,
            temperature=objective.temperature,
            label_smoothing=objective.label_smoothing_for(len(student.weight)),
        )
        return objective.token_sums(losses._asdict(), labels)

    @property
    def needs(self) -> Needs | None:
        """The features that the method compares; None if it compares none."""
        if self.transfer is None:
            return None
        return Needs(self.objective.definition.hidden_states, self.transfer.stacked)

    @property
    def alignment(self) -> AttentionAlignment | None:
        """The student's alignment; None for a method without one."""
        return self.transfer.alignment if isinstance(self.transfer, A2D) else None

    # The interface of a model that the Trainer uses

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
        """Switch to training mode or from it, unless the mode is right already.

        The Trainer calls this before every step, and visiting all modules takes 1% of a short one.
        """
        needed = (self.training, self.student.training) != (mode, mode)
        return super().train(mode) if needed else self

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Recompute the student's layers in the backward pass."""
        self.student.gradient_checkpointing_enable(*args, **kwargs)

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Do the same: later releases of transformers use this name."""
        self.student.activation_checkpointing_enable(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """Translate with the student."""
        generated: Tensor = self.student.generate(*args, **kwargs)
        return generated


def group_masks(source: Tensor, target: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the keys that queries may attend to and the query rows that count, for each group.

    Args:
        source: True at source tokens (B, S).
        target: True at target tokens (B, T).

    Returns:
        Group → keys, broadcastable to (B, Q, K), and rows, (B, Q).
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
    """Build what a method compares inside models of these configurations; None for nothing.

    Raises:
        UserError: the method does not fit their shapes.
    """
    build = objective.definition.build
    if build is None:
        return None
    assert teacher_config is not None
    student, teacher = (
        ModelSize(Geometry.of(config), sizes_of(config)["width"])
        for config in (student_config, teacher_config)
    )
    return build(student, teacher, objective)
