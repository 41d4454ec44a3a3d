"""Feature transfer with layer mappings fixed beforehand: what A2D is compared with.

Where numbers of heads differ, heads cannot be told which to imitate which: a layer's maps are then
averaged over its heads on both sides, as is usual for these methods.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from a2d.errors import UserError
from a2d.families import Geometry
from a2d.method import losses
from a2d.method.alignment import combine
from a2d.method.attention import Features, masking
from a2d.method.hidden_states import MappedStates
from a2d.method.losses import precise
from a2d.method.transfer import Transfer


def uniform_mapping(student_layers: int, teacher_layers: int) -> list[int]:
    """For each student layer the teacher layer at the same relative depth ("skip", every k-th).

    As in Jiao et al. 2020, section 3.1, and nearly PKD-skip (Sun et al. 2019, "Patient Knowledge
    Distillation"), which leaves the teacher's last layer out.

    Example:
        >>> uniform_mapping(3, 6)
        [1, 3, 5]
    """
    ratio = teacher_layers / student_layers
    return [max(0, round((layer + 1) * ratio) - 1) for layer in range(student_layers)]


def last_mapping(student_layers: int, teacher_layers: int) -> list[int]:
    """For each student layer one of the teacher's last, in order (nearly PKD-last).

    Raises:
        UserError: the student is deeper than the teacher.

    Example:
        >>> last_mapping(3, 6)
        [3, 4, 5]
    """
    if student_layers > teacher_layers:
        raise UserError(
            f"method 'last' maps every student layer to one of the teacher's last, but the student "
            f"has {student_layers} and the teacher {teacher_layers}: take another method."
        )
    return list(range(teacher_layers - student_layers, teacher_layers))


MAPPINGS = {"last": last_mapping, "uniform": uniform_mapping}


class LayerMapping(Transfer):
    """KL of each student layer's maps from those of the teacher layer that a fixed rule names.

    Args:
        rule: a key of `MAPPINGS`.
        student, teacher: layers and heads of the models.
        groups: the groups compared.
    """

    def __init__(
        self, rule: str, student: Geometry, teacher: Geometry, groups: tuple[str, ...]
    ) -> None:
        super().__init__(groups)
        self.student, self.teacher = student, teacher
        self.mapping = {g: MAPPINGS[rule](student.layers(g), teacher.layers(g)) for g in groups}

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Mean over the pairs of maps, sum over query rows."""
        ours, theirs = self._pairs(group, student, teacher)
        return losses.attention_transfer(ours, theirs, keys, rows, formula="convex")

    def _pairs(self, group: str, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Maps to compare one by one, both (B, pairs, Q, K)."""
        ours = student.maps[group].unflatten(1, (-1, self.student.heads(group)))
        theirs = teacher.maps[group].detach().unflatten(1, (-1, self.teacher.heads(group)))
        theirs = theirs[:, self.mapping[group]]
        if ours.shape[2] != theirs.shape[2]:
            ours, theirs = ours.mean(2, keepdim=True), theirs.mean(2, keepdim=True)
        return ours.flatten(1, 2), theirs.flatten(1, 2)


class TinyBert(LayerMapping):
    """Squared distances of attention maps and of projected hidden states, uniform mapping.

    After Jiao et al. 2020 ("TinyBERT"), Eq. 7 and 8, for encoder and decoder. It departs from them
    in comparing maps after the softmax. Distances of hidden states (`MappedStates`) are in the
    terms of the two self-attentions.

    Args:
        student, teacher: layers and heads of the models.
        groups: the groups compared.
        widths: of student and teacher.
    """

    hidden_states = True

    def __init__(
        self,
        student: Geometry,
        teacher: Geometry,
        groups: tuple[str, ...],
        widths: tuple[int, int],
    ) -> None:
        super().__init__("uniform", student, teacher, groups)
        self.projections = MappedStates(self.mapping, widths)

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Distance of maps, and of hidden states where the group has a stack of its own."""
        distance = losses.map_distance(*self._pairs(group, student, teacher), keys, rows)
        return distance + self.projections.distance(group, student, teacher, rows)


class MiniLM(LayerMapping):
    """KL of the last layers' attention maps, and of the relations between their value vectors.

    After Wang et al. 2020 ("MiniLM"), sections 3.1 and 3.2: relations are softmax(V·Vᵀ/√d) of
    every head, for the self-attentions, over all positions of a sentence (the decoder's too).
    Where numbers of heads differ, the student's values are cut into as many heads as the
    teacher's (Wang et al. 2021, "MiniLMv2").

    Raises:
        UserError: the student's width cannot be cut so.
    """

    def __init__(
        self,
        student: Geometry,
        teacher: Geometry,
        groups: tuple[str, ...],
        widths: tuple[int, int],
    ) -> None:
        super().__init__("last", student._replace(**_ONE_LAYER), teacher, groups)
        for group in set(groups) - {"cross"}:
            if widths[0] % teacher.heads(group):
                raise UserError(
                    f"method 'minilm' cuts the student's width {widths[0]} into the teacher's "
                    f"{teacher.heads(group)} heads: choose a multiple of it."
                )

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Divergence of the last maps and, in self-attention, of the value relations."""
        heads = self.student.heads(group)
        last = student._replace(maps={group: student.maps[group][:, -heads:]})
        divergence = super().compare(group, last, teacher, keys, rows)
        if group == "cross":
            return divergence
        count = self.teacher.heads(group)
        ours, theirs = (_relations(f.values[group], count) for f in (student, teacher))
        everywhere = rows.unsqueeze(1)
        wanted = (theirs + masking(everywhere.unsqueeze(1), theirs.dtype)).softmax(-1)
        return divergence + losses.attention_transfer(ours, wanted, everywhere, rows)


class Combination(Transfer):
    """Combinatorial layer fusion: every teacher layer has a part in one student layer's target.

    After Wu et al. 2020 ("Why Skip If You Can Combine", CKD), for attention maps: the teacher's
    layers are dealt out evenly, in order; those of one student layer are fused by a learned linear
    map of their concatenation and compared by squared distance: there hidden states, here the
    heads' maps.

    Args:
        student, teacher: layers and heads of the models.
        groups: the groups compared.

    Raises:
        UserError: the student is deeper than the teacher.
    """

    def __init__(self, student: Geometry, teacher: Geometry, groups: tuple[str, ...]) -> None:
        super().__init__(groups)
        self.weights = nn.ParameterDict()
        self.parts: dict[str, Tensor] = {}
        for group in groups:
            layers, available = student.layers(group), teacher.layers(group)
            if layers > available:
                raise UserError(
                    f"method 'ckd' deals the teacher's {available} layers out to the student's "
                    f"{layers}: choose a student that is not deeper, or another method."
                )
            owner = torch.arange(available) * layers // available
            part = (torch.arange(layers)[:, None] == owner).float()
            part = torch.kron(part, torch.ones(student.heads(group), teacher.heads(group)))
            self.parts[group] = part
            # The mean of a part's maps, and something to tell the heads apart.
            noise = 1 + 0.1 * torch.randn_like(part)
            self.weights[group] = nn.Parameter(part / part.sum(1, keepdim=True) * noise)

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Squared distance of the student's maps from the fused ones."""
        weight = self.weights[group]
        fused = combine(weight * self.parts[group].to(weight), teacher.maps[group].detach())
        return losses.map_distance(student.maps[group], fused, keys, rows)


_ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}


def _relations(values: Tensor, heads: int) -> Tensor:
    """Scaled products (B, heads, K, K) of value vectors given as (B, any heads, K, d)."""
    merged = precise(values.transpose(1, 2).flatten(2))
    vectors = merged.unflatten(2, (heads, -1)).transpose(1, 2)
    with torch.autocast(values.device.type, enabled=False):  # it would cut them to bf16 again
        relations: Tensor = vectors @ vectors.transpose(2, 3) / math.sqrt(vectors.shape[-1])
    return relations
