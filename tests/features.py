"""Random features of a student and a teacher, and a check of losses against naive twins."""

import math
from typing import NamedTuple

import naive
import torch
from hypothesis import strategies as st
from torch import Tensor

from a2d.families import Geometry
from a2d.method.attention import GROUPS, Features
from a2d.method.maps import StackedMaps
from a2d.training.distillation import group_masks

WIDTHS = 6, 12
"""Widths of student and teacher, divisible by 1, 2 and 3 heads."""


class Case(NamedTuple):
    """Features of two models on one batch, with maps as tensors, and masks of tokens."""

    shapes: tuple[Geometry, Geometry]
    source: Tensor
    target: Tensor
    student: Features
    teacher: Features

    @property
    def masks(self):
        return group_masks(self.source, self.target)


def token_masks(batch):
    """Masks of tokens (B, N): any number of tokens, padding on either side."""
    return st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.tuples(st.integers(0, width), st.integers(0, width)).map(
                lambda ends: [min(ends) <= position < max(ends) for position in range(width)]
            ),
            min_size=batch,
            max_size=batch,
        )
    )


counts = st.integers(1, 3)


@st.composite
def cases(draw, *, shallow=False):
    """Any layers and heads; with `shallow`, no student stack is deeper than the teacher's."""
    deep = draw(counts), draw(counts)
    layers = [draw(st.integers(1, limit)) if shallow else draw(counts) for limit in deep]
    heads = [draw(counts) for _ in range(4)]
    batch = draw(st.integers(1, 2))
    return case(
        (*layers, *heads[:2]),
        (*deep, *heads[2:]),
        draw(token_masks(batch)),
        draw(token_masks(batch)),
        sharpness=draw(st.sampled_from([1, 20])),
        seed=draw(st.integers(0, 2**16)),
    )


