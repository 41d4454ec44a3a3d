"""Diverging trainings end at once, in one sentence, and keep intact checkpoints."""

import pytest
import torch
from test_trainer import data, tokenizer, trainer  # noqa: F401
from transformers import TrainerCallback

from a2d import UserError
from a2d.models.loading import load_model
from a2d.training.finiteness import FinitenessWatch


@pytest.mark.parametrize(
    ("settings", "part"),
    [({"learning_rate": 1e6}, "learning_rate (it was 1e+06)"), ({"beta": 1e38}, "a lower beta")],
    ids=str,
)
def test_a_training_that_diverges_ends(settings, part, tmp_path, tokenizer, data):  # noqa: F811
    distiller = trainer(tmp_path, tokenizer, data, max_steps=500, max_grad_norm=0.0, **settings)
    with pytest.raises(UserError, match="the training diverged") as caught:
        distiller.train()
    assert part in str(caught.value)
    assert distiller.state.global_step < 100


class Spoil(TrainerCallback):
    """Callback that writes NaN into a weight after an update."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                next(model.student.parameters()).view(-1)[-5:] = torch.nan


@pytest.mark.parametrize("at", [6, 5])
def test_training_resumes_from_the_last_finite_checkpoint(at, tmp_path, tokenizer, data):  # noqa: F811
    distiller = trainer(
        tmp_path, tokenizer, data, max_steps=12, save_strategy="steps", save_steps=3
    )
    distiller.add_callback(Spoil(at))
    message = (
        "after update 6 the weights of .* are not finite"
        if at == 6
        else "the loss of update 6 is not finite"
    )
    with pytest.raises(UserError, match=message):
        distiller.train()
    checkpoints = [folder.name for folder in tmp_path.glob("checkpoint-*") if any(folder.iterdir())]
    assert checkpoints == ["checkpoint-3"]
    load_model(tmp_path / "checkpoint-3")
    again = trainer(tmp_path, tokenizer, data, max_steps=12, save_strategy="steps", save_steps=3)
    again.train(resume_from_checkpoint=True)
    undisturbed = trainer(tmp_path / "other", tokenizer, data, max_steps=12)
    undisturbed.train()
    resumed_weights, expected = again.student.state_dict(), undisturbed.student.state_dict()
    assert all(resumed_weights[name].equal(weight) for name, weight in expected.items())


def test_single_overflows_of_fp16_are_accepted(tmp_path, tokenizer, data):  # noqa: F811
    distiller = trainer(tmp_path, tokenizer, data, logging_steps=100)
    watch, infinite = distiller._finiteness, torch.tensor(torch.inf)
    sums = torch.ones(5)
    args = distiller.args
    args.fp16 = True
    control = distiller.control
    for step, loss in enumerate([torch.ones(()), infinite, infinite], start=1):
        watch.record(step, sums, loss)
    watch.on_step_end(args, distiller.state, control)
    for step in (4, 5):
        watch.record(step, sums, infinite)
    with pytest.raises(UserError, match="the loss of update 4 is not finite"):
        watch.on_step_end(args, distiller.state, control)


def test_a_model_with_nan_is_not_saved(tmp_path, tokenizer, data):  # noqa: F811
    distiller = trainer(tmp_path, tokenizer, data)
    with torch.no_grad():
        next(distiller.student.parameters())[0] = torch.nan
    with pytest.raises(UserError, match="nothing is saved"):
        distiller.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


def test_a_gradient_that_is_not_finite_ends_the_training(tmp_path, tokenizer, data):  # noqa: F811
    distiller = trainer(tmp_path, tokenizer, data, max_steps=12)
    weight = next(distiller.student.parameters())
    weight.register_hook(
        lambda gradient: gradient * (torch.nan if distiller.state.global_step == 2 else 1)
    )
    with pytest.raises(UserError, match="loss of update 3 is finite, but its gradient is not"):
        distiller.train()
    assert distiller.state.global_step == 3


def test_a_gradient_is_named_before_the_losses_that_it_spoils(tmp_path, tokenizer, data):  # noqa: F811
    distiller = trainer(tmp_path, tokenizer, data)
    watch = FinitenessWatch(["ce"])
    for step, loss, norm in [(1, 1.0, 1.0), (2, 1.0, torch.nan), (3, torch.nan, torch.nan)]:
        watch.record(step, torch.tensor([loss]), torch.tensor(loss))
        watch.record_gradient(step, norm)
    with pytest.raises(UserError, match="the loss of update 2 is finite, but its gradient is not"):
        watch.on_step_end(distiller.args, distiller.state, distiller.control)
