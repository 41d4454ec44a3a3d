"""The teacher as trainings run it: frozen, and laid out for many forward passes."""

from __future__ import annotations

import copy
import platform
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from a2d.families import family_of
from a2d.method.attention import enable_capture


def frozen_teacher(
    teacher: PreTrainedModel, device: torch.device | str, *, bf16: bool = False
) -> PreTrainedModel:
    """A copy of a teacher that captures its attention and never learns; the teacher stays as it is.

    They share what need not differ. On processors the copy's matrices are packed (`pack`).

    Args:
        teacher: the model to copy.
        device: where to run it.
        bf16: whether to compute in bf16 throughout. Autocast would not: it converts weights and
            states back and forth in every pass.

    Raises:
        UserError: the model's family is not supported.
    """
    family_of(teacher.config)  # before anything is copied
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in teacher.parameters()}
    copied = copy.deepcopy(teacher, {**shared, **{id(b): b for b in teacher.buffers()}})
    if bf16:
        copied = copied.bfloat16()
    enable_capture(copied)
    copied.eval().to(device)
    if copied.device.type == "cpu":
        pack(copied)
    return copied


def pack(model: PreTrainedModel) -> None:
    """Lay a model's matrices out as oneDNN multiplies them: once, not in every product.

    All but the output layer's, which losses read; float32 and bf16, on x86, where PyTorch has the
    means. The model cannot be trained any more.
    """
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if type(layer) is nn.Linear and layer is not head and _packs(layer.weight.dtype):
                setattr(module, name, _PackedLinear(layer))


class _PackedLinear(nn.Module):
    """`nn.Linear` that never changes."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        # T5 asks for the weight's precision.
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


def _packs(dtype: torch.dtype) -> bool:
    means = torch.ops.mkldnn
    if platform.machine().lower() not in ("x86_64", "amd64") or not (
        torch.backends.mkldnn.is_available()
        and hasattr(means, "_reorder_linear_weight")
        and hasattr(means, "_linear_pointwise")
    ):
        return False
    if dtype == torch.bfloat16:
        return bool(means._is_mkldnn_bf16_supported())
    return dtype == torch.float32