def example(student=(2, 1, 2, 3), teacher=(3, 2, 2, 1), **settings):
    """Three sentences with padding on both sides."""
    source = [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 0]]
    target = [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    return case(student, teacher, source, target, **settings)


def case(student, teacher, source, target, sharpness=1, seed=0):
    """Random features; positions that must not influence the loss hold other random values."""
    torch.manual_seed(seed)
    shapes = Geometry(*student), Geometry(*teacher)
    source, target = torch.as_tensor(source).bool(), torch.as_tensor(target).bool()
    models = [
        features(geometry, width, source, target, sharpness)
        for geometry, width in zip(shapes, WIDTHS, strict=True)
    ]
    return refill(Case(shapes, source, target, *models))


def features(geometry, width, source, target, sharpness):
    """Random features of a model with this geometry and width."""
    sizes = {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}
    maps, values = {}, {}
    for group, (queries, keys) in sizes.items():
        is_visible = visible(group, source, target)[:, None]
        shape = len(source), geometry.channels(group), queries.shape[1], keys.shape[1]
        scores = sharpness * torch.randn(shape, dtype=torch.float64)
        maps[group] = scores.masked_fill(~is_visible, -1e300).softmax(-1)
        heads = geometry.heads(group)
        shape = len(source), heads, keys.shape[1], width // heads
        values[group] = torch.randn(shape, dtype=torch.float64)
    hidden = {
        stack: [
            torch.randn(*sizes[stack][0].shape, width, dtype=torch.float64)
            for _ in range(geometry.layers(stack))
        ]
        for stack in ("encoder", "decoder")
    }
    return Features(maps, values, hidden)


def visible(group, source, target):
    """Visible keys (B, Q, K) by the naive rule; False in rows of padding."""
    queries = source if group == "encoder" else target
    keys = target if group == "decoder" else source
    is_visible = torch.zeros(len(source), queries.shape[1], keys.shape[1], dtype=torch.bool)
    for b in range(len(source)):
        for q, keys in naive.visible(group, source[b].tolist(), target[b].tolist()).items():
            is_visible[b, q, keys] = True
    return is_visible


def relevant(c):
    """Masks that broadcast to features: True at positions that may influence the loss."""
    tokens = {"encoder": c.source, "decoder": c.target, "cross": c.source}
    return Features(
        {group: visible(group, c.source, c.target)[:, None] for group in GROUPS},
        {group: tokens[group][:, None, :, None] for group in GROUPS},
        {stack: tokens[stack][:, :, None] for stack in ("encoder", "decoder")},
    )


def refill(c):
    """Copy a case with new random values at all positions that must not influence the loss."""

    def draw(tensor, mask, largest):
        noise = torch.rand_like(tensor)
        draws = torch.rand_like(tensor)
        noise = noise.masked_fill(draws < 0.2, 0.0).masked_fill(draws > 0.8, 1.0)
        return torch.where(mask, tensor.detach(), largest * noise)

    mask = relevant(c)
    models = [
        Features(
            {g: draw(m, mask.maps[g], 1) for g, m in model.maps.items()},
            {g: draw(v, mask.values[g], 1000) for g, v in model.values.items()},
            {s: [draw(h, mask.hidden[s], 1000) for h in hs] for s, hs in model.hidden.items()},
        )
        for model in (c.student, c.teacher)
    ]
    return c._replace(student=models[0], teacher=models[1])


def one_sentence(c, index):
    """Copy one sentence of a case, without padding."""
    source, target = c.source[index], c.target[index]
    tokens = {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}
    models = [
        Features(
            {g: m[index, :, tokens[g][0]][:, :, tokens[g][1]][None] for g, m in model.maps.items()},
            {g: v[index, :, tokens[g][1]][None] for g, v in model.values.items()},
            {s: [h[index, tokens[s][0]][None] for h in hs] for s, hs in model.hidden.items()},
        )
        for model in (c.student, c.teacher)
    ]
    return Case(c.shapes, source[source][None], target[target][None], *models)


def losses_of(transfer, c):
    """Terms of a transfer."""
    return transfer(wrap_maps(c.student), wrap_maps(c.teacher), c.masks)


def wrap_maps(features):
    """Wrap maps in the package's type."""
    return features._replace(maps={group: StackedMaps(m) for group, m in features.maps.items()})


def tensors(features):
    """List all features of a model."""
    hidden = [layer for layers in features.hidden.values() for layer in layers]
    return [*features.maps.values(), *features.values.values(), *hidden]


def cast(features, dtype):
    """Convert features to another dtype."""
    return Features(
        {group: m.to(dtype) for group, m in features.maps.items()},
        {group: v.to(dtype) for group, v in features.values.items()},
        {stack: [h.to(dtype) for h in layers] for stack, layers in features.hidden.items()},
    )


def close(value, reference, tolerance=1e-10):
    """Compare values, relative to the largest reference value if that exceeds 1."""
    value, reference = (
        torch.as_tensor(t, dtype=torch.float64).detach() for t in (value, reference)
    )
    assert value.shape == reference.shape
    scale = max(1.0, reference.abs().max().item())
    return (value - reference).abs().max() <= tolerance * scale


def agree(loss, twin, inputs, tolerance=1e-10, gradient_tolerance=1e-6):
    """Check that `loss` and its gradients equal those of twin(*inputs), with inputs as lists.

    The twin's gradients are central differences along a random direction in each input.
    """
    lists = [tensor.tolist() for tensor in inputs]
    if not close(loss, twin(*lists), tolerance):
        return False
    gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
    for index, (tensor, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        direction = tensor.detach() * torch.randn_like(tensor)
        step = 1e-5
        ends = []
        for sign in (1, -1):
            shifted = (tensor.detach() + sign * step * direction).tolist()
            ends.append(twin(*lists[:index], shifted, *lists[index + 1 :]))
        if not close(
            (gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), gradient_tolerance
        ):
            return False
    return True


# Parts of naive twins


def dot(weights, values):
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def kl(target, scores):
    """KL divergence between the distribution `target` and softmax(scores)."""
    logs = naive.log_softmax(scores) if scores else []
    return sum(p * (math.log(p) - log) for p, log in zip(target, logs, strict=True) if p > 0)


def squares(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def distance_of_hidden(c, stack, mapping, projection, hidden):
    tokens = {"encoder": c.source, "decoder": c.target}[stack].tolist()
    total = 0.0
    for states, layer in zip(hidden, mapping, strict=True):
        teacher_states = c.teacher.hidden[stack][layer].tolist()
        for b in range(len(tokens)):
            for n in naive.positions(tokens[b]):
                projection_of_state = [dot(row, states[b][n]) for row in projection]
                total += (
                    squares(projection_of_state, teacher_states[b][n])
                    / len(projection_of_state)
                    / len(mapping)
                )
    return total


def with_gradients(c):
    """Record gradients of the student's features, in place."""
    for tensor in tensors(c.student):
        tensor.requires_grad_()
    return c
