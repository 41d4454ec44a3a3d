"""Capture of attention maps: one softmax serves the model's output and the distillation loss.

A model whose attention implementation is ``"a2d"`` computes its attention with PyTorch's fused
kernels as long as nobody asks for the maps. Called inside `capture_attention`'s forward it computes
the softmax once, hands the probabilities over *before* dropout, and goes on with them.
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

GROUPS = ("encoder", "decoder", "cross")
"""The aligned groups: encoder self-attention, decoder self-attention, cross-attention."""

IMPLEMENTATION = "a2d"


LONG = 256
"""Keys from which on a processor computes maps a second time, in the loss, rather than keep them.

A graphics card does from one on: it takes longer to start a layer's many small steps than to
compute all layers' maps at once again. Maps with a position bias (T5's) are always kept.
"""


class Piece(NamedTuple):
    """Some of a batch's attention rows."""

    sentences: slice
    queries: slice


class Attended(NamedTuple):
    """What attention maps are computed from: one layer's, or all of a group's end to end.

    query: (B, C, Q, d), not scaled.
    key: (B, C, K, d).
    scale: of their products.
    mask: added to the scores (`masking`), broadcastable to (B, C, Q, K).
    """

    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor

    def maps(self, piece: Piece) -> Tensor:
        """The maps of some rows, (b, C, q, K), as the model has them."""
        sentences, queries = piece
        mask = self.mask.expand(len(self.query), -1, self.query.shape[2], -1)
        query, key = self.query[sentences, :, queries], self.key[sentences]
        return _probabilities(query, key, self.scale, mask[sentences, :, queries])


class Features(NamedTuple):
    """What a forward pass shows of a model's inside.

    maps: group → attention maps (B, C, Q, K), one channel per layer and head, layer-major, before
        dropout; float32 under bf16 or fp16, otherwise of the model's dtype. Or, where nobody asked
        for stacked maps, what they are computed from (`LONG` says when).
    values: group → the last layer's value vectors (B, H, K, d).
    hidden: `encoder`, `decoder` → the layers' outputs, each (B, positions, width), where asked for.
    """

    maps: dict[str, Any]  # Tensor or Attended
    values: dict[str, Tensor]
    hidden: dict[str, list[Tensor]]


class AttentionCapture:
    """Collects what one forward pass attends to; travels to every attention call as a keyword."""

    def __init__(self, stacked: bool, group_of: Callable[[Any], str] = attention_group) -> None:
        self._layers: dict[str, list[Any]] = {group: [] for group in GROUPS}
        self._values: dict[str, Tensor] = {}
        self._stacked = stacked
        self._group_of = group_of
        self._open = True
        self._gradients = torch.is_grad_enabled()

    def keeps(self, key: Tensor) -> bool:
        """Whether it wants the maps themselves, not what they are computed from."""
        return self._stacked or (key.device.type == "cpu" and key.shape[2] < LONG)

    def add(self, module: nn.Module, maps: Tensor | Attended, value: Tensor) -> None:
        """Take one attention call's maps (B, H, Q, K), in either form, and values (B, H, K, d)."""
        # Gradient checkpointing calls the layers a second time, in the backward pass.
        if self._open:
            if self._gradients and not torch.is_grad_enabled():
                raise RuntimeError(
                    "attention maps come without gradients: reentrant gradient checkpointing hides "
                    "them; set gradient_checkpointing_kwargs={'use_reentrant': False}."
                )
            group = self._group_of(module)
            self._layers[group].append(maps)
            self._values[group] = value

    def finish(self, config: Any) -> Features:
        """Close the capture and stack each group's layers; hidden states are left empty.

        Raises:
            RuntimeError: a group was called another number of times than the model has layers.
        """
        self._open = False
        geometry = Geometry.of(config)
        maps: dict[str, Any] = {}
        for group, layers in self._layers.items():
            found = sum((m if isinstance(m, Tensor) else m.query).shape[1] for m in layers)
            if found != geometry.channels(group):
                raise RuntimeError(
                    f"captured {found} {group} attention maps where the model has "
                    f"{geometry.channels(group)}: was a layer skipped (layerdrop) or called twice?"
                )
            maps[group] = _end_to_end(layers)
        return Features(maps, self._values, {})


