"""Schedule that ends on a plateau: closed forms, resumption, limits."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_trainer import data, tokenizer, trainer  # noqa: F401
from transformers import TrainerCallback, get_scheduler

from a2d import A2DConfig, A2DTrainer, UserError
from a2d.training.schedule import FinishOnPlateau, PlateauSchedule, TimeLimit


def schedule(warmup, steps, rate=1.0):
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=rate)
    return optimizer, PlateauSchedule(optimizer, warmup, steps)


def rates(warmup, steps, plateau=None):
    """Return the learning rate of each update until it is zero."""
    optimizer, plan = schedule(warmup, steps)
    results = []
    while plan.last_epoch < plan.end:
        if plan.last_epoch == plateau:
            plan.finish(plateau)
        results.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    return [*results, optimizer.param_groups[0]["lr"]]


def test_without_a_plateau_decay_is_linear():
    falling = [step / 12 for step in range(12, -1, -1)]
    assert rates(4, 16) == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling])


def test_without_warmup_it_equals_linear_of_transformers():
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    library_schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=40)
    expected = []
    for _ in range(41):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        library_schedule.step()
    assert rates(0, 40) == pytest.approx(expected)


def test_finish_takes_a_quarter_of_all_updates():
    learning_rates = rates(0, 1000, plateau=30)
    assert len(learning_rates) - 1 == 40
    assert learning_rates[:31] == pytest.approx([1 - step / 1000 for step in range(31)])
    assert learning_rates[30:] == pytest.approx([0.97 * (1 - step / 10) for step in range(11)])


@given(
    warmup=st.integers(0, 50),
    steps=st.integers(1, 200),
    plateau=st.one_of(st.none(), st.integers(0, 220)),
)
def test_it_ends_in_time_and_never_rises_after_warmup(warmup, steps, plateau):
    learning_rates = rates(warmup, steps, plateau)
    assert len(learning_rates) - 1 <= steps
    assert learning_rates[-1] == 0
    assert all(0 <= rate <= 1 for rate in learning_rates)
    signs = [b > a for a, b in itertools.pairwise(learning_rates) if a != b]
    assert signs == sorted(signs, reverse=True)  # up, then down


SETTINGS = {
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_strategy": "steps",
    "save_steps": 4,
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "bleu",
    "greater_is_better": True,
    "plateau_patience": 2,
    "max_steps": 40,
    "learning_rate": 1e-30,  # too low to learn: validation never improves
    "alignment_learning_rate": 1e-30,
    "warmup_steps": 2,
    "logging_steps": 1,
}


class Stop(TrainerCallback):
    """Callback that simulates a killed training."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_training_ends_after_a_plateau_with_a_validation(tmp_path, tokenizer, data):  # noqa: F811
    distiller = trainer(tmp_path, tokenizer, data, **SETTINGS)
    distiller.train()
    # Validations at 4, 8 and 12: the first is the best; two without a better one.
    log = distiller.state.log_history
    assert [e["step"] for e in log if "eval_bleu" in e] == [4, 8, 12, 16]
    assert distiller.state.global_step == 16
    learning_rates = {e["step"]: e["learning_rate"] for e in log if "learning_rate" in e}
    assert learning_rates[12] == pytest.approx(29 / 38 * 1e-30)
    assert learning_rates[16] == pytest.approx(28 / 38 / 4 * 1e-30)


