"""Damage to any file of a checkpoint does not change the weights that a training ends with."""

import logging
import shutil

import pytest
import torch
from campaign import FULL
from corruption import CORRUPTIONS, corrupt
from test_trainer import data, tokenizer, trainer  # noqa: F401

FILES = [
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "config.json",
    "tokenizer.json",
    "alignment.safetensors",
    "manifest.json",
]
SETTINGS = {
    "dropout": 0.1,
    "method": "a2d",
    "max_steps": 12,
    "save_strategy": "steps",
    "save_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "gradient_accumulation_steps": 2,
    "load_best_model_at_end": True,
    "save_total_limit": 2,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tokenizer, data):  # noqa: F811
    """The weights of an undisturbed training, and the folder of a killed training."""
    folder = tmp_path_factory.mktemp("runs")
    undisturbed = trainer(folder / "a", tokenizer, data, **SETTINGS)
    undisturbed.train()
    killed = trainer(folder / "b", tokenizer, data, **SETTINGS)
    steps = killed.training_step

    def step(*args, **kwargs):
        if killed.state.global_step == 10:
            raise KeyboardInterrupt
        return steps(*args, **kwargs)

    killed.training_step = step
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    names = sorted(path.name for path in (folder / "b").glob("checkpoint-*"))
    assert names == ["checkpoint-4", "checkpoint-8"]
    assert {path.name for path in (folder / "b/checkpoint-8").iterdir()} >= {*FILES}
    return weights(undisturbed), folder / "b"


def weights(trained):
    return {name: p.detach().clone() for name, p in trained.model.named_parameters()}


CASES = [(step, name, kind) for step in (8, 4) for name in FILES for kind in CORRUPTIONS]


@pytest.mark.parametrize(
    ("step", "name", "kind"),
    CASES if FULL else CASES[::7],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_is_noticed(step, name, kind, runs, tmp_path, tokenizer, data, rng, ledger, caplog):  # noqa: F811
    expected, folder = runs
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / f"run/checkpoint-{step}/{name}"
    corrupt(path, kind, rng)
    with caplog.at_level(logging.INFO):
        resumed = trainer(tmp_path / "run", tokenizer, data, **SETTINGS)
        resumed.train(resume_from_checkpoint=True)
    equal = all(torch.equal(p, expected[key]) for key, p in resumed.model.named_parameters())
    warned = any(path.parent.name in record.getMessage() for record in caplog.records)
    ledger.record(
        "damaged checkpoints",
        "done again" if equal and (warned or step == 4) else "results changed",
        f"{kind.__name__} of {name} in checkpoint-{step}",
    )
    assert equal
