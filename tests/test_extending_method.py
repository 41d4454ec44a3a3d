"""A method and a formula from outside the package work like those of the package.

CONTRIBUTING.md ("Add a method", "Add a formula") describes these steps.
"""

import math

import pytest
import torch
from test_trainer import data, tokenizer, trainer  # noqa: F401
from toys import assert_close

from a2d import UserError
from a2d.method.formulas import FORMULAS, Formula, RowWise, register_formula
from a2d.method.losses import map_distance
from a2d.method.methods import METHODS, Method, register_method
from a2d.method.transfer import Transfer
from a2d.runs.recipe import load_recipe
from a2d.training.teacher_cache import open_or_build


class MeanMaps(Transfer):
    """Squared distance between the models' mean attention maps, with a learned factor."""

    def __init__(self, groups):
        super().__init__(groups)
        self.factor = torch.nn.Parameter(torch.ones(1))

    def compare(self, group, student, teacher, keys, rows):
        ours, theirs = (f.maps[group].stacked().mean(1, keepdim=True) for f in (student, teacher))
        return map_distance(self.factor * ours, theirs.detach(), keys, rows)


class NaivePaper(Formula):
    """The paper's formula in three lines, without its own gradient."""

    def divergence(self, student_maps, teacher_maps, keys, rows):
        allowed = keys.unsqueeze(1)
        predicted = student_maps.masked_fill(~allowed, -math.inf).log_softmax(-1)
        terms = torch.special.xlogy(teacher_maps, teacher_maps) - teacher_maps * predicted
        valid = allowed & rows[:, None, :, None]
        return terms.masked_fill(~valid, 0.0).sum() / teacher_maps.shape[1]


@pytest.fixture
def method():
    yield register_method(
        Method(
            "mean-maps",
            "mean attention maps",
            build=lambda student, teacher, objective: MeanMaps(objective.groups),
        )
    )
    del METHODS["mean-maps"]


@pytest.fixture
def formula():
    yield register_formula(NaivePaper("naive-paper", "the paper's formula, naively"))
    del FORMULAS["naive-paper"]


def logs(distiller):
    distiller.train()
    return [entry for entry in distiller.state.log_history if "loss" in entry]


def test_a_method_trains(tmp_path, tokenizer, data, method):  # noqa: F811
    settings = {"method": method.name, "groups": "encoder+cross", "beta_until": None}
    settings |= {"logging_steps": 1}
    distiller = trainer(tmp_path, tokenizer, data, beta=20.0, max_steps=30, **settings)
    entries = logs(distiller)
    terms = {"ce", "encoder", "cross"}  # it has no word-level distillation
    assert all(terms <= entry.keys() for entry in entries)
    assert all(entry.keys().isdisjoint({"kd", "decoder"}) for entry in entries)
    for entry in entries:
        weighted = entry["ce"] + 20 * (entry["encoder"] + entry["cross"] / 2)
        assert entry["loss"] == pytest.approx(weighted, rel=1e-3)
    assert entries[-1]["encoder"] < entries[0]["encoder"]
    (factor,) = distiller._unwrapped.transfer.parameters()
    assert factor != 1
    distiller.save_model(str(tmp_path / "model"))
    copy = MeanMaps(("encoder", "cross"))
    copy.load(tmp_path / "model")
    assert copy.factor == factor


def test_a_method_reads_the_teachers_cache(tmp_path, tokenizer, data, method):  # noqa: F811
    settings = {"method": method.name, "logging_steps": 1}
    live, cached = (trainer(tmp_path / name, tokenizer, data, **settings) for name in "ab")
    cached.teacher_cache = open_or_build(tmp_path / "cache", cached.teacher, data)
    pairs = zip(logs(live), logs(cached), strict=True)
    for one, other in pairs:
        assert other["cross"] == pytest.approx(one["cross"], rel=1e-2)


def test_a_method_needs_a_teacher_and_is_named_in_configurations(tmp_path, tokenizer, data, method):  # noqa: F811
    with pytest.raises(UserError, match="method 'mean-maps' needs a teacher"):
        trainer(tmp_path, tokenizer, data, teacher=False, method=method.name)
    with pytest.raises(UserError, match="unknown method 'mean-map': did you mean 'mean-maps'"):
        trainer(tmp_path, tokenizer, data, method="mean-map")
    assert load_recipe("demo", ["methods=[mean-maps]"]).methods[0].method == "mean-maps"
    assert method.settings == {"beta", "decay", "beta_until", "groups", "alignment_learning_rate"}
    with pytest.raises(UserError, match="a method 'mean-maps' exists already"):
        register_method(method)


