"""Comparison of hidden states, by a fixed or a learned mapping of layers.

Hidden states are the outputs of the encoder's and the decoder's layers, without the embeddings.
They belong to the groups of their self-attentions; cross-attention has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from a2d.families import Geometry
from a2d.method.attention import Features
from a2d.method.formulas import Formula
from a2d.method.losses import precise
from a2d.method.transfer import A2D


class States(nn.ModuleDict):
    """Squared distances between the teacher's hidden states and the student's projected ones.

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
        """Compute the distance of a group.

        Args:
            group: name of the group.
            student, teacher: features of the models.
            rows: True at valid query positions, (B, Q).

        Returns:
            A scalar, averaged over layers and width, summed over query rows; 0 for `cross`.
        """
        if group not in self:
            return 0.0
        student_states, teacher_states = (
            [states[rows] for states in features.hidden[group]] for features in (student, teacher)
        )
        return self.compare(group, student_states, [states.detach() for states in teacher_states])

    def compare(self, group: str, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Compute the distance of a group with hidden states.

        Args:
            group: name of the group.
            student, teacher: hidden states of each layer at valid rows, (rows, width).

        Returns:
            A scalar, averaged over layers and width, summed over rows.
        """
        raise NotImplementedError


class MappedStates(States):
    """Distance between each student layer's projected states and those of one teacher layer.

    After Jiao et al. 2020 ("TinyBERT"), Eq. 8. All layers of a group share one projection.

    Args:
        mapping: group → teacher layer of each student layer.
        widths: widths of student and teacher.
    """

    def __init__(self, mapping: Mapping[str, Sequence[int]], widths: tuple[int, int]) -> None:
        super().__init__(dict.fromkeys(mapping, widths))
        self.mapping = mapping

    def compare(self, group: str, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Compute the distance of a group, averaged over the student's layers."""
        target = torch.stack([teacher[layer] for layer in self.mapping[group]])
        difference = precise(self[group](torch.stack(student))) - target
        return difference.square().mean((0, 2)).sum()


class AlignedStates(States):
    """Distance between all teacher layers' states and a projection of all student layers' states.

    This applies the idea of A2D to hidden states: the mapping of layers is learned.

    Args:
        layers: group → numbers of layers of student and teacher.
        widths: widths of student and teacher.
    """

    def __init__(self, layers: Mapping[str, tuple[int, int]], widths: tuple[int, int]) -> None:
        super().__init__({g: (s * widths[0], t * widths[1]) for g, (s, t) in layers.items()})

    def compare(self, group: str, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Compute the distance of a group, averaged over the teacher's layers."""
        difference = precise(self[group](torch.cat(student, dim=-1))) - torch.cat(teacher, dim=-1)
        return difference.square().mean(1).sum()


class A2DHidden(A2D):
    """A2D with a comparison of hidden states through a learned projection of all layers.

    It is not in the paper. It separates the gain of attention maps from that of hidden states.

    Args:
        student, teacher, formula, groups, start: as in `A2D`.
        widths: widths of student and teacher.
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
        """Compute the divergence of maps and, in self-attention, the distance of hidden states."""
        divergence = super().compare(group, student, teacher, keys, rows)
        return divergence + self.projections.distance(group, student, teacher, rows)
