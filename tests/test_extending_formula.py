"""Formulas from outside the package that cannot train are refused, with a remedy for formulas."""

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