def test_a_copy_of_a_formula_trains_equally(tmp_path, tokenizer, data, formula):  # noqa: F811
    trained = [
        trainer(tmp_path, tokenizer, data, formula=name, logging_steps=1, optim="sgd")
        for name in ("paper", formula.name)
    ]
    paper_logs, naive_logs = (logs(distiller) for distiller in trained)
    for one, other in zip(paper_logs, naive_logs, strict=True):
        for term in ("ce", "kd", "encoder", "decoder", "cross"):
            assert other[term] == pytest.approx(one[term], rel=1e-4)
    paper, naive = (
        torch.cat([parameter.detach().flatten() for parameter in distiller.model.parameters()])
        for distiller in trained
    )
    assert_close(naive, paper, 1e-5)
    alignment = trained[1].alignment
    untrained = trainer(tmp_path, tokenizer, data, formula=formula.name).alignment
    for group, weight in alignment.weights.items():
        assert not torch.equal(weight, untrained.weights[group])


def test_a_formula_is_named_in_configurations(formula):
    recipe = load_recipe("demo", ["methods=[{method: a2d, formula: naive-paper}]"])
    assert recipe.methods[0].formula == formula.name
    with pytest.raises(UserError, match="a formula 'naive-paper' exists already"):
        register_formula(formula)


class Compares(Transfer):
    """Transfer that compares by a function."""

    def __init__(self, function, groups=("encoder", "decoder", "cross")):
        super().__init__(groups)
        self.function = function

    def compare(self, group, student, teacher, keys, rows):
        return self.function(student.maps[group].stacked())


class Misnamed(Transfer):
    def compare(self, student, teacher):
        return student


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s, t, o: None, "build of method 'odd' returns a NoneType: it must return"),
        (lambda s, t, o: Compares(torch.sum, ("cross",)), "compares the groups cross, but the"),
        (lambda s, t, o: Misnamed(o.groups), "compare of Misnamed .* takes .* called with 5 arg"),
        (lambda s, t, o: Compares(print), "compare of Compares .* returns a NoneType"),
        (lambda s, t, o: Compares(torch.ravel), r"returns a Tensor of shape \(\d+,\)"),
        (lambda s, t, o: Compares(lambda m: m.log().sum()), "the value for .* is not finite"),
        (
            lambda s, t, o: Compares(lambda m: torch.where(m > 0, m.sqrt(), m).sum()),
            "method 'odd': the gradient for the group 'encoder' is not finite for a",
        ),
    ],
)
def test_a_method_that_cannot_train_is_refused_before(
    tmp_path,
    tokenizer,  # noqa: F811
    data,  # noqa: F811
    build,
    message,
):
    register_method(Method("odd", "fails", build=build))
    try:
        with pytest.raises(UserError, match=message):
            trainer(tmp_path, tokenizer, data, method="odd")
    finally:
        del METHODS["odd"]


def test_the_trial_moves_no_random_number(tmp_path, tokenizer, data, method):  # noqa: F811
    trained = trainer(tmp_path, tokenizer, data, method=method.name)
    after = torch.rand(3)
    torch.manual_seed(trained.args.seed)
    trainer(tmp_path, tokenizer, data, method="kd")
    assert torch.equal(after, torch.rand(3))


def test_a_method_for_one_group_has_its_terms_alone(tmp_path, tokenizer, data):  # noqa: F811
    register_method(
        Method("one", "cross", build=lambda s, t, o: MeanMaps(o.groups), groups=("cross",))
    )
    try:
        settings = {"method": "one", "beta_until": None, "logging_steps": 1}
        distiller = trainer(tmp_path, tokenizer, data, max_steps=2, **settings)
        for entry in logs(distiller):
            assert entry.keys().isdisjoint({"encoder", "decoder"})
            assert entry["loss"] == pytest.approx(
                entry["ce"] + distiller.args.beta * entry["cross"] / 2, rel=1e-3
            )
        with pytest.raises(UserError, match="method 'one' compares cross only, but groups is"):
            trainer(tmp_path, tokenizer, data, method="one", groups="encoder")
    finally:
        del METHODS["one"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"build": lambda student, teacher: None}, r"<lambda> \(.*called with 3 arguments"),
        ({"build": "kd"}, "is not a function"),
        ({"groups": ()}, r"the groups of method 'odd' are \(\)"),
        ({"groups": "cross"}, "the groups of method 'odd' are 'cross': give a tuple"),
    ],
)
def test_a_malformed_method_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        register_method(Method("odd", "fails", **settings))
    assert "odd" not in METHODS


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
        (Overridden, r"divergence of Overridden \(.*test_extending_method.py.* never be called"),
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