def _end_to_end(layers: list[Any]) -> Tensor | Attended:
    """All layers' maps, or what they are computed from; scale and mask are every layer's."""
    if isinstance(layers[0], Tensor):
        return torch.cat(layers, dim=1)
    first: Attended = layers[0]
    query, key = (torch.cat([layer[part] for layer in layers], dim=1) for part in (0, 1))
    return first._replace(query=query, key=key)


def enable_capture(model: PreTrainedModel) -> None:
    """Switch a model to the ``"a2d"`` attention implementation.

    Layerdrop is switched off: it drops layers at random in training, and their attention maps with
    them. M2M100 and mBART are released with layerdrop.

    Raises:
        UserError: the model's family is not supported (`family_of`).
    """
    family = family_of(model.config)
    for module in (model.config, *model.modules()):
        for name in family.layerdrops:
            if getattr(module, name, 0):
                setattr(module, name, 0.0)
    model.set_attn_implementation(IMPLEMENTATION)


def capture_attention(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    *,
    hidden_states: bool = False,
    stacked: bool = True,
) -> tuple[Any, Features]:
    """Run `model` on `inputs` and return its output with its features.

    Args:
        model: an encoder-decoder prepared with `enable_capture`, or its part below the logits.
        inputs: keyword arguments of its forward.
        hidden_states: also give the layers' outputs.
        stacked: give maps as tensors however long sentences are.

    Returns:
        The model's own output and the features, with gradients unless switched off.
    """
    capture = AttentionCapture(stacked, family_of(model.config).group)
    output = model(**inputs, attention_capture=capture, output_hidden_states=hidden_states)
    features = capture.finish(model.config)
    if hidden_states:
        stacks = (output.encoder_hidden_states, output.decoder_hidden_states)
        # The first of each are the embeddings.
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
    """Attention function registered with transformers under the name ``"a2d"``."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:  # a caller's own
        attention_mask = masking(attention_mask, query.dtype)
    kept = attention_capture is not None and (
        attention_capture.keeps(key) or position_bias is not None
    )
    if attention_capture is not None and not kept:
        assert attention_mask is not None
        attention_capture.add(module, Attended(query, key, scale, attention_mask), value)
    if not kept and not _explicit_is_faster(query, key):
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
    probabilities = _probabilities(query, key, scale, attention_mask, position_bias)
    if attention_capture is not None and kept:
        attention_capture.add(module, probabilities, value)
    weights = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    output = torch.matmul(weights.to(value.dtype), value)
    return output.transpose(1, 2).contiguous(), None


def attention_mask(*args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Tensor:
    """What is added to scores, never left out: the softmax here has no other mask.

    Fused kernels would make it of a boolean mask in every layer again.
    """
    kwargs["allow_is_causal_skip"] = False
    kwargs["allow_is_bidirectional_skip"] = False
    mask = sdpa_mask(*args, **kwargs)
    if torch.is_autocast_enabled(mask.device.type):
        dtype = torch.get_autocast_dtype(mask.device.type)
    return masking(mask, dtype)


def masking(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What, added to scores, leaves nothing of them in a softmax where the mask is False."""
    # Half the lowest number: a score added to the lowest may be infinite, and a row of such NaN.
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min / 2)


def _probabilities(
    query: Tensor, key: Tensor, scale: float, mask: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    if query.dtype == torch.float16:  # whose range unscaled products may leave
        query, scale = query * scale, 1.0
    # Keys are copied as they lie here; `matmul` copies them transposed, which takes longer.
    products = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
    products = products.view(*query.shape[:3], -1)
    scores = products * scale if mask is None else torch.add(mask, products, alpha=scale)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _explicit_is_faster(query: Tensor, key: Tensor) -> bool:
    # On CPU the fused kernel is slow for short bf16 sequences.
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.shape[2] <= 128


AttentionInterface.register(IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, attention_mask)
