"""Teachers in trainings: frozen copies for fast forward passes, and a check of their quality."""

from __future__ import annotations

import copy
import logging
import platform
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from a2d.errors import UserError, missing_library
from a2d.families import family_of
from a2d.method.attention import enable_capture
from a2d.method.token_losses import Prediction, TopTokens, token_losses
from a2d.models.loading import check_same_ids
from a2d.text.batching import IGNORE_INDEX
from a2d.training.config import A2DConfig

logger = logging.getLogger(__name__)

OUTLIER = 6.0
"""Inputs of quantised layers that are larger are multiplied in 16 bits (Dettmers et al. 2022,
LLM.int8())."""


def frozen_teacher(
    teacher: PreTrainedModel,
    device: torch.device | str,
    *,
    bf16: bool = False,
    int8: bool = False,
    sharded: bool = False,
) -> PreTrainedModel:
    """Copy a teacher for inference with captured attention; the teacher itself is not changed.

    The copy shares all weights that need not differ. On CPU, weights that are not quantised are
    packed (`pack`), unless they are divided among processes.

    Args:
        teacher: model to copy.
        device: device of the copy.
        bf16: convert the copy to bfloat16. Autocast is slower, because it converts weights and
            hidden states in every forward pass.
        int8: quantise the copy's linear layers to 8 bits (`quantise_layers`).
        sharded: divide the layers' weights among the processes of the training (`shard`).

    Returns:
        The copy, in evaluation mode, without gradients.

    Raises:
        UserError: the model's family is not supported, or bitsandbytes is not installed.
    """
    family_of(teacher.config)  # refuses unknown families before the copy is made
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in teacher.parameters()}
    frozen = copy.deepcopy(teacher, {**shared, **{id(b): b for b in teacher.buffers()}})
    if bf16:
        frozen = frozen.bfloat16()
    enable_capture(frozen)
    if int8:
        quantise_layers(frozen)
    if sharded:
        shard(frozen)
    frozen.eval().to(device)
    if frozen.device.type == "cpu" and not sharded:
        pack(frozen)
    return frozen


def teacher_for(
    student: PreTrainedModel, teacher: PreTrainedModel | None, args: A2DConfig
) -> PreTrainedModel | None:
    """Freeze a copy of a student's teacher; None if the method needs no teacher.

    Raises:
        UserError: the method needs a teacher and there is none, their vocabularies differ, or a
            single process is to share the teacher's weights.
    """
    if not args.objective.definition.uses_outputs:
        return None
    if teacher is None:
        raise UserError(f"method {args.method!r} needs a teacher: pass teacher=…")
    check_same_ids(teacher, student)
    precision = args.teacher_precision
    bf16 = precision == "bfloat16" or (precision == "int8" and bool(args.bf16))
    if args.shard_teacher and args.world_size == 1:
        raise UserError(
            "shard_teacher divides the teacher among several processes, and there is one: start "
            "the training with torchrun, or leave shard_teacher out."
        )
    return frozen_teacher(
        teacher, args.device, bf16=bf16, int8=precision == "int8", sharded=args.shard_teacher
    )


def warn_if_untrained(batches: Iterable[tuple[Prediction | TopTokens, Tensor]]) -> None:
    """Log a warning if a teacher's cross-entropy is not below the entropy of token frequencies.

    Args:
        batches: the teacher's distributions (B, T, …) as `Prediction`, and labels (B, T).
    """
    total, target_batches = 0.0, []
    for prediction, labels in batches:
        assert isinstance(prediction, Prediction)
        valid = labels.ne(IGNORE_INDEX)
        total += token_losses(prediction.at(valid), labels[valid]).ce.item()
        target_batches.append(labels[valid])
    targets = torch.cat(target_batches)
    frequencies = torch.bincount(targets).double() / len(targets)
    entropy = -torch.special.xlogy(frequencies, frequencies).sum().item()
    if not total / len(targets) < entropy:  # "not <" includes NaN
        logger.warning(
            "the teacher is not better than chance: its cross-entropy on the validation set is "
            "%.2f nats per token, and that of token frequencies alone is %.2f. Was the teacher "
            "trained on these languages, with this tokenizer?",
            total / len(targets),
            entropy,
        )


def shard(model: PreTrainedModel) -> None:
    """Divide the weights of a model's layers among all processes, in place (PyTorch's FSDP2).

    A layer's weights are gathered while it computes. Embeddings and the output layer stay whole,
    because losses read the output layer's weight. Each process must apply the model to the same
    number of batches. Layers move to the process's device one by one.
    """
    from torch.distributed.fsdp import fully_shard

    whole = set(model.parameters())
    for stack in (model.get_encoder(), model.get_decoder()):
        for layer in getattr(stack, family_of(model.config).layers):
            whole -= set(layer.parameters())
            fully_shard(layer)
    fully_shard(model, ignored_params=whole)


def pack(model: PreTrainedModel) -> None:
    """Convert the weights of linear layers to oneDNN's layout, in place.

    oneDNN converts them in every product otherwise. The output layer stays as it is, because losses
    read its weight. Only float32 and bfloat16 weights are packed, and only on x86 with a PyTorch
    that has the operations. A packed model cannot be trained.
    """
    _replace_linear(
        model, lambda layer: _PackedLinear(layer) if _can_pack(layer.weight.dtype) else layer
    )


def quantise_layers(model: PreTrainedModel) -> None:
    """Quantise the weights of linear layers to 8 bits, in place (Dettmers et al. 2022).

    bitsandbytes computes their products; it quantises the weights when the model moves to its
    device. The output layer stays as it is, because losses read its weight.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    library = require_bitsandbytes()

    def convert(layer: nn.Linear) -> nn.Module:
        size = layer.in_features, layer.out_features
        converted: nn.Module = library.nn.Linear8bitLt(
            *size, bias=False, has_fp16_weights=False, threshold=OUTLIER, device="meta"
        )
        converted.weight = library.nn.Int8Params(
            layer.weight.detach(), requires_grad=False, has_fp16_weights=False
        )
        converted.bias = layer.bias
        return converted

    _replace_linear(model, convert)


def require_bitsandbytes() -> Any:
    """Import bitsandbytes, an extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise missing_library("bitsandbytes", error) from error
    # It warns in every product that it computes in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return bitsandbytes


def _replace_linear(model: PreTrainedModel, convert: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace all linear layers of a model but its output layer."""
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if type(layer) is nn.Linear and layer is not head:
                setattr(module, name, convert(layer))


class _PackedLinear(nn.Module):
    """`nn.Linear` with a constant weight in oneDNN's layout."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        # Called `weight`, because T5 reads its dtype.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self.bias = layer.bias

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self.weight, self.bias, "none", [], ""
        )
        return product

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight.to_dense()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def __deepcopy__(self, memo: Any) -> _PackedLinear:
        return self


def _can_pack(dtype: torch.dtype) -> bool:
    operations = torch.ops.mkldnn
    if platform.machine().lower() not in ("x86_64", "amd64") or not (
        torch.backends.mkldnn.is_available()
        and hasattr(operations, "_reorder_linear_weight")
        and hasattr(operations, "_linear_pointwise")
    ):
        return False
    if dtype == torch.bfloat16:
        return bool(operations._is_mkldnn_bf16_supported())
    return dtype == torch.float32
