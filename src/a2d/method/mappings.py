"""Feature transfer with fixed layer mappings: the methods that A2D is compared with.

Where student and teacher have different numbers of heads, no mapping of heads exists. A layer's
maps are then averaged over its heads on both sides, as is usual for these methods.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from a2d.errors import UserError
from a2d.families import Geometry
from a2d.method import losses
from a2d.method.alignment import combine
from a2d.method.attention import Features
from a2d.method.hidden_states import MappedStates
from a2d.method.losses import precise
from a2d.method.maps import StackedMaps, additive_mask
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
    """KL between the maps of each student layer and of one teacher layer, by a fixed rule.

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
        return self._divergence(student.maps[group].stacked(), group, teacher, keys, rows)

    def _divergence(
        self, student_maps: Tensor, group: str, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        ours, theirs = self._pairs(student_maps, group, teacher)
        return losses.attention_transfer(
            StackedMaps(ours), StackedMaps(theirs), keys, rows, log_combined=True
        )

    def _pairs(self, student_maps: Tensor, group: str, teacher: Features) -> tuple[Tensor, Tensor]:
        """Pair student maps (B, C_S, Q, K) with teacher maps; returns two (B, pairs, Q, K)."""
        ours = student_maps.unflatten(1, (-1, self.student.heads(group)))
        teacher_maps = teacher.maps[group].stacked().detach()
        theirs = teacher_maps.unflatten(1, (-1, self.teacher.heads(group)))
        theirs = theirs[:, self.mapping[group]]
        if ours.shape[2] != theirs.shape[2]:
            ours, theirs = ours.mean(2, keepdim=True), theirs.mean(2, keepdim=True)
        return ours.flatten(1, 2), theirs.flatten(1, 2)


class TinyBert(LayerMapping):
    """Squared distances of attention maps and of projected hidden states, uniform mapping.

    After Jiao et al. 2020 ("TinyBERT"), Eq. 7 and 8, for encoder and decoder. Unlike there, maps
    are compared after the softmax. Distances of hidden states (`MappedStates`) are added to the
    terms of the two self-attentions.

    Args:
        student, teacher: layers and heads of the models.
        groups: the groups compared.
        widths: of student and teacher.
    """

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
        pairs = self._pairs(student.maps[group].stacked(), group, teacher)
        distance = losses.map_distance(*pairs, keys, rows)
        return distance + self.projections.distance(group, student, teacher, rows)


class MiniLM(LayerMapping):
    """KL between the last layers' attention maps, and between relations of their value vectors.

    After Wang et al. 2020 ("MiniLM"), sections 3.1 and 3.2: relations are softmax(V·Vᵀ/√d) of
    every head of the self-attentions, over all positions of a sentence (in the decoder, too).
    Where numbers of heads differ, the student's values are split into as many heads as the
    teacher's (Wang et al. 2021, "MiniLMv2").

    Args:
        student, teacher: layers and heads of the models.
        groups: the groups compared.
        widths: of student and teacher.

    Raises:
        UserError: the teacher's number of heads does not divide the student's width.
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
        last_maps = student.maps[group].stacked()[:, -self.student.heads(group) :]
        divergence = self._divergence(last_maps, group, teacher, keys, rows)
        if group == "cross":
            return divergence
        heads = self.teacher.heads(group)
        ours, theirs = (_relations(f.values[group], heads) for f in (student, teacher))
        tokens = rows.unsqueeze(1)
        target = (theirs + additive_mask(tokens.unsqueeze(1), theirs.dtype)).softmax(-1)
        relations = StackedMaps(ours), StackedMaps(target)
        return divergence + losses.attention_transfer(*relations, tokens, rows)


class Combination(Transfer):
    """Combinatorial layer fusion: each student layer is compared with fused teacher layers.

    After Wu et al. 2020 ("Why Skip If You Can Combine", CKD). The teacher's layers are divided
    evenly among the student's, in order. A learned linear map fuses the layers of one share, and
    the squared distance from the fusion is the loss. The paper fuses hidden states; here it is the
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
            layers, teacher_layers = student.layers(group), teacher.layers(group)
            if layers > teacher_layers:
                raise UserError(
                    f"method 'ckd' deals the teacher's {teacher_layers} layers out to the "
                    f"student's {layers}: choose a student that is not deeper, or another method."
                )
            owner = torch.arange(teacher_layers) * layers // teacher_layers
            part = (torch.arange(layers)[:, None] == owner).float()
            part = torch.kron(part, torch.ones(student.heads(group), teacher.heads(group)))
            self.parts[group] = part
            # The mean of a part's maps, with noise so that heads do not start alike.
            noise = 1 + 0.1 * torch.randn_like(part)
            self.weights[group] = nn.Parameter(part / part.sum(1, keepdim=True) * noise)

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Squared distance of the student's maps from the fused ones."""
        weight = self.weights[group]
        teacher_maps = teacher.maps[group].stacked().detach()
        fused = combine(weight * self.parts[group].to(weight), teacher_maps)
        return losses.map_distance(student.maps[group].stacked(), fused, keys, rows)


_ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}


def _relations(values: Tensor, heads: int) -> Tensor:
    """Scaled products (B, heads, K, K) of value vectors (B, any number of heads, K, d)."""
    merged = precise(values.transpose(1, 2).flatten(2))
    vectors = merged.unflatten(2, (heads, -1)).transpose(1, 2)
    with torch.autocast(values.device.type, enabled=False):  # it would round them to bf16 again
        relations: Tensor = vectors @ vectors.transpose(2, 3) / math.sqrt(vectors.shape[-1])
    return relations
