"""Signals of a model: its next-token distributions and features for a batch, in one forward pass.

Student and teacher are run alike, in training and for the teacher's cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from a2d.method.attention import Features, capture_attention
from a2d.method.token_losses import Prediction, TopTokens
from a2d.models.loading import decoder_inputs


class Needs(NamedTuple):
    """Features that a comparison reads.

    Attributes:
        hidden_states: the layers' outputs, besides attention maps and value vectors.
        stacked: maps as tensors however long sentences are.
    """

    hidden_states: bool = False
    stacked: bool = True


class Signals(NamedTuple):
    """A model's signals for a batch.

    Attributes:
        tokens: its distributions over next tokens at every target position, (B, T, …).
        features: attention maps, values and hidden states; None if they were not requested.
    """

    tokens: Prediction | TopTokens
    features: Features | None


def model_signals(
    model: PreTrainedModel, batch: Mapping[str, Tensor], needs: Needs | None
) -> Signals:
    """Run a model on a batch.

    Args:
        model: student or teacher, prepared with `enable_capture`.
        batch: `input_ids` (B, S), `attention_mask` (B, S) and `labels` (B, T).
        needs: the features to return; None for none.

    Returns:
        Its signals, with a `Prediction`: logits are computed later, where a token counts.
    """
    inputs: dict[str, Any] = {k: v for k, v in batch.items() if k != "labels"}
    inputs["decoder_input_ids"] = decoder_inputs(model, batch["labels"])
    inputs["use_cache"] = False
    features = None
    head = model.get_output_embeddings()
    outputs: list[Tensor] = []

    def withhold(_: nn.Module, hidden: tuple[Tensor]) -> Tensor:
        outputs.append(hidden[0])
        return hidden[0][:, :0]

    with head.register_forward_pre_hook(withhold):
        if needs is None:
            model(**inputs)
        else:
            _, features = capture_attention(model, inputs, **needs._asdict())
    bias = getattr(model, "final_logits_bias", None)
    # Most models' is zero. On GPU, looking would wait for all kernels.
    if bias is not None and bias.device.type == "cpu" and not bias.any():
        bias = None
    bias = None if bias is None else bias.squeeze(0)
    return Signals(Prediction(outputs[0], head.weight, bias), features)
