"""Choice of the schedule by the corpus, and the warning about students that do not learn."""

import logging
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2d.models.tokenizer import train_tokenizer
from a2d.runs.schedule import SAMPLE_SIZE, estimate_tokens, schedule_for
from a2d.runs.settings import Training
from a2d.runs.training import LearningWatch
from a2d.runs.verdict import Quality, Yardstick
from a2d.text.batching import lengths, tokenise
from a2d.text.corpus import read_corpus


@given(
    tokens=st.integers(200, 10**9),
    width=st.integers(8, 4096),
    start=st.sampled_from(["teacher", "random", "marian"]),
    narrower=st.booleans(),
)
def test_every_corpus_has_a_schedule_that_recipes_accept(tokens, width, start, narrower):
    settings = schedule_for(tokens, width, start, narrower=narrower)
    training = Training(**settings)
    assert training.plateau_patience
    assert training.max_steps > 200
    assert training.max_steps > 4 * training.warmup_steps or start != "teacher"
    # There are several validations before patience can end the training, but not too many.
    epochs = training.max_steps / max(1, tokens / training.max_tokens)
    validations = epochs / training.evaluate_every
    assert 3 * training.plateau_patience < validations <= 20


@given(tokens=st.integers(1000, 10**9), factor=st.floats(1, 100))
def test_schedules_grow_with_text_and_rates_fall_with_width(tokens, factor):
    few, many = (
        schedule_for(round(t), 128, "teacher", narrower=True) for t in (tokens, tokens * factor)
    )
    assert many["max_steps"] >= few["max_steps"]
    assert many["max_tokens"] >= few["max_tokens"]
    wide = schedule_for(tokens, round(128 * factor), "teacher", narrower=True)
    assert wide["learning_rate"] <= few["learning_rate"] * 1.01 / factor**0.5
    assert wide["learning_rate"] >= few["learning_rate"] * 0.99 / factor


def test_estimated_tokens_agree_with_batches():
    pairs = read_corpus("builtin:de-dsb/train")
    tokenizer = train_tokenizer((text for pair in pairs[:2000] for text in pair), 1000)
    few = pairs[: SAMPLE_SIZE // 2]
    assert estimate_tokens(few, tokenizer) == lengths(tokenise(few, tokenizer)).max(axis=1).sum()
    exact = lengths(tokenise(pairs, tokenizer)).max(axis=1).sum()
    assert estimate_tokens(pairs, tokenizer) == pytest.approx(exact, rel=0.05)


class TestLearningWatch:
    YARDSTICK = Yardstick(Quality(30, 60), Quality(5, 21), 1.0)

    def warnings(self, caplog, *scores):
        watch = LearningWatch(self.YARDSTICK)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="a2d"):
            for number, chrf in enumerate(scores, start=1):
                state = SimpleNamespace(global_step=10 * number, max_steps=100)
                watch.on_evaluate(None, state, None, metrics={"eval_chrf": chrf})
        return [record.getMessage() for record in caplog.records]

    def test_warns_once_of_a_student_below_copied_sources(self, caplog):
        (warning,) = self.warnings(caplog, 3, 20.5, 20.9, 20.9, 20.9)
        assert "after 20 updates its validation chrF is 20.5" in warning
        assert "its teacher has 60.0, copied sources have 21.0" in warning
        assert "If that does not change, stop the run and use more layers" in warning

    def test_after_the_last_update_there_is_no_run_to_stop(self, caplog):
        watch = LearningWatch(self.YARDSTICK)
        state = SimpleNamespace(global_step=100, max_steps=100)
        with caplog.at_level(logging.WARNING, logger="a2d"):
            watch.on_evaluate(None, state, None, metrics={"eval_chrf": 3})
        (warning,) = [record.getMessage() for record in caplog.records]
        assert warning.endswith(
            "Next time, use more layers, more data or another training.learning_rate."
        )

    def test_does_not_warn_of_a_student_that_learns(self, caplog):
        assert not self.warnings(caplog, 3, 30, 40, 10)
        assert not self.warnings(caplog, 25, 3, 3, 3)
