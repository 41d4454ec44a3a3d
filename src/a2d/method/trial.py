"""Trial of a comparison on made-up features, before a training starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from a2d.errors import UserError, first_line
from a2d.families import Geometry
from a2d.method.attention import GROUPS, Features
from a2d.method.maps import StackedMaps
from a2d.method.methods import ModelSize
from a2d.method.transfer import Masks, Transfer
from a2d.plugin_errors import check_call, defined_at

_COMPARE = ("group", "student", "teacher", "keys", "rows")


class Advice(NamedTuple):
    """Remedies for what a trial finds, as ends of sentences.

    Attributes:
        infinite: for values and gradients that are not finite.
        detached: for a student without a gradient.
        unused: for a parameter without a gradient.
    """

    infinite: str
    detached: str
    unused: str


FOR_METHODS = Advice(
    infinite="probabilities of masked keys are 0, so that a logarithm or a division needs its "
    "argument masked beforehand.",
    detached="compare its features by differentiable operations, without detach, or leave the "
    "group out of Method(groups=…).",
    unused="use it in `compare`, or remove it.",
)
FOR_FORMULAS = Advice(
    infinite="weights of the alignment may be negative, so that combined maps may be 0 or less, "
    "and the teacher's maps are 0 at masked keys: mask or bound the argument of a logarithm, a "
    "root or a division beforehand.",
    detached="compute `divergence` (or `loss`) from the student's maps by differentiable "
    "operations, without detach.",
    unused="`combine` (or `loss`) must use `connections`, the weights of the alignment, without "
    "detach.",
)


def try_transfer(
    name: str,
    build: Callable[[], Transfer],
    sizes: tuple[ModelSize, ModelSize],
    masks: Masks,
    hidden_states: bool,
    advice: Advice = FOR_METHODS,
) -> None:
    """Compare random features of two models with these sizes, and compute the gradients.

    Args:
        name: of method and formula, for messages.
        build: builds a comparison for the trial alone. The state of the random generators stays as
            it is.
        sizes: of student and teacher.
        masks: as for `Transfer.forward`; some keys and rows are padding.
        hidden_states: the features hold hidden states.
        advice: remedies for messages.

    Raises:
        UserError: the comparison does not take these arguments, or its results or gradients are
            not what training needs.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        transfer = build()
        check_call(transfer.compare, _COMPARE, f"compare of {defined_at(type(transfer))}")
        torch.manual_seed(0)
        student, teacher = (_features(size, masks, hidden_states) for size in sizes)
        features = [tensor.requires_grad_() for tensor in _tensors(student)]
        trained = {n: each for n, each in transfer.named_parameters() if each.requires_grad}
        leaves = [*features, *trained.values()]
        unused = {n for n in trained if not set(n.split(".")) & {*GROUPS} - {*transfer.groups}}
        terms = transfer(student, teacher, masks)
        for group, value in terms.items():
            gradients = _gradients(f"{name}: the", group, value, leaves, advice)
            if not any(g is not None and g.any() for g in gradients[: len(features)]):
                raise UserError(
                    f"{name}: the group {group!r} gives the student no gradient: {advice.detached}"
                )
            reached = zip(trained, gradients[len(features) :], strict=False)
            unused -= {parameter for parameter, gradient in reached if gradient is not None}
        if unused:
            raise UserError(
                f"{name}: the parameter {min(unused)!r} gets no gradient, so that it would never "
                f"be trained: {advice.unused}"
            )
        _try_next_batch(name, transfer, sum(terms.values()), sizes, masks, hidden_states)


def _gradients(
    subject: str, group: str, value: Tensor, leaves: Sequence[Tensor], advice: Advice
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of a group's term for the leaves it depends on; none if it is constant.

    Args:
        subject: beginning of messages.
        group: the group.
        value: its term.
        leaves: the student's features and the comparison's parameters.
        advice: remedies for messages.

    Raises:
        UserError: the term or a gradient is not finite, or the gradient cannot be computed.
    """
    gradients: tuple[Tensor | None, ...] = ()
    if value.requires_grad:
        try:
            gradients = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise UserError(
                f"{subject} gradient for the group {group!r} cannot be computed "
                f"({first_line(error)})."
            ) from error
    for tensor in (value, *gradients):
        if tensor is not None and not tensor.isfinite().all():
            kind = "value" if tensor is value else "gradient"
            raise UserError(
                f"{subject} {kind} for the group {group!r} is not finite for a random batch with "
                f"padding: {advice.infinite}"
            )
    return gradients


def _try_next_batch(
    name: str,
    transfer: Transfer,
    total: Any,
    sizes: tuple[ModelSize, ModelSize],
    masks: Masks,
    hidden_states: bool,
) -> None:
    """Finish a first batch, and compute the gradient of a second one.

    Args:
        name: of method and formula, for messages.
        transfer: the comparison.
        total: sum of the first batch's terms.
        sizes, masks, hidden_states: as in `try_transfer`.

    Raises:
        UserError: the second gradient needs the graph of the first batch.
    """
    total.backward()
    student, teacher = (_features(size, masks, hidden_states) for size in sizes)
    for tensor in _tensors(student):
        tensor.requires_grad_()
    try:
        sum(transfer(student, teacher, masks).values()).backward()
    except RuntimeError as error:
        raise UserError(
            f"{name}: the gradient of a second batch cannot be computed "
            f"({first_line(error)[:80]}…): detach what is kept from one batch to the next."
        ) from error


def _features(
    size: ModelSize, masks: Mapping[str, tuple[Tensor, Tensor]], hidden: bool
) -> Features:
    """Random features of a model; those of a masked key are 0, as after a softmax."""
    geometry, maps, values = size.geometry, {}, {}
    for group, (keys, rows) in masks.items():
        heads = geometry.heads(group)
        shape = len(rows), geometry.channels(group), rows.shape[1], keys.shape[2]
        scores = torch.randn(shape).masked_fill(~keys.unsqueeze(1), -torch.inf)
        maps[group] = StackedMaps(scores.softmax(-1))
        values[group] = torch.randn(len(rows), heads, keys.shape[2], size.attention_width // heads)
    states = _hidden_states(geometry, size.width, masks) if hidden else {}
    return Features(dict(maps), values, states)


def _hidden_states(geometry: Geometry, width: int, masks: Masks) -> dict[str, list[Tensor]]:
    return {
        stack: [torch.randn(*masks[stack][1].shape, width) for _ in range(geometry.layers(stack))]
        for stack in ("encoder", "decoder")
    }


def _tensors(features: Features) -> list[Tensor]:
    maps = [tensor for each in features.maps.values() for tensor in each.inputs]
    return [*maps, *features.values.values(), *chain(*features.hidden.values())]
