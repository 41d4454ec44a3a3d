"""The module that is trained: a student, what its method learns beside it, and their objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from a2d.families import Geometry, sizes_of
from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import GROUPS, Features, capture_attention
from a2d.method.hidden_states import A2DHidden
from a2d.method.mappings import Combination, LayerMapping, MiniLM, TinyBert
from a2d.method.token_losses import Prediction, TopTokens, token_losses
from a2d.method.transfer import A2D, Transfer
from a2d.models.loading import decoder_inputs

IGNORED = -100
"""Label of positions that take no part, as everywhere in transformers."""

TERMS = ("ce", "kd", *GROUPS)
"""The objective's terms, in the order of every vector of terms."""


class Method(NamedTuple):
    """What a named method imitates.

    sequences: references are the teacher's translations of the training source.
    references: with `sequences`: the corpus's references besides, each source once with either.
    distribution: the teacher's distribution over every next token.
    features: what it compares inside the models, or None.
    """

    sequences: bool = False
    references: bool = False
    distribution: bool = False
    features: (
        Literal["last", "uniform", "tinybert", "minilm", "ckd", "a2d", "a2d+hidden"] | None
    ) = None

    @property
    def taught(self) -> bool:
        """Whether a teacher has a part in it at all."""
        return self.sequences or self.distribution

    @property
    def aligned(self) -> bool:
        """Whether it learns an alignment of attention maps."""
        return self.features in ("a2d", "a2d+hidden")

    @property
    def states(self) -> bool:
        """Whether it compares hidden states or value vectors, besides attention maps."""
        return self.features in ("tinybert", "minilm", "a2d+hidden")


METHODS = {
    "baseline": Method(),
    "kd": Method(distribution=True),
    "seqkd": Method(sequences=True),
    "seqkd+references": Method(sequences=True, references=True),
    "seqkd+kd": Method(sequences=True, distribution=True),
    "last": Method(distribution=True, features="last"),
    "uniform": Method(distribution=True, features="uniform"),
    "tinybert": Method(distribution=True, features="tinybert"),
    "minilm": Method(distribution=True, features="minilm"),
    "ckd": Method(distribution=True, features="ckd"),
    "a2d": Method(distribution=True, features="a2d"),
    "a2d+hidden": Method(distribution=True, features="a2d+hidden"),
    "seqkd+a2d": Method(sequences=True, distribution=True, features="a2d"),
}
"""baseline: references only. kd: word-level KD (Hinton et al. 2015; Kim & Rush 2016, section 3.1).
seqkd: sequence-level KD (Kim & Rush 2016, section 3.2). seqkd+references: every source twice, with
the teacher's translation and with the reference. a2d: kd and attention transfer through a
learned alignment (Jin et al. 2024). a2d+hidden: with hidden states besides. The others are kd and
feature transfer by `a2d.method.mappings`."""


class Objective(NamedTuple):
    """Settings of the objective (`A2DConfig` explains each)."""

    method: str
    formula: str
    alpha: float
    temperature: float
    label_smoothing: float
    groups: tuple[str, ...] = GROUPS
    alignment_start: str = "uniform"

    @property
    def official(self) -> bool:
        """Whether losses are normalised as the released code does, which knows `a2d` alone."""
        return METHODS[self.method].aligned and self.formula.startswith("official")


class Signals(NamedTuple):
    """What a model says of a batch.

    tokens: the next ones at every target position, (B, T, …).
    features: None where nobody asked for them.
    """

    tokens: Prediction | TopTokens
    features: Features | None


