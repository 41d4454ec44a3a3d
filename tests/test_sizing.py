"""Recipes whose schedule follows from their corpus and student."""

import pytest

from a2d.errors import UserError
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.recipe import load_recipe
from a2d.runs.schedule import count_tokens, imitation_for, schedule_for, sized
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


def test_the_rule_fills_in_what_the_recipe_leaves_open(splits, tokenizer):
    recipe = sized(load_recipe("distill"), splits)
    tokens = count_tokens(splits.train, tokenizer)
    for name, value in schedule_for(tokens, 160, "teacher").items():
        assert getattr(recipe.training, name) == value
    for name, value in imitation_for(tokens, "teacher").items():
        assert getattr(recipe.methods[0], name) == value


def test_what_the_recipe_names_stays(splits):
    own = ["training.learning_rate=5.0e-4", "training.num_train_epochs=2", "methods.0.alpha=0.5"]
    recipe = sized(load_recipe("distill", own), splits)
    assert recipe.training.learning_rate == 5e-4  # the default's value, and yet named
    assert (recipe.training.num_train_epochs, recipe.training.max_steps) == (2, None)
    assert recipe.methods[0].alpha == 0.5
    assert recipe.methods[0].beta == imitation_for(1, "teacher")["beta"]
    fixed = sized(load_recipe("distill", ["training={max_steps: 9}"]), splits)
    assert fixed == load_recipe("distill", ["training={max_steps: 9}"])


def test_a_limit_of_time_stays_beside_the_schedule(splits):
    by_option = load_recipe("distill", [], {"training": {"max_hours": 0.5}})
    for recipe in (by_option, load_recipe("distill", ["training.max_hours=0.5"])):
        training = sized(recipe, splits).training
        assert (training.max_hours, training.plateau_patience) == (0.5, 4)


def test_a_limit_of_time_without_a_schedule_that_can_end_early_is_refused(splits):
    own = ["training.lr_scheduler_type=cosine", "training.max_hours=1"]
    with pytest.raises(UserError, match="max_hours"):
        sized(load_recipe("distill", own), splits)


def test_what_was_filled_in_is_not_filled_in_again(splits):
    recipe = sized(load_recipe("distill"), splits)
    fewer = splits._replace(train=splits.train[:50])
    assert sized(recipe, fewer) == recipe


def test_all_text_that_students_read_counts(splits, tokenizer):
    def updates(methods):
        return sized(load_recipe("distill", [f"methods={methods}"]), splits).training.max_steps

    def expected(tokens, start):
        return schedule_for(tokens, 160, start)["max_steps"]

    tokens = count_tokens(splits.train, tokenizer)
    more = count_tokens(splits.monolingual, tokenizer)
    assert updates("[kd]") == expected(tokens, "random")
    assert updates("[seqkd]") == expected(tokens + more, "random")
    assert updates("[{method: seqkd+references, monolingual: false}]") == expected(
        2 * tokens, "random"
    )
    assert updates("[{method: seqkd+kd, student_start: teacher}]") == expected(
        tokens + more, "teacher"
    )


def test_without_a_tokenizer_it_is_refused(splits):
    recipe = load_recipe("demo", ["training={sized: true}", "teacher.training={max_steps: 9}"])
    with pytest.raises(UserError, match=r"demo: training\.sized needs a pretrained teacher"):
        sized(recipe, splits)
