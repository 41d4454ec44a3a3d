"""Formulas from outside the package that cannot train are refused, with a remedy for formulas."""

import functools
import re

import pytest
from test_trainer import data, tokenizer, trainer  # noqa: F401

from a2d import UserError
from a2d.method.formulas import FORMULAS, Formula, RowWise, register_formula


class Vector(Formula):
    def divergence(self, student_maps, teacher_maps, keys, rows):
        return (student_maps - teacher_maps).square().sum((1, 2, 3))


class OneMap(Vector):
    def combine(self, connections, maps):
        return super().combine(connections, maps)[:, :1]


class Detached(Formula):
    def divergence(self, student_maps, teacher_maps, keys, rows):
        return (student_maps.detach() - teacher_maps).square().sum()


class Squared(Formula):
    def divergence(self, student_maps, teacher_maps, keys, rows):
        return (student_maps - teacher_maps).square().sum()


class Unaligned(Squared):
    """Formula that combines maps without the alignment."""

    def combine(self, connections, maps):
        return maps.mean(1, keepdim=True).expand(-1, len(connections), -1, -1)


class Logarithmic(Formula):
    def divergence(self, student_maps, teacher_maps, keys, rows):
        return (student_maps.log() - teacher_maps).square().sum()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Vector, r"the formula Vector \(.*formula.py.*\) returns a Tensor of shape \(2,\)"),
        (
            OneMap,
            r"combine of OneMap .* shape \(2, 1, .* must return a real tensor of shape \(2, 12",
        ),
        (
            Detached,
            r"'a2d' with formula 'odd', Detached \(.*'encoder' gives the student no gradient: "
            r"compute `divergence` \(or `loss`\) from the student's maps",
        ),
        (
            Unaligned,
            r"Unaligned \(.*'alignment\.weights\.cross' gets no gradient.*: `combine` \(or "
            r"`loss`\) must use `connections`",
        ),
        (
            Logarithmic,
            r"Logarithmic \(.* is not finite .*: weights of the alignment may be negative",
        ),
    ],
)
def test_a_formula_that_cannot_train_is_refused_before(
    tmp_path,
    tokenizer,  # noqa: F811
    data,  # noqa: F811
    kind,
    message,
):
    register_formula(kind("odd", "fails"))
    try:
        with pytest.raises(UserError, match=message) as caught:
            trainer(tmp_path, tokenizer, data, method="a2d", formula="odd")
        assert not re.search(r"Method\(|`compare`", str(caught.value))
    finally:
        del FORMULAS["odd"]


class Overridden(RowWise):
    def divergence(self, student_maps, teacher_maps, keys, rows):
        raise AssertionError


class Combined(RowWise):
    def combine(self, connections, maps):
        raise AssertionError


class TwoArguments(Formula):
    def divergence(self, a, b):
        return (a - b).square().sum()


class CallsDivergence(Formula):
    """Formula whose `loss` calls `divergence`, which subclasses may replace."""

    def loss(self, student, teacher, keys, rows, connections):
        return self.divergence(student.stacked(), teacher.stacked(), keys, rows)


class Replaced(CallsDivergence):
    def divergence(self, student_maps, teacher_maps, keys, rows):
        return student_maps.sum() * 0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Formula, "formula 'odd' compares nothing: define divergence"),
        (Overridden, r"divergence of Overridden \(.*test_extending_formula.py.* never be called"),
        (Combined, "combine of Combined .* never be called"),
        (TwoArguments, "divergence of TwoArguments .* takes .* called with 4 arguments: student_m"),
    ],
)
def test_a_formula_without_effect_is_refused(kind, message):
    with pytest.raises(UserError, match=message):
        register_formula(kind("odd", "fails"))
    assert "odd" not in FORMULAS


def test_a_formula_may_replace_what_another_one_calls():
    register_formula(Replaced("odd", "zero"))
    del FORMULAS["odd"]


def plain_loss(self, student, teacher, keys, rows, connections):
    maps = self.combine(connections, student.stacked())
    return (maps - teacher.stacked()).square().sum()


def loss_by_divergence(self, student, teacher, keys, rows, connections, factor=1.0):
    maps = self.combine(connections, student.stacked())
    return factor * self.divergence(maps, teacher.stacked(), keys, rows)


def doubled(function):
    """Decorator that leaves no trace of the function that it wraps."""
    return lambda *arguments: 2 * function(*arguments)


def kept(function):
    return functools.wraps(function)(doubled(function))


class Called:
    """Callable object that is bound like a function."""

    def __init__(self, function):
        self.function = function

    def __get__(self, instance, owner=None):
        return functools.partial(self.function, instance)


WRAPPERS = {
    "partialmethod": functools.partialmethod,
    "doubled": doubled,
    "wraps": kept,
    "both": lambda function: functools.partialmethod(kept(function)),
    "object": Called,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_loss_trains(tmp_path, tokenizer, data, wrapper):  # noqa: F811
    class Base(Formula):
        loss = WRAPPERS[wrapper](plain_loss)

    class Parent(Formula):
        loss = WRAPPERS[wrapper](loss_by_divergence)

    class Child(Parent):
        def divergence(self, student_maps, teacher_maps, keys, rows):
            return (student_maps - teacher_maps).square().sum()

    for kind in (Base, Child):
        register_formula(kind("odd", "wrapped"))
        try:
            distiller = trainer(tmp_path, tokenizer, data, method="a2d", formula="odd", max_steps=1)
            distiller.train()
        finally:
            del FORMULAS["odd"]


@pytest.mark.parametrize("wrapper", sorted({*WRAPPERS} - {"object"}))
def test_a_divergence_beside_a_wrapped_loss_without_it_is_refused(wrapper):
    def loss(self, student, teacher, keys, rows, connections):
        return student.stacked().sum()

    class Parent(Formula):
        pass

    Parent.loss = WRAPPERS[wrapper](loss)

    class Child(Parent):
        def divergence(self, student_maps, teacher_maps, keys, rows):
            return student_maps.sum()

    with pytest.raises(UserError, match=r"divergence of .*Child .* would never be called"):
        register_formula(Child("odd", "without effect"))


def test_a_partial_function_without_self_is_refused():
    class Partial(Formula):
        loss = staticmethod(functools.partial(loss_by_divergence, factor=1.0))

    with pytest.raises(UserError, match=r"loss of .*Partial \(.*formula\.py, .* takes .*self"):
        register_formula(Partial("odd", "no self"))


def test_a_loss_that_is_no_function_is_refused():
    class Number(Formula):
        loss = 1.0

    with pytest.raises(UserError, match=r"loss of .*Number .* is not a function"):
        register_formula(Number("odd", "a number"))
