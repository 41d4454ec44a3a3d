"""`A2DConfig`: values out of range, mistyped names, weights of the objective's terms."""

import math
from dataclasses import fields

import pytest
from transformers import SchedulerType, Seq2SeqTrainingArguments

from a2d import A2DConfig
from a2d.errors import UserError
from a2d.method.methods import METHODS
from a2d.method.objective import Moment
from a2d.runs.settings import MethodSettings, Training
from a2d.training.settings import ObjectiveSettings, TrainingSettings, values_of

NAMES = (
    "baseline, kd, seqkd, seqkd+references, seqkd+kd, last, uniform, tinybert, minilm, ckd, a2d, "
    "a2d+hidden, seqkd+a2d"
)


@pytest.fixture
def config(tmp_path):
    def make(**settings):
        return A2DConfig(output_dir=str(tmp_path), **settings)

    return make


def test_defaults(config):
    args = config()
    assert (args.method, args.formula, args.alignment_start) == ("a2d", "geometric", "uniform")
    assert (args.alpha, args.beta, args.decay, args.temperature) == (0.5, 3.0, 1.0, 1.0)
    assert isinstance(args.bf16, bool)
    assert config(bf16=False).bf16 is False


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("alpha", -0.1, "greater than or equal to 0"),
        ("alpha", 1.1, "less than or equal to 1"),
        ("alpha", math.nan, "less than or equal to 1"),
        ("beta", -1, "greater than or equal to 0"),
        ("decay", 1.5, "less than or equal to 1"),
        ("decay", -0.5, "greater than or equal to 0"),
        ("temperature", 0, "greater than or equal to 0.001"),
        ("label_smoothing_factor", -0.1, "greater than or equal to 0"),
        ("label_smoothing_factor", 2, "less than 1"),
        ("max_tokens", 0, "greater than or equal to 1"),
        ("learning_rate", "high", "a valid number"),
        ("bf16", "perhaps", "a valid boolean"),
    ],
)
def test_values_out_of_range(config, name, value, limits):
    with pytest.raises(UserError, match=f"^{name} is {value!r}: it must be {limits}"):
        config(**{name: value})


def test_values_are_converted(config):
    args = config(learning_rate="1e-3", lr_scheduler_type=SchedulerType.COSINE)
    assert (args.learning_rate, args.lr_scheduler_type) == (1e-3, "cosine")


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 0), ("alpha", 1), ("beta", 0), ("decay", 0), ("decay", 1)]
)
def test_limits_themselves_are_allowed(config, name, value):
    assert getattr(config(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "a2dd"}, f"unknown method 'a2dd': did you mean 'a2d'? Valid are {NAMES}."),
        ({"method": "base"}, f"unknown method 'base': did you mean 'baseline'? Valid are {NAMES}."),
        ({"method": "zzz"}, f"unknown method 'zzz': valid are {NAMES}."),
        (
            {"formula": "papper"},
            "unknown formula 'papper': did you mean 'paper'? Valid are paper, ",
        ),
        ({"alignment_start": "even"}, "unknown alignment_start 'even': valid are random, uniform."),
        (
            {"lr_scheduler_type": "cosin"},
            "unknown lr_scheduler_type 'cosin': did you mean 'cosine'?",
        ),
        (
            {"groups": "encoder+cros"},
            "unknown group 'cros': did you mean 'cross'? Valid are encoder",
        ),
        ({"groups": ""}, "unknown group '': valid are encoder, decoder, cross."),
    ],
)
def test_unknown_names_get_a_suggestion(config, setting, message):
    with pytest.raises(UserError) as caught:
        config(**setting)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epoch", [1, 2, 5])
@pytest.mark.parametrize(("until", "factor"), [(None, 1), (1.0, 0.6), (0.5, 0.2), (0.3, 0)])
def test_weights_of_terms(config, method, epoch, until, factor):
    """(1-α)·CE + α·KD + β·decay^(epoch-1)·[A_encoder + ½(A_decoder + A_cross)]"""
    args = config(method=method, alpha=0.3, beta=2.0, decay=0.8, beta_until=until)
    references_alone = ("baseline", "seqkd", "seqkd+references")
    alpha = 0 if method in references_alone else 0.3
    beta = 0 if method in (*references_alone, "kd", "seqkd+kd") else 2.0
    decayed = beta * 0.8 ** (epoch - 1) * factor
    expected = {
        "ce": 1 - alpha,
        "kd": alpha,
        "encoder": decayed,
        "decoder": decayed / 2,
        "cross": decayed / 2,
    }
    moment = Moment(epoch, share=0.4)
    weights = {term.name: term.weight_at(moment) for term in args.objective.terms}
    assert {k: w for k, w in weights.items() if w} == pytest.approx(
        {name: weight for name, weight in expected.items() if weight}
    )


def test_objective_has_the_settings_of_the_losses(config):
    objective = config(
        method="kd", formula="official", alpha=0.7, temperature=2.0, label_smoothing_factor=0.2
    ).objective
    groups = ("encoder", "decoder", "cross")
    assert objective == ("kd", "official", 0.7, 2.0, 0.2, groups, "uniform", 3.0, 1.0, 1.0)
    objective = config(groups="cross+encoder", alignment_start="uniform").objective
    groups = ("encoder", "cross")
    assert objective == ("a2d", "geometric", 0.5, 1.0, 0.1, groups, "uniform", 3.0, 1.0, 1.0)


def test_recipes_have_the_same_defaults(config):
    args, recipe = config(bf16=False), Training(max_steps=1, bf16=False)
    for settings, section in ((TrainingSettings, recipe), (ObjectiveSettings, MethodSettings())):
        assert len(fields(settings)) >= 9
        assert values_of(args, settings) == values_of(section, settings)


def test_defaults_equal_those_of_transformers(config):
    """Only defaults that `TrainingSettings` sets on purpose may differ."""
    library_defaults = {field.name: field.default for field in fields(Seq2SeqTrainingArguments)}
    defaults = {field.name: field.default for field in fields(TrainingSettings)}
    differing = {
        name
        for name in defaults.keys() & library_defaults.keys()
        if defaults[name] != library_defaults[name]
    }
    assert differing == {
        "learning_rate",
        "warmup_steps",
        "weight_decay",
        "label_smoothing_factor",
        "bf16",
    }
    assert "lr_scheduler_type" in defaults.keys() & library_defaults.keys()
