"""A method and a formula from outside the package work like those of the package.

CONTRIBUTING.md ("Add a method", "Add a formula") describes these steps.
"""

import math

import pytest
import torch
from test_trainer import data, tokenizer, trainer  # noqa: F401
from toys import assert_close

from a2d import UserError
from a2d.families import Geometry
from a2d.method.alignment import FILE_NAME
from a2d.method.formulas import FORMULAS, Formula, register_formula
from a2d.method.losses import map_distance
from a2d.method.methods import METHODS, Method, register_method
from a2d.method.transfer import A2D, Transfer
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
    assert load_recipe("methods", ["methods=[mean-maps]"]).methods[0].method == "mean-maps"
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
    recipe = load_recipe("methods", ["methods=[{method: a2d, formula: naive-paper}]"])
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


class InPlace(Transfer):
    """Transfer that counts its calls in place, in a factor of the value."""

    def __init__(self, groups):
        super().__init__(groups)
        self.register_buffer("calls", torch.ones(()))

    def compare(self, group, student, teacher, keys, rows):
        self.calls += 1
        return (student.maps[group].stacked() * self.calls).sum()


class KeepsGraph(Transfer):
    """Transfer with a running mean that is not detached."""

    def __init__(self, groups):
        super().__init__(groups)
        self.mean = 0

    def compare(self, group, student, teacher, keys, rows):
        self.mean = 0.9 * self.mean + student.maps[group].stacked().square().sum()
        return self.mean


class Unused(Transfer):
    """Transfer with a parameter that `compare` does not use."""

    def __init__(self, groups):
        super().__init__(groups)
        self.factor = torch.nn.Parameter(torch.ones(1))

    def compare(self, group, student, teacher, keys, rows):
        return student.maps[group].stacked().square().sum()


class Bare(Transfer):
    """Transfer without `compare`."""


class Uninitialised(Transfer):
    def __init__(self):
        self.factor = 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s, t, o: None, "build of method 'odd' returns None: it must return"),
        (lambda s, t, o: Compares, "build of method 'odd' returns <class .*Compares'>: it must"),
        (lambda s, t, o: Compares(torch.sum, ("cross",)), "compares the groups cross, but the"),
        (lambda s, t, o: Misnamed(o.groups), "compare of Misnamed .* takes .* called with 5 arg"),
        (lambda s, t, o: Compares(print), "compare of Compares .* returns a NoneType"),
        (lambda s, t, o: Compares(torch.ravel), r"returns a Tensor of shape \(\d+,\)"),
        (lambda s, t, o: Compares(lambda m: m.log().sum()), "the value for .* is not finite"),
        (
            lambda s, t, o: Compares(lambda m: torch.where(m > 0, m.sqrt(), m).sum()),
            r"method 'odd', Compares \(.*\): the gradient for the group 'encoder' is not finite",
        ),
        (lambda s, t, o: Compares(lambda m: torch.zeros(())), "'encoder' gives the student no gra"),
        (
            lambda s, t, o: Compares(lambda m: m.sum() * 0),
            "'encoder' gives the student no gradient",
        ),
        (lambda s, t, o: Compares(lambda m: m.detach().sum()), "gives the student no gradient"),
        (lambda s, t, o: Compares(lambda m: (m > 0).all()), "gives the student no gradient"),
        (
            lambda s, t, o: Compares(lambda m: m.sum() * 1j),
            r"shape \(\) and torch.complex64: it must",
        ),
        (lambda s, t, o: InPlace(o.groups), "InPlace .* the gradient .* cannot be computed"),
        (lambda s, t, o: KeepsGraph(o.groups), "second batch .* detach what is kept"),
        (
            lambda s, t, o: Unused(o.groups),
            r"method 'odd', Unused \(.*\): the parameter 'factor' gets no gradient",
        ),
        (lambda s, t, o: Bare(o.groups), "Bare .* compares nothing: define compare"),
        (lambda s, t, o: Uninitialised(), r"Uninitialised .* call super\(\).__init__\(groups\)"),
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


class Running(MeanMaps):
    """Transfer with a running mean."""

    def __init__(self, groups):
        super().__init__(groups)
        self.register_buffer("mean", torch.zeros(()))

    def compare(self, group, student, teacher, keys, rows):
        self.mean = self.mean + teacher.maps[group].stacked().mean()
        return super().compare(group, student, teacher, keys, rows)


