"""The module that is trained: a student, its alignment, and the terms of their objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from a2d import losses
from a2d.alignment import AttentionAlignment
from a2d.attention import GROUPS, AttentionMaps, Geometry, capture_attention

IGNORED = -100
"""Label of positions that take no part, as everywhere in transformers."""

TERMS = ("ce", "kd", *GROUPS)
"""The objective's terms, in the order of every vector of terms."""


class Method(NamedTuple):
    """What a named method imitates."""

    distribution: bool
    attention: bool


METHODS = {
    "baseline": Method(distribution=False, attention=False),
    "kd": Method(distribution=True, attention=False),
    "a2d": Method(distribution=True, attention=True),
}
"""baseline: references only. kd: word-level KD (Hinton et al. 2015; Kim & Rush 2016). a2d: kd and
attention transfer through a learned alignment (Jin et al. 2024)."""


class Objective(NamedTuple):
    """Settings of the objective (`A2DConfig` explains each)."""

    method: str
    formula: str
    temperature: float
    label_smoothing: float


class TeacherSignals(NamedTuple):
    """What the frozen teacher says of a batch; maps are empty where none are imitated."""

    logits: Tensor
    maps: AttentionMaps


class Distillation(nn.Module):
    """A student and, for attention transfer, its alignment: all that learns, and nothing else.

    This is what the Trainer optimises, checkpoints and, on several devices, wraps; the teacher's
    signals come in as inputs. It passes for the student wherever the Trainer asks for one.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        teacher_geometry: Geometry | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.alignment: AttentionAlignment | None = None
        if METHODS[objective.method].attention:
            assert teacher_geometry is not None
            self.alignment = AttentionAlignment(Geometry.of(student.config), teacher_geometry)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        teacher: TeacherSignals | None = None,
    ) -> dict[str, Tensor]:
        """Compute every term of the objective as a sum over the batch's tokens.

        Args:
            input_ids: source tokens (B, S).
            attention_mask: 1 at source tokens, 0 at padding, (B, S).
            labels: target tokens (B, T), `IGNORED` at padding.
            teacher: what the teacher says of the same batch; None without one.

        Returns:
            Scalars, one for each of `TERMS`, zero where the method does not have it. A plain dict:
            distributed wrappers look for unused parameters in it.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        output, maps = run(self.student, inputs, with_maps=self.alignment is not None)
        terms = dict.fromkeys(TERMS, output.logits.new_zeros(()))
        terms.update(self._token_terms(output.logits, labels, teacher))
        if self.alignment is not None and teacher is not None:
            masks = group_masks(attention_mask.bool(), labels.ne(IGNORED))
            for group in GROUPS:
                keys, rows = masks[group]
                terms[group] = self._attention_term(
                    group, maps[group], teacher.maps[group], keys, rows
                )
        return terms

    def _token_terms(
        self, logits: Tensor, labels: Tensor, teacher: TeacherSignals | None
    ) -> dict[str, Tensor]:
        official = self.objective.formula == "official"
        smoothing = self.objective.label_smoothing
        if official:
            size = logits.shape[-1]
            smoothing = smoothing * size / (size - 1)
        valid = labels.ne(IGNORED)
        chosen = logits[valid].float() if logits.dtype != torch.float64 else logits[valid]
        # The released code averages over all positions of a batch, padding counted.
        scale = 1 / labels.numel() if official else 1.0
        terms = {"ce": losses.cross_entropy(chosen, labels[valid], smoothing) * scale}
        if teacher is not None and METHODS[self.objective.method].distribution:
            kd = losses.word_level_kd(
                chosen, teacher.logits[valid].to(chosen.dtype), self.objective.temperature
            )
            terms["kd"] = kd * scale
        return terms

    def _attention_term(
        self, group: str, maps: Tensor, teacher_maps: Tensor, keys: Tensor, rows: Tensor
    ) -> Tensor:
        assert self.alignment is not None
        if self.objective.formula == "official":
            return losses.official_attention_transfer(self.alignment(maps, group), teacher_maps)
        return losses.attention_transfer(self.alignment(maps, group), teacher_maps, keys, rows)

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


def run(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], *, with_maps: bool
) -> tuple[Seq2SeqLMOutput, AttentionMaps]:
    """Forward of student or teacher on a batch with labels; maps only where asked for."""
    feed = {k: v for k, v in inputs.items() if k != "labels"}
    feed["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    if with_maps:
        return capture_attention(model, {**feed, "use_cache": False})
    return model(**feed, use_cache=False), {}


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
