"""Attention Alignment Module (AAM): learned weights of the student's heads per teacher head.

Jin et al., "Align-to-Distill" (LREC-COLING 2024, arXiv 2403.01479), section 3.2, Eq. 9.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from a2d.errors import UserError, first_line
from a2d.families import Geometry
from a2d.method.attention import GROUPS

FILE_NAME = "alignment.safetensors"


class AttentionAlignment(nn.Module):
    """A matrix per group that combines the student's maps into one map per teacher map.

    The paper's pointwise convolution (a 1×1 convolution over maps) equals a matrix product over
    channels, which is what this module computes. A channel is one head of one layer; channels are
    ordered by layer, then by head.

    There is no bias: it would add a constant to all positions of a map, which the softmax
    afterwards removes. (In the released code, the gradient of the bias is round-off noise.) Initial
    weights are random within ±1/√channels, as in PyTorch's convolutions; `start_uniform` sets other
    initial weights.

    Args:
        student: layers and heads of the student.
        teacher: layers and heads of the teacher.

    Attributes:
        weights: group → weights (teacher channels, student channels).

    Example:
        >>> alignment = AttentionAlignment(Geometry(3, 3, 8, 8), Geometry(6, 6, 4, 4))
        >>> alignment.weights["cross"].shape  # teacher channels, student channels
        torch.Size([24, 24])
    """

    def __init__(self, student: Geometry, teacher: Geometry) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.weights = nn.ParameterDict()
        for group in GROUPS:
            weight = torch.empty(teacher.channels(group), student.channels(group))
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            self.weights[group] = nn.Parameter(weight)

    def start_uniform(self, scale: float) -> None:
        """Set initial weights by which layers correspond evenly, plus a tenth of the random ones.

        Args:
            scale: weight of a teacher head on the head of the same number in the student layer at
                the same relative depth. Where the numbers of heads differ, all heads of that layer
                share it.
        """
        with torch.no_grad():
            for group in GROUPS:
                heads, teacher_heads = self.student.heads(group), self.teacher.heads(group)
                layers, teacher_layers = self.student.layers(group), self.teacher.layers(group)
                counterparts = [
                    math.ceil((layer + 1) * layers / teacher_layers) - 1
                    for layer in range(teacher_layers)
                ]
                by_layer = torch.eye(layers)[counterparts]
                by_head = torch.ones(teacher_heads, heads) / heads
                if heads == teacher_heads:
                    by_head = torch.eye(heads)
                guess = torch.kron(by_layer, by_head)
                self.weights[group].mul_(0.1).add_(scale * guess)

    def forward(self, maps: Tensor, group: str) -> Tensor:
        """Combine the student's maps (B, C_S, Q, K) into intermediate maps (B, C_T, Q, K)."""
        return combine(self.weights[group], maps)

    def save(self, path: str | Path) -> None:
        """Write weights and geometries to one safetensors file."""
        # One metadata entry, because safetensors writes several in varying order.
        geometries = {"student": self.student._asdict(), "teacher": self.teacher._asdict()}
        metadata = {"geometries": json.dumps(geometries)}
        tensors = {name: t.detach().contiguous() for name, t in self.state_dict().items()}
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> AttentionAlignment:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or holds something else.
        """
        if not Path(path).is_file():
            raise UserError(
                f"{path} does not exist: give the folder of a student distilled with attention "
                f"transfer, which holds {FILE_NAME}."
            )
        try:
            with safe_open(path, framework="pt") as file:
                geometries = json.loads((file.metadata() or {})["geometries"])
            student, teacher = (Geometry(**geometries[model]) for model in ("student", "teacher"))
            if not all(type(size) is int and size > 0 for size in (*student, *teacher)):
                raise ValueError("a number of layers or heads is not a positive whole number")
            with torch.device("meta"):  # sizes in the metadata may be wrong: allocate nothing
                alignment = cls(student, teacher)
            weights = {name: weight.float() for name, weight in load_file(path).items()}
            alignment.load_state_dict(weights, assign=True)
            if not all(weight.isfinite().all() for weight in weights.values()):
                raise ValueError("a weight is not finite")
        except Exception as error:  # parsers raise various errors for damaged files
            raise UserError(
                f"{path} is not an alignment written by a2d ({first_line(error)}): download it "
                "again."
            ) from error
        return alignment


def combine(weight: Tensor, maps: Tensor) -> Tensor:
    """Combine maps linearly over channels: the paper's pointwise convolution.

    The matrix product over flattened positions is faster than a convolution.

    Args:
        weight: weights (C, D).
        maps: maps (B, D, Q, K).

    Returns:
        Combined maps (B, C, Q, K).
    """
    batch, _, queries, keys = maps.shape
    # Autocast would round maps and weights to bf16, an error of up to 0.3%.
    with torch.autocast(maps.device.type, enabled=False):
        combined = torch.matmul(weight, maps.flatten(2))
    return combined.view(batch, -1, queries, keys)
