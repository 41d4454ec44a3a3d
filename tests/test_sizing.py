"""Recipes with `training.sized`, whose schedule follows from corpus and student."""

import pytest

from a2d.errors import UserError
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.recipe import load_recipe
from a2d.runs.schedule import estimate_tokens, fill_schedule, objective_for, schedule_for
from a2d.runs.splits import Splits
from a2d.teachers import model_path
from a2d.text.cleaning import CleaningReport
from a2d.text.corpus import read_corpus


@pytest.fixture(scope="module")
def splits():
    pairs = read_corpus("builtin:en-pt/valid")[:300]
    return Splits(
        pairs, pairs[:9], pairs[:9], CleaningReport(300, {}, 300), monolingual=pairs[:150]
    )


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(model_path("builtin:en-pt"))


def test_settings_that_the_recipe_omits_are_filled_in(splits, tokenizer):
    recipe = fill_schedule(load_recipe("distill"), splits)
    tokens = estimate_tokens(splits.train, tokenizer)
    for name, value in schedule_for(tokens, 160, "teacher", narrower=False).items():
        assert getattr(recipe.training, name) == value
    for name, value in objective_for(tokens, "teacher").items():
        assert getattr(recipe.methods[0], name) == value


def test_settings_that_the_recipe_names_stay(splits):
    overrides = [
        "training.learning_rate=5.0e-4",
        "training.num_train_epochs=2",
        "methods.0.alpha=0.5",
    ]
    recipe = fill_schedule(load_recipe("distill", overrides), splits)
    assert recipe.training.learning_rate == 5e-4  # the default value, but named in the recipe
    assert (recipe.training.num_train_epochs, recipe.training.max_steps) == (2, None)
    assert recipe.methods[0].alpha == 0.5
    assert recipe.methods[0].beta == objective_for(1, "teacher")["beta"]
    fixed = fill_schedule(load_recipe("distill", ["training={max_steps: 9}"]), splits)
    assert fixed == load_recipe("distill", ["training={max_steps: 9}"])


@pytest.mark.parametrize("start", ["teacher", "random"])
@pytest.mark.parametrize("limit", ["max_steps=12", "num_train_epochs=1"])
def test_few_updates_have_a_short_warm_up(splits, tokenizer, start, limit):
    overrides = [f"training.{limit}", f"methods=[{{method: kd, student_start: {start}}}]"]
    training = fill_schedule(load_recipe("distill", overrides), splits).training
    updates = training.max_steps or estimate_tokens(splits.train, tokenizer) / training.max_tokens
    assert training.warmup_steps == max(1, round(updates / 4)) < 50
    named = [*overrides, "training.warmup_steps=40"]
    assert fill_schedule(load_recipe("distill", named), splits).training.warmup_steps == 40


def test_a_limit_of_time_stays_beside_the_schedule(splits):
    by_option = load_recipe("distill", [], {"training": {"max_hours": 0.5}})
    for recipe in (by_option, load_recipe("distill", ["training.max_hours=0.5"])):
        training = fill_schedule(recipe, splits).training
        assert (training.max_hours, training.plateau_patience) == (0.5, 4)


def test_a_limit_of_time_without_a_schedule_that_can_end_early_is_refused(splits):
    overrides = ["training.lr_scheduler_type=cosine", "training.max_hours=1"]
    with pytest.raises(UserError, match="max_hours"):
        fill_schedule(load_recipe("distill", overrides), splits)


def test_a_filled_schedule_is_not_filled_again(splits):
    recipe = fill_schedule(load_recipe("distill"), splits)
    fewer = splits._replace(train=splits.train[:50])
    assert fill_schedule(recipe, fewer) == recipe


def test_all_training_text_counts(splits, tokenizer):
    def updates(methods):
        return fill_schedule(
            load_recipe("distill", [f"methods={methods}"]), splits
        ).training.max_steps

    def expected(tokens, start):
        return schedule_for(tokens, 160, start, narrower=False)["max_steps"]

    tokens = estimate_tokens(splits.train, tokenizer)
    monolingual = estimate_tokens(splits.monolingual, tokenizer)
    assert updates("[kd]") == expected(tokens, "random")
    assert updates("[seqkd]") == expected(tokens + monolingual, "random")
    assert fill_schedule(
        load_recipe("distill", ["methods=[seqkd]"]), splits._replace(monolingual=())
    ).training.max_steps == expected(tokens, "random")
    assert updates("[{method: seqkd+references, monolingual: false}]") == expected(
        2 * tokens, "random"
    )
    assert updates("[{method: seqkd+kd, student_start: teacher}]") == expected(
        tokens + monolingual, "teacher"
    )


def test_a_recipe_without_a_tokenizer_is_refused(splits):
    recipe = load_recipe("methods", ["training={sized: true}", "teacher.training={max_steps: 9}"])
    with pytest.raises(UserError, match=r"methods: training\.sized needs a pretrained teacher"):
        fill_schedule(recipe, splits)