class Scaled(A2D):
    """Attention transfer with a learned factor."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.factor = torch.nn.Parameter(torch.ones(()))

    def compare(self, *arguments):
        return self.factor * super().compare(*arguments)


def test_the_trial_leaves_buffers_as_they_are(tmp_path, tokenizer, data):  # noqa: F811
    register_method(Method("running", "mean", build=lambda s, t, o: Running(o.groups)))
    try:
        transfer = trainer(tmp_path, tokenizer, data, method="running")._unwrapped.transfer
    finally:
        del METHODS["running"]
    assert transfer.mean == 0


@pytest.mark.parametrize("has_parameters", [True, False])
def test_buffers_are_saved(tmp_path, has_parameters):
    one, other = Running(("cross",)), Running(("cross",))
    one.mean += 3
    for each in (one, other):
        if not has_parameters:
            del each.factor
    one.save(tmp_path)
    other.load(tmp_path)
    assert other.mean == 3


@pytest.mark.parametrize("formula", ["paper", "official-mixture"])
def test_a_subclass_of_a2d_keeps_its_parameters(tmp_path, formula):
    shape = Geometry(1, 1, 2, 2), Geometry(2, 2, 2, 2), FORMULAS[formula], ("cross",), "uniform"
    one, other = Scaled(*shape), Scaled(*shape)
    with torch.no_grad():
        one.factor.fill_(3)
    one.save(tmp_path)
    other.load(tmp_path)
    assert other.factor == 3
    assert torch.equal(other.alignment.weights["cross"], one.alignment.weights["cross"])
    (tmp_path / "plain").mkdir()
    A2D(*shape).save(tmp_path / "plain")
    assert [path.name for path in (tmp_path / "plain").iterdir()] == [FILE_NAME]


def test_a_loss_that_is_not_finite_names_the_method(tmp_path, tokenizer, data):  # noqa: F811
    def diverge(maps):
        factor = torch.nan if maps.shape[0] > 2 else 1.0  # not in the trial
        return maps.square().sum() * factor

    register_method(Method("odd", "fails", build=lambda s, t, o: Compares(diverge)))
    try:
        with pytest.raises(
            UserError, match=r"Only terms of method 'odd', Compares \(.* correct it"
        ):
            trainer(tmp_path, tokenizer, data, method="odd").train()
    finally:
        del METHODS["odd"]


def test_settings_that_do_not_exist_are_refused(tmp_path, tokenizer, data):  # noqa: F811
    build = lambda s, t, o: Running(o.groups)  # noqa: E731
    register_method(Method("odd", "fails", build=build, build_settings=("formulas",)))
    try:
        message = (
            r"build_settings of method 'odd' \(.*test_extending_method.py, line .*\) has "
            "'formulas': did you mean 'formula'.*A method has no settings of its own"
        )
        with pytest.raises(UserError, match=message):
            trainer(tmp_path, tokenizer, data, method="odd")
        with pytest.raises(UserError, match=message):
            load_recipe("methods", ["methods=[odd]"])
    finally:
        del METHODS["odd"]


@pytest.mark.parametrize(
    ("name", "distribution"), [("formula", True), ("alignment_start", True), ("alpha", False)]
)
@pytest.mark.parametrize("when", ["build", "compare"])
def test_settings_that_are_not_declared_cannot_be_read(
    tmp_path,
    tokenizer,  # noqa: F811
    data,  # noqa: F811
    name,
    distribution,
    when,
):
    def build(student, teacher, objective):
        if when == "build":
            getattr(objective, name)
            return MeanMaps(objective.groups)
        return Compares(lambda maps: maps.square().sum() if getattr(objective, name) else None)

    settings = {"build": build, "distribution": distribution}
    try:
        register_method(Method("odd", "reads", **settings))
        message = (
            rf"method 'odd', .*build \(.*method\.py, line \d+\), reads the setting '{name}', but "
            rf"does not declare it: write Method\(…, build_settings=\('{name}',\)\)"
        )
        with pytest.raises(UserError, match=message):
            trainer(tmp_path, tokenizer, data, method="odd")
        del METHODS["odd"]
        register_method(Method("odd", "reads", **settings, build_settings=(name,)))
        trainer(tmp_path, tokenizer, data, method="odd")
        used = load_recipe("methods", ["methods=[odd]"]).methods[0].used(monolingual=False)
        assert name in used
    finally:
        METHODS.pop("odd", None)


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
        ({"groups": "cross"}, "groups of the Method 'odd' is 'cross', but its type is tuple"),
        ({"source": None}, "source of the Method 'odd' is None, but its type is str"),
        ({"values": "yes"}, "values of the Method 'odd' is 'yes', but its type is bool"),
    ],
)
def test_a_malformed_method_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        register_method(Method("odd", "fails", **settings))
    assert "odd" not in METHODS


@pytest.mark.parametrize("name", ["x/y", "two words", "", "-x", "x" * 181])
@pytest.mark.parametrize("kind", [Method, NaivePaper])
def test_a_name_that_recipes_cannot_use_is_refused(kind, name):
    register = register_method if kind is Method else register_formula
    with pytest.raises(UserError, match="cannot be the name of a"):
        register(kind(name, "fails"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Formula, r"Formula \(.*\) is a class: register an object, Formula\(…\)"),
        ("x", "'x' is no Formula"),
        (
            NaivePaper("odd", "fails", uniform_start="four"),
            "uniform_start of the Formula 'odd' is 'four', but its type is float",
        ),
    ],
)
def test_what_is_no_formula_is_refused(entry, message):
    with pytest.raises(UserError, match=message):
        register_formula(entry)
