"""Attention maps of a group of layers: stored, or recomputed from queries and keys.

Losses read `AttentionMaps`, for the student and for the teacher. Recomputed maps exist for one
block of rows at a time, so that long sentences need little memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """Block of attention rows.

    Attributes:
        sentences: sentences of the batch.
        queries: query positions of these sentences.
    """

    sentences: slice = slice(None)
    queries: slice = slice(None)


class AttentionMaps(ABC):
    """Attention maps (B, C, Q, K) before dropout; channels are ordered by layer, then by head."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Number of maps per sentence, C."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[Tensor, ...]:
        """Tensors that the maps consist of, or are computed from; gradients flow to them."""

    @abstractmethod
    def with_inputs(self, *inputs: Tensor) -> AttentionMaps:
        """Return maps like these with other `inputs` of the same shapes."""

    @property
    def precision(self) -> torch.dtype:
        """Dtype of blocks and gradients: float32, or float64 for float64 inputs."""
        return torch.promote_types(self.inputs[0].dtype, torch.float32)

    @abstractmethod
    def block(self, block: Block) -> Tensor:
        """Return the maps of a block of rows, (b, C, q, K), in `precision`."""

    @abstractmethod
    def stacked(self) -> Tensor:
        """Return all maps as one tensor (B, C, Q, K), which autograd can differentiate."""

    @abstractmethod
    def new_gradient(self) -> MapsGradient:
        """Return an empty gradient with respect to `inputs`, to be filled block by block."""

    @classmethod
    @abstractmethod
    def concatenate(cls, layers: Sequence[Any]) -> AttentionMaps:
        """Join the maps of several layers, all of this class, along the channels."""


class MapsGradient(ABC):
    """Gradient of a loss with respect to `AttentionMaps.inputs`, filled block by block.

    Attributes:
        tensors: gradient of each input, complete after all blocks were added.
    """

    tensors: Sequence[Tensor]

    @abstractmethod
    def add(self, block: Block, maps: Tensor, gradient: Tensor) -> None:
        """Add the gradient of a block.

        Args:
            block: rows of the block.
            maps: result of `AttentionMaps.block` for these rows, (b, C, q, K).
            gradient: gradient of the loss with respect to `maps`, of the same shape.
        """


@dataclass(eq=False)
class StackedMaps(AttentionMaps):
    """Attention maps stored as one tensor.

    Attributes:
        tensor: the maps (B, C, Q, K).
    """

    tensor: Tensor

    @property
    def channels(self) -> int:
        """Number of maps per sentence, C."""
        return self.tensor.shape[1]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The maps themselves."""
        return (self.tensor,)

    def with_inputs(self, *inputs: Tensor) -> StackedMaps:
        """Return other maps of the same shape."""
        return StackedMaps(*inputs)

    def block(self, block: Block) -> Tensor:
        """Return the maps of a block of rows."""
        return self.tensor[block.sentences, :, block.queries].to(self.precision)

    def stacked(self) -> Tensor:
        """Return the tensor."""
        return self.tensor

    def new_gradient(self) -> MapsGradient:
        """Return an empty gradient of the maps."""
        return _StackedGradient(torch.empty_like(self.tensor, dtype=self.precision))

    @classmethod
    def concatenate(cls, layers: Sequence[StackedMaps]) -> StackedMaps:
        """Join the maps of several layers along the channels."""
        return cls(torch.cat([layer.tensor for layer in layers], dim=1))


class _StackedGradient(MapsGradient):
    def __init__(self, gradient: Tensor) -> None:
        self.tensors = [gradient]

    def add(self, block: Block, maps: Tensor, gradient: Tensor) -> None:
        self.tensors[0][block.sentences, :, block.queries] = gradient


@dataclass(eq=False)
class RecomputedMaps(AttentionMaps):
    """Attention maps softmax(scale·query·keyᵀ + mask), computed whenever they are read.

    Attributes:
        query: query vectors (B, C, Q, d), not scaled.
        key: key vectors (B, C, K, d).
        scale: factor on the products of queries and keys.
        mask: additive mask (`additive_mask`), broadcastable to (B, C, Q, K).
    """

    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor

    @property
    def channels(self) -> int:
        """Number of maps per sentence, C."""
        return self.query.shape[1]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Queries and keys."""
        return self.query, self.key

    def with_inputs(self, *inputs: Tensor) -> RecomputedMaps:
        """Return maps of other queries and keys."""
        query, key = inputs
        return replace(self, query=query, key=key)

    def block(self, block: Block) -> Tensor:
        """Compute the maps of a block of rows."""
        sentences, queries = block
        mask = self.mask.expand(len(self.query), -1, self.query.shape[2], -1)
        query, key = self.query[sentences, :, queries], self.key[sentences]
        return attention_probabilities(query, key, self.scale, mask[sentences, :, queries])

    def stacked(self) -> Tensor:
        """Compute all maps."""
        return self.block(Block())

    def new_gradient(self) -> MapsGradient:
        """Return an empty gradient of queries and keys."""
        return _RecomputedGradient(self)

    @classmethod
    def concatenate(cls, layers: Sequence[RecomputedMaps]) -> RecomputedMaps:
        """Join the queries and keys of several layers, which share scale and mask."""
        query = torch.cat([layer.query for layer in layers], dim=1)
        key = torch.cat([layer.key for layer in layers], dim=1)
        return replace(layers[0], query=query, key=key)


