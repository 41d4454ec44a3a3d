"""Feature transfer with fixed layer mappings: the methods that A2D is compared with.

If student and teacher have different numbers of heads, heads cannot be mapped. The maps of a layer
are then averaged over its heads on both sides, as is usual for these methods.
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
    """Map each student layer to the teacher layer at the same relative depth (every k-th layer).

    This is the mapping of Jiao et al. 2020, section 3.1. PKD-skip (Sun et al. 2019, "Patient
    Knowledge Distillation") differs from it by omitting the teacher's last layer.

    Example:
        >>> uniform_mapping(3, 6)
        [1, 3, 5]
    """
    ratio = teacher_layers / student_layers
    return [max(0, round((layer + 1) * ratio) - 1) for layer in range(student_layers)]


def last_mapping(student_layers: int, teacher_layers: int) -> list[int]:
    """Map the student's layers to the teacher's last layers, in order (similar to PKD-last).

    Raises:
        UserError: the student is deeper than the teacher.

    Example:
        >>> last_mapping(3, 6)
        [3, 4, 5]
    """
    if student_layers > teacher_layers:
        raise UserError(
            f"method 'last' maps student layers to the teacher's last layers, but the student has "
            f"{student_layers} and the teacher {teacher_layers}: choose another method."
        )
    return list(range(teacher_layers - student_layers, teacher_layers))


MAPPINGS = {"last": last_mapping, "uniform": uniform_mapping}


class LayerMapping(Transfer):
    """KL divergence between the maps of each student layer and of one teacher layer.

    Args:
        rule: rule of the mapping, a key of `MAPPINGS`.
        student, teacher: layers and heads of the models.
        groups: compared groups.
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
        """Compute the divergence, averaged over pairs of maps, summed over query rows."""
        return self._divergence(student.maps[group].stacked(), group, teacher, keys, rows)

    def _divergence(
        self, student_maps: Tensor, group: str, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        predicted, target = self._pairs(student_maps, group, teacher)
        return losses.attention_transfer(
            StackedMaps(predicted), StackedMaps(target), keys, rows, log_combined=True
        )

    def _pairs(self, student_maps: Tensor, group: str, teacher: Features) -> tuple[Tensor, Tensor]:
        """Pair student maps (B, C_S, Q, K) with teacher maps; return two (B, pairs, Q, K)."""
        student_layers = student_maps.unflatten(1, (-1, self.student.heads(group)))
        teacher_maps = teacher.maps[group].stacked().detach()
        teacher_layers = teacher_maps.unflatten(1, (-1, self.teacher.heads(group)))
        layers = student_layers, teacher_layers[:, self.mapping[group]]
        if layers[0].shape[2] != layers[1].shape[2]:
            layers = layers[0].mean(2, keepdim=True), layers[1].mean(2, keepdim=True)
        return layers[0].flatten(1, 2), layers[1].flatten(1, 2)


class TinyBert(LayerMapping):
    """Squared distances of attention maps and of projected hidden states, with uniform mapping.

    After Jiao et al. 2020 ("TinyBERT"), Eq. 7 and 8, for encoder and decoder. Unlike in the paper,
    maps are compared after the softmax. Distances of hidden states (`MappedStates`) are added to
    the terms of the two self-attentions.

    Args:
        student, teacher: layers and heads of the models.
        groups: compared groups.
        widths: widths of student and teacher.
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
        """Compute the distance of maps and, in self-attention, of hidden states."""
        pairs = self._pairs(student.maps[group].stacked(), group, teacher)
        distance = losses.map_distance(*pairs, keys, rows)
        return distance + self.projections.distance(group, student, teacher, rows)


class MiniLM(LayerMapping):
    """KL divergence between the last layers' attention maps, and between their value relations.

    After Wang et al. 2020 ("MiniLM"), sections 3.1 and 3.2: value relations are softmax(V·Vᵀ/√d)
    of each head of the self-attentions, over all positions of a sentence, in the decoder too. If
    the numbers of heads differ, the student's values are split into the teacher's number of heads
    (Wang et al. 2021, "MiniLMv2").

    Args:
        student, teacher: layers and heads of the models.
        groups: compared groups.
        width: width of the student's values, all heads together.

    Raises:
        UserError: the teacher's number of heads does not divide this width.
    """

    def __init__(
        self,
        student: Geometry,
        teacher: Geometry,
        groups: tuple[str, ...],
        width: int,
    ) -> None:
        super().__init__("last", student._replace(**_ONE_LAYER), teacher, groups)
        for group in set(groups) - {"cross"}:
            if width % teacher.heads(group):
                raise UserError(
                    f"method 'minilm' splits the student's values of width {width} into the "
                    f"teacher's {teacher.heads(group)} heads: choose a student whose values have a "
                    f"width that is a multiple of {teacher.heads(group)}."
                )

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Compute the divergence of last maps and, in self-attention, of value relations."""
        maps_of_last_layer = student.maps[group].stacked()[:, -self.student.heads(group) :]
        divergence = self._divergence(maps_of_last_layer, group, teacher, keys, rows)
        if group == "cross":
            return divergence
        heads = self.teacher.heads(group)
        predicted, target = (_relations(f.values[group], heads) for f in (student, teacher))
        tokens = rows.unsqueeze(1)
        target = (target + additive_mask(tokens.unsqueeze(1), target.dtype)).softmax(-1)
        relations = StackedMaps(predicted), StackedMaps(target)
        return divergence + losses.attention_transfer(*relations, tokens, rows)


class Combination(Transfer):
    """Squared distance between each student layer's maps and a fusion of teacher layers.

    After Wu et al. 2020 ("Why Skip If You Can Combine", CKD). The teacher's layers are divided
    evenly among the student's layers, in order. A learned linear map fuses the layers that belong
    to one student layer. The paper fuses hidden states; this class fuses attention maps.

    Args:
        student, teacher: layers and heads of the models.
        groups: compared groups.

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
                    f"method 'ckd' divides the teacher's {teacher_layers} layers among the "
                    f"student's {layers}: choose a student that is not deeper, or another method."
                )
            owner = torch.arange(teacher_layers) * layers // teacher_layers
            part = (torch.arange(layers)[:, None] == owner).float()
            part = torch.kron(part, torch.ones(student.heads(group), teacher.heads(group)))
            self.parts[group] = part
            # Mean of a part's maps, with noise, so that heads have different initial weights.
            noise = 1 + 0.1 * torch.randn_like(part)
            self.weights[group] = nn.Parameter(part / part.sum(1, keepdim=True) * noise)

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Compute the distance, averaged over the student's maps, summed over query rows."""
        weight = self.weights[group]
        teacher_maps = teacher.maps[group].stacked().detach()
        fusion = combine(weight * self.parts[group].to(weight), teacher_maps)
        return losses.map_distance(student.maps[group].stacked(), fusion, keys, rows)


_ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}


def _relations(values: Tensor, heads: int) -> Tensor:
    """Compute scaled products (B, heads, K, K) of value vectors (B, H, K, d), for any H."""
    merged = precise(values.transpose(1, 2).flatten(2))
    vectors = merged.unflatten(2, (heads, -1)).transpose(1, 2)
    with torch.autocast(values.device.type, enabled=False):  # autocast would round them to bfloat16
        relations: Tensor = vectors @ vectors.transpose(2, 3) / math.sqrt(vectors.shape[-1])
    return relations
