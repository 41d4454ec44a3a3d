"""Outputs of a model for a batch: next-token distributions and features, from one forward pass.

The same function runs students and teachers, in training and for the teacher's cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from a2d.errors import UserError
from a2d.method.attention import Features, capture_attention
from a2d.method.token_losses import Prediction, TopTokens
from a2d.models.loading import decoder_inputs


class Needs(NamedTuple):
    """Features that a comparison needs.

    Attributes:
        hidden_states: compute the layers' outputs, besides attention maps and value vectors.
        complete_maps: store maps as tensors, even for long sentences.
    """

    hidden_states: bool = False
    complete_maps: bool = True


class Outputs(NamedTuple):
    """A model's outputs for a batch.

    Attributes:
        tokens: distributions over next tokens at each target position, (B, T, …).
        features: attention maps, value vectors and hidden states; None if not requested.
    """

    tokens: Prediction | TopTokens
    features: Features | None


def model_outputs(
    model: PreTrainedModel, batch: Mapping[str, Tensor], needs: Needs | None
) -> Outputs:
    """Compute a model's outputs for a batch.

    Args:
        model: student or teacher, after `enable_capture`.
        batch: `input_ids` (B, S), `attention_mask` (B, S) and `labels` (B, T), integers.
        needs: features to return; None: no features.

    Returns:
        The outputs. Their distributions are a `Prediction`, because losses compute logits later,
        without padding.

    Raises:
        UserError: the model's output projection has a bias.
    """
    inputs: dict[str, Any] = {k: v for k, v in batch.items() if k != "labels"}
    inputs["decoder_input_ids"] = decoder_inputs(model, batch["labels"])
    inputs["use_cache"] = False
    features = None
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise UserError(
            f"{type(model).__name__} has an output projection with a bias, which a2d does not "
            "support: only the buffer final_logits_bias is."
        )
    hidden_states: list[Tensor] = []

    def skip_projection(_: nn.Module, hidden: tuple[Tensor]) -> Tensor:
        hidden_states.append(hidden[0])
        return hidden[0][:, :0]

    with head.register_forward_pre_hook(skip_projection):
        if needs is None:
            model(**inputs)
        else:
            _, features = capture_attention(model, inputs, **needs._asdict())
    bias = getattr(model, "final_logits_bias", None)
    # Most biases are zero. On GPU they are not checked, because that would wait for all kernels.
    if bias is not None and bias.device.type == "cpu" and not bias.any():
        bias = None
    bias = None if bias is None else bias.squeeze(0)
    return Outputs(Prediction(hidden_states[0], head.weight, bias), features)
