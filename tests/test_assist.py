"""`a2d assist`: more processes that translate the training source of a run."""

import os
import subprocess
import sys

import pytest
from pretrained import PAIRS, released
from rich.console import Console

from a2d import UserError
from a2d.models.decoding import translate
from a2d.runs import shards
from a2d.runs.assist import assist
from a2d.runs.lines import one_line
from a2d.runs.recipe import load_recipe
from a2d.runs.run import carry_out
from a2d.runs.stages import sequences


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Recipe, folder and expected translations of a run that was killed before translating."""
    folder = tmp_path_factory.mktemp("stopped")
    model, tokenizer = released("opus", folder / "teacher")
    for name, part in {"train": PAIRS[:40], "valid": PAIRS[40:46], "test": PAIRS[46:52]}.items():
        text = "".join(f"{pair.source}\t{pair.target}\n" for pair in part)
        (folder / f"{name}.tsv").write_text(text, "utf-8")
    settings = [
        *(f"corpus.{part}={folder / part}.tsv" for part in ("train", "valid", "test")),
        f"teacher={{path: {folder / 'teacher'}}}",
        "students=[{encoder_layers: 1, decoder_layers: 1, heads: 2, width: 24, feed_forward: 40}]",
        "methods=[seqkd]",
        "training={num_train_epochs: 1, max_tokens: 512, learning_rate: 0.001, warmup_steps: 0}",
        "evaluation={beams: 2, samples: 1}",
        "compute.parallel=1",
    ]
    recipe = load_recipe("methods", settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "translate_in_shards", interrupt)
        with pytest.raises(KeyboardInterrupt):
            carry_out(recipe, folder / "run", Console(quiet=True))
    sources = [pair.source for pair in PAIRS[:40]]
    return (
        recipe,
        folder / "run",
        [one_line(t) for t in translate(model, tokenizer, sources, beams=2)],
    )


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_processes_of_torchrun_share_the_work_of_a_run(stopped, monkeypatch):
    recipe, run, expected = stopped
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, "-m", "a2d", "assist", str(run)], check=True, env=os.environ, timeout=300
    )
    monkeypatch.setattr(shards, "n_best", interrupt)  # nothing is left to translate
    pairs_read = []
    stored = sequences.StoredPairs
    monkeypatch.setattr(
        sequences,
        "StoredPairs",
        lambda pairs: stored(pairs_read.append(pair) or pair for pair in pairs),
    )
    carry_out(recipe, run, Console(quiet=True))
    assert [pair.target for pair in pairs_read] == expected
    console = Console(record=True)
    assist(run, console)
    assert "already translated" in console.export_text()


def test_runs_that_are_not_translating_are_refused(stopped, tmp_path):
    _, run, _ = stopped
    with pytest.raises(UserError, match="holds no run"):
        assist(tmp_path, Console())
    (tmp_path / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
    with pytest.raises(UserError, match="is not translating its training source"):
        assist(tmp_path, Console())
