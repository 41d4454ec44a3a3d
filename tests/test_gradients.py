"""Infinite and NaN gradients of a plugin end a training in a sentence that names its code."""

import pytest
import torch
from test_extending_method import Compares, MeanMaps, method  # noqa: F401
from test_trainer import data, tokenizer, trainer  # noqa: F401

from a2d import UserError
from a2d.method.attention import Features
from a2d.method.formulas import FORMULAS, Formula, register_formula
from a2d.method.maps import RecomputedMaps, StackedMaps
from a2d.method.methods import METHODS, Method, register_method
from a2d.training.gradients import GradientRecord


class NanGradient(torch.autograd.Function):
    """Sum of squares whose gradient is NaN for batches of more than two sentences."""

    @staticmethod
    def forward(context, maps):
        context.save_for_backward(maps)
        return maps.square().sum()

    @staticmethod
    def backward(context, gradient):
        (maps,) = context.saved_tensors
        factor = torch.nan if len(maps) > 2 else 1.0  # not in the trial
        return 2 * maps * gradient * factor


class NanFormula(Formula):
    def divergence(self, student_maps, teacher_maps, keys, rows):
        return NanGradient.apply(student_maps)


class NanFactor(MeanMaps):
    """Transfer whose parameter alone gets a gradient that is NaN."""

    def compare(self, group, student, teacher, keys, rows):
        sentences = student.maps[group].stacked().shape[0]
        factor = NanGradient.apply(self.factor.expand(sentences))
        return super().compare(group, student, teacher, keys, rows) + factor


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda s, t, o: Compares(NanGradient.apply), r"method 'odd', Compares \(.*, line \d+\)"),
        (lambda s, t, o: NanFactor(o.groups), r"method 'odd', NanFactor \(.*, line \d+\)"),
        (None, r"method 'a2d' with formula 'odd', NanFormula \(.*, line \d+\)"),
    ],
)
def test_a_gradient_that_is_not_finite_names_the_code(
    tmp_path,
    tokenizer,  # noqa: F811
    data,  # noqa: F811
    build,
    code,
    max_grad_norm,
):
    if build:
        register_method(Method("odd", "fails", build=build))
    else:
        register_formula(NanFormula("odd", "fails"))
    settings = {"method": "odd"} if build else {"method": "a2d", "formula": "odd"}
    try:
        distiller = trainer(tmp_path, tokenizer, data, max_grad_norm=max_grad_norm, **settings)
        with pytest.raises(
            UserError,
            match=rf"update 1 is finite, but its gradient is not\. It comes from {code}: ",
        ):
            distiller.train()
    finally:
        METHODS.pop("odd", None)
        FORMULAS.pop("odd", None)


@pytest.mark.parametrize("finite", [True, False])
def test_watched_features_and_their_gradients_stay_the_same(finite):
    torch.manual_seed(0)
    query, key, tensor, values, state = (torch.randn(2, 3, 4, 4) for _ in range(5))
    leaves = [each.requires_grad_() for each in (query, key, tensor, values, state)]
    mask = torch.zeros(2, 1, 1, 4)
    recomputed, stored = RecomputedMaps(query, key, 0.5, mask), StackedMaps(tensor)
    features = Features({"encoder": recomputed, "cross": stored}, {"cross": values}, {"e": [state]})

    def gradients(features):
        maps = features.maps["encoder"].stacked(), features.maps["cross"].stacked()
        total = sum(
            each.square().sum()
            for each in (*maps, features.values["cross"], features.hidden["e"][0])
        )
        if not finite:
            total = total + (features.maps["encoder"].inputs[0] * 0).sqrt().sum()
        return torch.autograd.grad(total, leaves)

    record = GradientRecord(MeanMaps(()))
    expected = gradients(features)
    assert record.take() is None
    for ours, theirs in zip(gradients(record.watch(features)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert bool(record.take()) != finite
    assert record.take() is None


def test_a_gradient_of_the_student_names_no_method(
    tmp_path,
    tokenizer,  # noqa: F811
    data,  # noqa: F811
    method,  # noqa: F811
):
    distiller = trainer(tmp_path, tokenizer, data, method=method.name)
    weight = next(distiller.student.parameters())
    weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(UserError, match=r"its gradient is not\. What usually helps"):
        distiller.train()