@pytest.mark.parametrize("step", [10, pytest.param(14, marks=pytest.mark.full)])
def test_interrupted_training_equals_an_uninterrupted_one(tmp_path, tokenizer, data, step):  # noqa: F811
    settings = SETTINGS | {"learning_rate": 1e-3, "dropout": 0.1}
    undisturbed = trainer(tmp_path / "a", tokenizer, data, **settings)
    undisturbed.train(resume_from_checkpoint=True)
    first = trainer(tmp_path / "b", tokenizer, data, **settings)
    first.add_callback(Stop(step))
    with pytest.raises(KeyboardInterrupt):
        first.train(resume_from_checkpoint=True)
    resumed = trainer(tmp_path / "b", tokenizer, data, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == undisturbed.state.global_step
    for (name, weight), (_, resumed_weight) in zip(
        undisturbed.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert torch.equal(weight, resumed_weight), name


def validations(scores_and_losses, patience=2):
    """Return the update of the call of `finish`, for validations after every 10 updates."""
    _, plan = schedule(0, 1000)
    callback = FinishOnPlateau(patience)
    args = type("Args", (), {"metric_for_best_model": "bleu", "greater_is_better": True})()
    for number, (score, loss) in enumerate(scores_and_losses, start=1):
        state = type("State", (), {"global_step": 10 * number})()
        metrics = {"eval_bleu": score, "eval_ce": loss}
        callback.on_evaluate(args, state, None, metrics=metrics, lr_scheduler=plan)
    return plan.finish_start


@pytest.mark.parametrize(
    ("figures", "start"),
    [
        ([(0, 9), (0, 8), (0, 7), (0, 6), (0, 5)], None),  # the loss still falls
        ([(1, 5), (2, 6), (3, 7), (4, 8), (5, 9)], None),  # BLEU still rises
        ([(3, 5), (2, 6), (3, 6), (9, 1), (9, 1)], 30),
        ([(3, 5), (2, 6), (4, 6), (2, 9), (1, 9)], 50),
    ],
)
def test_what_counts_as_a_plateau(figures, start):
    assert validations(figures) == start


def test_time_limit_calls_finish():
    _, plan = schedule(0, 1000)
    watch = TimeLimit(limit=100.0, seconds=74.0)
    watch.on_train_begin()
    state = type("State", (), {"global_step": 30})()
    watch.on_step_end(None, state, None, lr_scheduler=plan)
    assert plan.end == 1000
    watch.seconds = 75.0
    watch.on_step_end(None, state, None, lr_scheduler=plan)
    assert plan.end == 40


def test_states_survive_checkpoints():
    callback = FinishOnPlateau(3)
    callback.best, callback.validations_since_best = 1.5, 2
    again = FinishOnPlateau.from_state(callback.state())
    assert (again.patience, again.best, again.validations_since_best) == (3, 1.5, 2)
    assert TimeLimit.from_state(TimeLimit(9.0, 4.0).state()).seconds == 4.0


def test_settings_are_checked(tmp_path):
    with pytest.raises(UserError, match="max_hours needs plateau_patience"):
        A2DConfig(output_dir=str(tmp_path), max_hours=1.0)
    with pytest.raises(UserError, match="plateau_patience is 0"):
        A2DConfig(output_dir=str(tmp_path), plateau_patience=0)


def test_the_metric_is_bleu_unless_named(tmp_path, tokenizer, data):  # noqa: F811
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "plateau_patience": 1}
    config = A2DConfig(output_dir=str(tmp_path), **settings)
    assert (config.metric_for_best_model, config.greater_is_better) == ("bleu", True)
    config = A2DConfig(output_dir=str(tmp_path), predict_with_generate=False, **settings)
    assert (config.metric_for_best_model, config.greater_is_better) == ("ce", False)
    for metric, greater in (("ce", False), ("eval_kd", False), ("chrf", True), ("a_loss", False)):
        config = A2DConfig(output_dir=str(tmp_path), metric_for_best_model=metric)
        assert config.greater_is_better is greater
    for metric in (None, "eval_bleu", "eval_loss"):
        distiller = trainer(
            tmp_path, tokenizer, data, **settings, **({"metric_for_best_model": metric})
        )
        distiller.train()
        assert distiller.state.global_step == 2
    distiller = trainer(tmp_path, tokenizer, data, metric_for_best_model="comet", **settings)
    with pytest.raises(UserError, match=r"'comet'.*eval_bleu"):
        distiller.train()


@pytest.mark.parametrize("patience", ["plateau_patience", "early_stopping_patience"])
def test_without_validations_there_is_nothing_to_follow(tmp_path, patience):
    with pytest.raises(UserError, match="follow validation: set eval_strategy"):
        A2DConfig(output_dir=str(tmp_path), **{patience: 2})


def test_several_validation_sets_are_refused(tmp_path, tokenizer, data):  # noqa: F811
    args = A2DConfig(output_dir=str(tmp_path), plateau_patience=1, eval_strategy="epoch")
    with pytest.raises(UserError, match="one validation set"):
        A2DTrainer(None, None, args, data, {"a": data, "b": data}, tokenizer)


def test_a_resumed_training_can_have_more_updates(tmp_path, tokenizer, data):  # noqa: F811
    settings = SETTINGS | {"learning_rate": 1e-3, "plateau_patience": 9}
    trainer(tmp_path, tokenizer, data, **settings | {"max_steps": 4}).train()
    longer = trainer(tmp_path, tokenizer, data, **settings | {"max_steps": 8})
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 8
    learning_rates = [e["learning_rate"] for e in longer.state.log_history if "loss" in e]
    planned = schedule(2, 8, rate=1e-3)[1]
    assert learning_rates[5] == pytest.approx(1e-3 * planned._factor(5))


def test_a_resumed_training_can_have_other_limits(tmp_path, tokenizer, data):  # noqa: F811
    settings = SETTINGS | {"max_hours": 1.0}
    first = trainer(tmp_path, tokenizer, data, **settings)
    first.add_callback(Stop(5))
    with pytest.raises(KeyboardInterrupt):
        first.train()
    more = {"plateau_patience": 3, "max_hours": 2.0}
    longer = trainer(tmp_path, tokenizer, data, **settings | more)
    longer.train(resume_from_checkpoint=True)
    # Validations at 4, 8, 12 and 16: the first is the best; three without a better one.
    assert longer.lr_scheduler.finish_start == 16
    found = longer.callback_handler.callbacks
    assert [each.limit for each in found if isinstance(each, TimeLimit)] == [7200.0]


def test_a_resumed_training_has_the_time_and_scores_from_before(tmp_path, tokenizer, data):  # noqa: F811
    settings = SETTINGS | {"max_hours": 1.0, "max_steps": 8}

    def callbacks(distiller):
        kinds = FinishOnPlateau, TimeLimit
        found = distiller.callback_handler.callbacks
        return [next(each for each in found if isinstance(each, kind)) for kind in kinds]

    first = trainer(tmp_path, tokenizer, data, **settings)
    first.add_callback(Stop(5))
    with pytest.raises(KeyboardInterrupt):
        first.train()
    again = trainer(tmp_path, tokenizer, data, **settings | {"max_steps": 4})
    again.train(resume_from_checkpoint=True)  # has ended: nothing is trained
    plateau, limit = callbacks(again)
    assert plateau.least_ce == callbacks(first)[0].least_ce < float("inf")
    assert limit.seconds > 0
