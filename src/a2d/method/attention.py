"""Capture of attention maps: one softmax serves the model's output and the distillation loss.

With the attention implementation ``"a2d"``, a model uses PyTorch's fused kernels by default. In a
forward pass of `capture_attention`, it computes the softmax explicitly, once: the capture takes the
probabilities *before* dropout, and the model continues with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from a2d.families import Geometry, attention_group, family_of
from a2d.method.maps import (
    AttentionMaps,
    RecomputedMaps,
    StackedMaps,
    additive_mask,
    attention_probabilities,
)

GROUPS = ("encoder", "decoder", "cross")
"""Groups of attention maps: encoder self-attention, decoder self-attention, cross-attention."""

IMPLEMENTATION = "a2d"
"""Name of `attention_forward` in transformers' registry."""

LONG = 256
"""On CPU, attention calls with at least this many keys do not store maps; the loss recomputes them.

On GPU, maps are always recomputed: many small kernels per layer would take longer to launch than
computing the maps of all layers again at once. Maps with a position bias (T5's) are always stored.
"""


class Features(NamedTuple):
    """Attention maps, value vectors and hidden states of one forward pass.

    Attributes:
        maps: group → attention maps (B, C, Q, K), stacked or recomputed (see `LONG`). Stacked maps
            have the model's dtype, but float32 in place of bfloat16 and float16.
        values: group → the last layer's value vectors (B, H, K, d).
        hidden: `encoder`, `decoder` → the layers' outputs, each (B, positions, width), without the
            embeddings; empty unless hidden states were requested.
    """

    maps: dict[str, AttentionMaps]
    values: dict[str, Tensor]
    hidden: dict[str, list[Tensor]]


class AttentionCapture:
    """Collector of the attention maps of one forward pass; attention calls get it as a keyword.

    Args:
        complete_maps: store all maps as tensors, even if they could be recomputed.
        group_of: function from an attention layer to its group.
    """

    def __init__(
        self, complete_maps: bool, group_of: Callable[[Any], str] = attention_group
    ) -> None:
        self._layers: dict[str, list[AttentionMaps]] = {group: [] for group in GROUPS}
        self._values: dict[str, Tensor] = {}
        self._complete_maps = complete_maps
        self._group_of = group_of
        self._open = True
        self._gradients = torch.is_grad_enabled()

    def stores(self, key: Tensor) -> bool:
        """Check whether to store the maps of an attention call with these keys (B, H, K, d)."""
        return self._complete_maps or (key.device.type == "cpu" and key.shape[2] < LONG)

    def add(self, module: nn.Module, maps: AttentionMaps, value: Tensor) -> None:
        """Record one attention call.

        Args:
            module: attention layer.
            maps: maps of the layer (B, H, Q, K).
            value: value vectors of the layer (B, H, K, d).
        """
        # Gradient checkpointing calls the layers a second time, in the backward pass.
        if self._open:
            if self._gradients and not torch.is_grad_enabled():
                raise RuntimeError(
                    "reentrant gradient checkpointing removes the gradients of attention maps: "
                    "set gradient_checkpointing_kwargs={'use_reentrant': False}."
                )
            group = self._group_of(module)
            self._layers[group].append(maps)
            self._values[group] = value

    def finish(self, config: Any) -> Features:
        """Close the capture, and join the layers of each group.

        Args:
            config: configuration of the model.

        Returns:
            The features, without hidden states.

        Raises:
            RuntimeError: the number of calls in a group is not the model's number of layers.
        """
        self._open = False
        geometry = Geometry.of(config)
        maps: dict[str, AttentionMaps] = {}
        for group, layers in self._layers.items():
            captured = sum(layer.channels for layer in layers)
            if captured != geometry.channels(group):
                raise RuntimeError(
                    f"captured {captured} {group} attention maps where the model has "
                    f"{geometry.channels(group)}: was a layer skipped (layerdrop) or called twice?"
                )
            maps[group] = type(layers[0]).concatenate(layers)
        return Features(maps, self._values, {})


