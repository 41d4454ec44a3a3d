"""Attention Alignment Module (AAM): which student heads feed which teacher head, learned.

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
    """One pointwise convolution per group, from the student's channels to the teacher's.

    A channel is one head of one layer, layer-major. There is no bias: it would add a constant to
    every position of a map, which the softmax that follows takes away again (in the released code
    its gradient is round-off noise). Weights start as the library's convolutions do, at random
    within ±1/√channels; `start_uniform` gives another start.

    Args:
        student: layers and heads of the student.
        teacher: layers and heads of the teacher.
        convex: connections are a softmax of the weights over student channels.

    Example:
        >>> alignment = AttentionAlignment(Geometry(3, 3, 8, 8), Geometry(6, 6, 4, 4))
        >>> alignment.weight("cross").shape  # teacher channels, student channels
        torch.Size([24, 24])
    """

    def __init__(self, student: Geometry, teacher: Geometry, convex: bool = False) -> None:
        super().__init__()
        self.convex = convex
        self.student = student
        self.teacher = teacher
        self.convolutions = nn.ModuleDict(
            {
                group: nn.Conv2d(
                    student.channels(group), teacher.channels(group), kernel_size=1, bias=False
                )
                for group in GROUPS
            }
        )

    def weight(self, group: str) -> Tensor:
        """The weights of a group's convolution, (teacher channels, student channels)."""
        convolution = self.convolutions[group]
        assert isinstance(convolution, nn.Conv2d)
        return convolution.weight.flatten(1)

    def connections(self, group: str) -> Tensor:
        """What student channels count for in each teacher channel, of the shape of `weight`."""
        weight = self.weight(group)
        return weight.softmax(dim=-1) if self.convex else weight

    def start_uniform(self, scale: float) -> None:
        """Start from the guess that layers correspond evenly, plus a tenth of the random start.

        A teacher's head starts with weight `scale` on the head of the same number in the student
        layer at its layer's relative depth, or shares it among all that layer's heads where the
        numbers of heads differ.
        """
        with torch.no_grad():
            for group in GROUPS:
                ours, theirs = self.student.heads(group), self.teacher.heads(group)
                layers, deep = self.student.layers(group), self.teacher.layers(group)
                nearest = [math.ceil((t + 1) * layers / deep) - 1 for t in range(deep)]
                counterparts = torch.eye(layers)[nearest]
                heads = torch.eye(ours) if ours == theirs else torch.ones(theirs, ours) / ours
                guess = torch.kron(counterparts, heads)
                self.weight(group).mul_(0.1).add_(scale * guess)

    def forward(self, maps: Tensor, group: str) -> Tensor:
        """Map the student's channels (B, C_S, Q, K) to intermediate maps (B, C_T, Q, K)."""
        return combine(self.connections(group), maps)

    def save(self, path: str | Path) -> None:
        """Write weights and geometries to one safetensors file."""
        # One entry: safetensors writes several in an order that differs from run to run.
        geometries = {"student": self.student._asdict(), "teacher": self.teacher._asdict()}
        metadata = {"geometries": json.dumps(geometries | {"convex": self.convex})}
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
                raise ValueError("a number of layers or heads is no positive whole number")
            with torch.device("meta"):  # nothing is reserved for sizes that the file does not have
                alignment = cls(student, teacher, bool(geometries.get("convex", False)))
            weights = {name: weight.float() for name, weight in load_file(path).items()}
            alignment.load_state_dict(weights, assign=True)
            if not all(weight.isfinite().all() for weight in weights.values()):
                raise ValueError("a weight is no finite number")
        except Exception as error:  # whatever the parsers of a damaged file raise
            raise UserError(
                f"{path} is no alignment written by a2d ({first_line(error)}): fetch it anew."
            ) from error
        return alignment


def combine(weight: Tensor, maps: Tensor) -> Tensor:
    """Pointwise combinations of maps: weights (C, D) and maps (B, D, Q, K) give (B, C, Q, K).

    A matrix product over the flattened positions: a convolution's own kernels are slower.
    """
    batch, _, queries, keys = maps.shape
    # Autocast would round maps and weights to bf16, a third of a percent of a small product.
    with torch.autocast(maps.device.type, enabled=False):
        combined = torch.matmul(weight, maps.flatten(2))
    return combined.view(batch, -1, queries, keys)
