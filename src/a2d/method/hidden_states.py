"""Comparison of hidden states, by a fixed mapping of layers or a learned one.

Hidden states are the outputs of the encoder's and the decoder's layers, without the embeddings.
They belong to the groups of their self-attentions; cross-attention has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from a2d.families import Geometry
from a2d.method.attention import Features
from a2d.method.formulas import Formula
from a2d.method.losses import precise
from a2d.method.transfer import A2D, Transfer


class States(nn.ModuleDict):
    """Squared distances between the teacher's hidden states and projections of the student's.

    Args:
        sizes: group → input and output width of its projection; `cross` is ignored.
    """

    def __init__(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(
            {g: nn.Linear(*size, bias=False) for g, size in sizes.items() if g != "cross"}
        )

    def distance(
        self, group: str, student: Features, teacher: Features, rows: Tensor
    ) -> Tensor | float:
        """Mean over layers and their width, sum over query rows; 0 for a group without states."""
        if group not in self:
            return 0.0
        student_states, teacher_states = (
            [states[rows] for states in features.hidden[group]] for features in (student, teacher)
        )
        return self.compare(group, student_states, [states.detach() for states in teacher_states])

    def compare(self, group: str, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Return the distance of one group.

        Args:
            group: its name.
            student, teacher: the layers' states at the rows that count, each (rows, width).
        """
        raise NotImplementedError


class MappedStates(States):
    """Each student layer's states, projected, against those of one teacher layer.

    After Jiao et al. 2020 ("TinyBERT"), Eq. 8. All layers of a group share their projection.

    Args:
        mapping: group → the teacher layer of every student layer.
        widths: of student and teacher.
    """

    def __init__(self, mapping: Mapping[str, Sequence[int]], widths: tuple[int, int]) -> None:
        super().__init__(dict.fromkeys(mapping, widths))
        self.mapping = mapping

    def compare(self, group: str, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Mean over the student's layers."""
        target = torch.stack([teacher[layer] for layer in self.mapping[group]])
        difference = precise(self[group](torch.stack(student))) - target
        return difference.square().mean((0, 2)).sum()


class AlignedStates(States):
    """The states of all teacher layers against one linear projection of all student layers'.

    This carries A2D over to hidden states: no mapping of layers is fixed.

    Args:
        layers: group → layers of student and teacher.
        widths: of student and teacher.
    """

    def __init__(self, layers: Mapping[str, tuple[int, int]], widths: tuple[int, int]) -> None:
        super().__init__({g: (s * widths[0], t * widths[1]) for g, (s, t) in layers.items()})

    def compare(self, group: str, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Mean over the teacher's layers."""
        difference = precise(self[group](torch.cat(student, dim=-1))) - torch.cat(teacher, dim=-1)
        return difference.square().mean(1).sum()


class A2DHidden(A2D):
    """A2D, and hidden states compared through a learned projection of all layers.

    It is not in the paper. It shows how much of a gain is due to attention maps, and how much to
    hidden states.

    Args:
        student, teacher, formula, groups, start: of `A2D`.
        widths: of student and teacher.
    """

    def __init__(
        self,
        student: Geometry,
        teacher: Geometry,
        formula: Formula,
        groups: tuple[str, ...],
        start: str,
        widths: tuple[int, int],
    ) -> None:
        super().__init__(student, teacher, formula, groups, start)
        layers = {group: (student.layers(group), teacher.layers(group)) for group in groups}
        self.projections = AlignedStates(layers, widths)

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Divergence of maps, and distance of hidden states where the group has its own."""
        divergence = super().compare(group, student, teacher, keys, rows)
        return divergence + self.projections.distance(group, student, teacher, rows)

    def save(self, folder: Path) -> None:
        """Write the alignment as `A2D` does, and all parameters to another file."""
        super().save(folder)
        Transfer.save(self, folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        Transfer.load(self, folder)
