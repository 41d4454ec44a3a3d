"""Hidden states, compared besides attention maps: by a given mapping of layers, or a learned one.

They are the outputs of the encoder's and the decoder's layers, without the embeddings, and belong
to the groups of their self-attentions; cross-attention has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import Features
from a2d.method.losses import precise
from a2d.method.transfer import A2D, Transfer


class States(nn.ModuleDict):
    """Squared distances of the teacher's hidden states from what is made of the student's.

    Args:
        sizes: group → numbers that its linear map takes and gives; those of `cross` are left out.
    """

    def __init__(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        maps = {g: nn.Linear(*size, bias=False) for g, size in sizes.items() if g != "cross"}
        super().__init__(maps)

    def distance(
        self, group: str, student: Features, teacher: Features, rows: Tensor
    ) -> Tensor | float:
        """Mean over layers and their width, sum over query rows; 0 for a group without states."""
        if group not in self:
            return 0.0
        ours, theirs = ([s[rows] for s in f.hidden[group]] for f in (student, teacher))
        return self.compare(group, ours, [states.detach() for states in theirs])

    def compare(self, group: str, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """The same of the layers' states at the rows that count, each (rows, width)."""
        raise NotImplementedError


class MappedStates(States):
    """Each student layer's states, projected, against those of the teacher layer it is told.

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
        wanted = torch.stack([teacher[layer] for layer in self.mapping[group]])
        difference = precise(self[group](torch.stack(student))) - wanted
        return difference.square().mean((0, 2)).sum()


class AlignedStates(States):
    """All the teacher's states against those that one linear map makes of all the student's.

    A2D's idea for hidden states: no layer is told which it corresponds to.

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
    """A2D, and hidden states aligned as freely.

    Not of the paper: it answers what of a gain attention maps can bring, and what hidden states.

    Args:
        alignment, formula, groups, start: of `A2D`.
        widths: of student and teacher.
    """

    hidden_states = True

    def __init__(
        self,
        alignment: AttentionAlignment,
        formula: str,
        groups: tuple[str, ...],
        start: str,
        widths: tuple[int, int],
    ) -> None:
        super().__init__(alignment, formula, groups, start)
        layers = {g: (alignment.student.layers(g), alignment.teacher.layers(g)) for g in groups}
        self.projections = AlignedStates(layers, widths)

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Divergence of maps, and distance of hidden states where the group has its own."""
        divergence = super().compare(group, student, teacher, keys, rows)
        return divergence + self.projections.distance(group, student, teacher, rows)

    def save(self, folder: Path) -> None:
        """Write the alignment as `A2D` does, and all that is learned to another file."""
        super().save(folder)
        Transfer.save(self, folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        Transfer.load(self, folder)