class Distillation(nn.Module):
    """A student and what its method learns beside it: all that is trained, and nothing else.

    This is what the Trainer optimises, checkpoints and, on several devices, wraps; the teacher's
    signals come in as inputs. It passes for the student wherever the Trainer asks for one.

    Args:
        student: the model to train.
        objective: its settings.
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
        self.transfer = new_transfer(objective, student.config, teacher_config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        teacher: Signals | None = None,
    ) -> dict[str, Tensor]:
        """Compute every term of the objective as a sum over the batch's tokens.

        Args:
            input_ids: source tokens (B, S).
            attention_mask: 1 at source tokens, 0 at padding, (B, S).
            labels: target tokens (B, T), `IGNORED` at padding.
            teacher: what the teacher says of the same batch; None without one.

        Returns:
            Scalars, one for each of `TERMS`, zero where the method does not have it, and `tokens`:
            (1-α)·ce + α·kd, which has the gradient of both. A plain dict: distributed wrappers look
            for unused parameters in it.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        prediction, features = run(self.student, inputs, self.transfer)
        assert isinstance(prediction, Prediction)
        terms = dict.fromkeys(TERMS, prediction.hidden.new_zeros(()))
        terms.update(self._token_terms(prediction, labels, teacher))
        if self.transfer is not None and teacher is not None:
            masks = group_masks(attention_mask.bool(), labels.ne(IGNORED))
            terms.update(self.transfer(features, teacher.features, masks))
        return terms

    def _token_terms(
        self, student: Prediction, labels: Tensor, teacher: Signals | None
    ) -> dict[str, Tensor]:
        objective = self.objective
        smoothing, scale = objective.label_smoothing, 1.0
        if objective.official:
            size = len(student.weight)
            smoothing = smoothing * size / (size - 1)
            # The released code averages over all positions of a batch, padding counted.
            scale = 1 / labels.numel()
        valid = labels.ne(IGNORED)
        told = None
        if teacher is not None and METHODS[objective.method].distribution:
            told = teacher.tokens.at(valid)
        found = token_losses(
            student.at(valid),
            labels[valid],
            told,
            alpha=objective.alpha,
            temperature=objective.temperature,
            label_smoothing=smoothing,
        )
        return {name: loss * scale for name, loss in found._asdict().items()}

    @property
    def alignment(self) -> AttentionAlignment | None:
        """The student's alignment; None for a method without one."""
        return self.transfer.alignment if isinstance(self.transfer, A2D) else None

    # What the Trainer asks of a model.

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
        """Switch to training or from it, where that changes anything.

        The Trainer asks before every step; walking through all modules is a hundredth of a short
        one.
        """
        needed = (self.training, self.student.training) != (mode, mode)
        return super().train(mode) if needed else self

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Recompute the student's layers in the backward pass."""
        self.student.gradient_checkpointing_enable(*args, **kwargs)

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """What later releases of transformers call it."""
        self.student.activation_checkpointing_enable(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """Translate with the student."""
        generated: Tensor = self.student.generate(*args, **kwargs)
        return generated


def run(model: PreTrainedModel, inputs: Mapping[str, Tensor], transfer: Transfer | None) -> Signals:
    """Forward of student or teacher on a batch with labels, with the features `transfer` needs."""
    feed: dict[str, Any] = {k: v for k, v in inputs.items() if k != "labels"}
    feed["decoder_input_ids"] = decoder_inputs(model, inputs["labels"])
    feed["use_cache"] = False
    features = None
    head = model.get_output_embeddings()
    given: list[Tensor] = []

    def withhold(_: nn.Module, hidden: tuple[Tensor]) -> Tensor:
        given.append(hidden[0])
        return hidden[0][:, :0]

    # Logits are for the losses to compute, where a token counts.
    with head.register_forward_pre_hook(withhold):
        if transfer is None:
            model(**feed)
        else:
            _, features = capture_attention(
                model, feed, hidden_states=transfer.hidden_states, stacked=transfer.stacked
            )
    bias = getattr(model, "final_logits_bias", None)
    # Most models' is zero; a graphics card would have to be waited for to know.
    if bias is not None and bias.device.type == "cpu" and not bias.any():
        bias = None
    return Signals(
        Prediction(given[0], head.weight, None if bias is None else bias.squeeze(0)), features
    )


def group_masks(source: Tensor, target: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """For each group, the keys that queries may attend to and the query rows that count.

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


def new_transfer(objective: Objective, student: Any, teacher: Any) -> Transfer | None:
    """What a method compares inside models of these configurations; None for one that does not.

    Raises:
        UserError: the method does not fit their shapes.
    """
    features, groups = METHODS[objective.method].features, objective.groups
    if features is None:
        return None
    assert teacher is not None
    shapes = Geometry.of(student), Geometry.of(teacher)
    if features in ("last", "uniform"):
        return LayerMapping(features, *shapes, groups)
    if features == "ckd":
        return Combination(*shapes, groups)
    start = objective.formula, groups, objective.alignment_start
    if features == "a2d":
        return A2D(AttentionAlignment(*shapes), *start)
    widths = sizes_of(student)["width"], sizes_of(teacher)["width"]
    if features == "a2d+hidden":
        return A2DHidden(AttentionAlignment(*shapes), *start, widths)
    kind = TinyBert if features == "tinybert" else MiniLM
    return kind(*shapes, groups, widths)