def enable_capture(model: PreTrainedModel) -> Callable[[], None]:
    """Switch a model to the ``"a2d"`` attention implementation.

    Layerdrop is switched off, because it drops layers at random, with their attention maps. The
    released configurations of M2M100 and mBART have layerdrop.

    Returns:
        A function that restores the model's settings.

    Raises:
        UserError: the model's family is not supported (`family_of`).
    """
    family = family_of(model.config)
    implementation = model.config._attn_implementation
    rates = [
        (owner, name, rate)
        for owner in (model.config, *model.modules())
        for name in family.layerdrops
        if (rate := getattr(owner, name, 0))
    ]
    for owner, name, _ in rates:
        setattr(owner, name, 0.0)
    model.set_attn_implementation(IMPLEMENTATION)

    def restore() -> None:
        model.set_attn_implementation(implementation)
        for owner, name, rate in rates:
            setattr(owner, name, rate)

    return restore


def capture_attention(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    *,
    hidden_states: bool = False,
    complete_maps: bool = True,
) -> tuple[Any, Features]:
    """Run a model, and capture its features.

    Args:
        model: encoder-decoder after `enable_capture`, with or without its output layer.
        inputs: keyword arguments of its `forward`.
        hidden_states: return the layers' outputs too.
        complete_maps: store maps as tensors, even for long sentences.

    Returns:
        The model's output and the features, with gradients unless PyTorch has them switched off.
    """
    capture = AttentionCapture(complete_maps, family_of(model.config).group)
    output = model(**inputs, attention_capture=capture, output_hidden_states=hidden_states)
    features = capture.finish(model.config)
    if hidden_states:
        stacks = (output.encoder_hidden_states, output.decoder_hidden_states)
        # The first element of each stack is the embeddings.
        hidden = {"encoder": list(stacks[0][1:]), "decoder": list(stacks[1][1:])}
        features = features._replace(hidden=hidden)
    return output, features


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    attention_capture: AttentionCapture | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention, as the implementation ``"a2d"`` of transformers.

    Args:
        module: attention layer.
        query: (B, H, Q, d).
        key: (B, H, K, d).
        value: (B, H, K, d).
        attention_mask: additive or boolean mask, broadcastable to (B, H, Q, K); None: no mask.
        dropout: dropout rate of attention probabilities.
        scaling: factor on products of queries and keys; None: 1/√d.
        position_bias: bias added to the scores, broadcastable to (B, H, Q, K), or None.
        attention_capture: collector of the layer's maps; None: no capture.
        **kwargs: further arguments of transformers' attention functions.

    Returns:
        Outputs (B, Q, H, d), and None in place of attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:  # passed by a caller
        attention_mask = additive_mask(attention_mask, query.dtype)
    stores = attention_capture is not None and (
        attention_capture.stores(key) or position_bias is not None
    )
    if attention_capture is not None and not stores:
        assert attention_mask is not None
        attention_capture.add(module, RecomputedMaps(query, key, scale, attention_mask), value)
    if not stores and not _explicit_is_faster(query, key):
        output, _ = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            None if attention_mask is None else attention_mask.to(query.dtype),
            dropout=dropout,
            scaling=scaling,
            position_bias=position_bias,
            **kwargs,
        )
        return output, None
    probabilities = attention_probabilities(query, key, scale, attention_mask, position_bias)
    if attention_capture is not None and stores:
        attention_capture.add(module, StackedMaps(probabilities), value)
    weights = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    output = torch.matmul(weights.to(value.dtype), value)
    return output.transpose(1, 2).contiguous(), None


def attention_mask(*args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Tensor:
    """Build the additive attention mask of a model's layers; never None.

    Explicit attention probabilities need a mask in every case. The mask is additive, because fused
    kernels convert a boolean mask again in every layer.
    """
    kwargs["allow_is_causal_skip"] = False
    kwargs["allow_is_bidirectional_skip"] = False
    mask = sdpa_mask(*args, **kwargs)
    if torch.is_autocast_enabled(mask.device.type):
        dtype = torch.get_autocast_dtype(mask.device.type)
    return additive_mask(mask, dtype)


def _explicit_is_faster(query: Tensor, key: Tensor) -> bool:
    """Check for short bfloat16 sequences on CPU, for which the fused kernel is slow."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.shape[2] <= 128


AttentionInterface.register(IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, attention_mask)
