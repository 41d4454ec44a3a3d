"""True and false are no numbers in settings, and numbers are neither true nor false."""

from copy import deepcopy
from typing import get_args

import pytest

from a2d import A2DConfig
from a2d.errors import UserError
from a2d.runs.recipe import Recipe, load_recipe, make_recipe
from a2d.runs.sections import section_at

ITEMS = {"students": "students.0", "methods": "methods.0"}


def settings(section=Recipe, prefix=""):
    """Dotted names of all settings of a recipe, with the types in their annotations."""
    for name, field in section.__pydantic_fields__.items():
        below = section_at(section, name)
        if below is None:
            yield prefix + name, types_in(field.annotation)
        else:
            yield from settings(below, f"{prefix}{ITEMS.get(name, name)}.")


def types_in(annotation):
    return {annotation}.union(*map(types_in, get_args(annotation)))


SETTINGS = dict(settings())
NUMBERS = [name for name, types in SETTINGS.items() if types & {int, float} and name != "seeds"]
TRUTHS = [name for name, types in SETTINGS.items() if bool in types]


RAW = load_recipe("methods", ["methods=[{method: a2d}]"])._raw


def refused(assignment):
    with pytest.raises(UserError) as caught:
        make_recipe(deepcopy(RAW), [assignment], "methods")
    return str(caught.value)


def test_there_are_settings_of_both_kinds():
    assert {"methods.0.beta_until", "training.max_steps", "corpus.limit"} < set(NUMBERS)
    assert {"training.bf16", "teacher.cache", "corpus.cleaning.language"} < set(TRUTHS)
    assert not set(NUMBERS) & set(TRUTHS)
    assert len(NUMBERS) > 50


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["true", "false"])
def test_a_number_is_not_true_or_false(name, value):
    assert f"{name!r} is {value.title()}: it must be " in refused(f"{name}={value}")


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("value", [0, 1, 1.0])
def test_a_truth_value_is_no_number(name, value):
    assert f"{name!r} is {value}: it must be true" in refused(f"{name}={value}")


def test_seeds_are_numbers():
    message = "'seeds' is [2, True]: it must be a number, not true or false."
    assert message in refused("seeds=[2, true]")


def test_a_list_of_values_holds_numbers():
    message = "'methods.0.beta_until' is True: it must be a number, not true or false."
    assert message in refused("methods=[{method: a2d, beta_until: [true, 0.5]}]")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beta_until": True}, "beta_until is True: it must be a number, not true or false."),
        ({"max_tokens": True}, "max_tokens is True: it must be a number, not true or false."),
        ({"bf16": 1}, "bf16 is 1: it must be true or false."),
    ],
)
def test_training_arguments_too(setting, message, tmp_path):
    with pytest.raises(UserError) as caught:
        A2DConfig(output_dir=str(tmp_path), **setting)
    assert str(caught.value) == message