class _RecomputedGradient(MapsGradient):
    def __init__(self, maps: RecomputedMaps) -> None:
        self._maps = maps
        # The memory layout is that of the layers' projections, position by position, because
        # autograd would copy any other layout.
        query, key = maps.query.transpose(1, 2), maps.key.transpose(1, 2)
        query_gradient = query.new_empty(query.shape, dtype=maps.precision)
        key_gradient = key.new_zeros(key.shape, dtype=maps.precision)  # blocks are added up
        self.tensors = [query_gradient.transpose(1, 2), key_gradient.transpose(1, 2)]

    def add(self, block: Block, maps: Tensor, gradient: Tensor) -> None:
        sentences, queries = block
        precision = self._maps.precision
        query, key = self._maps.query[sentences, :, queries], self._maps.key[sentences]
        scores = torch._softmax_backward_data(gradient, maps, -1, precision)
        # Not in float16: without loss scaling, gradients are too small for it.
        dtype = torch.bfloat16 if query.dtype == torch.bfloat16 else precision
        scores = (scores * self._maps.scale).to(dtype)
        query, key = query.to(dtype), key.to(dtype)
        query_gradient, key_gradient = self.tensors
        query_gradient[sentences, :, queries] = scores @ key
        key_gradient[sentences] += scores.transpose(2, 3) @ query


def attention_probabilities(
    query: Tensor, key: Tensor, scale: float, mask: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """Compute softmax(scale·query·keyᵀ + mask + bias), in float32 at least.

    Args:
        query: query vectors (B, C, Q, d).
        key: key vectors (B, C, K, d).
        scale: factor on the products.
        mask: additive mask, broadcastable to (B, C, Q, K), or None.
        bias: position bias, broadcastable to the same shape, or None.

    Returns:
        Probabilities (B, C, Q, K).
    """
    if query.dtype == torch.float16:  # unscaled products may exceed the range of float16
        query, scale = query * scale, 1.0
    # `bmm` copies the keys in their own layout; `matmul` copies them transposed, which is slower.
    products = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
    products = products.view(*query.shape[:3], -1)
    scores = products * scale if mask is None else torch.add(mask, products, alpha=scale)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a boolean mask to an additive one: 0 where True, a very low number where False.

    The very low number is half of the dtype's lowest number. Adding a score to the lowest number
    itself may overflow to -inf, and a softmax over -inf alone gives NaN.
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min / 2)
