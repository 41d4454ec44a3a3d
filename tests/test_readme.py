"""README's first distillation, run as it is printed; a shorter training unless SUITE is full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks

from a2d import UserError, teachers
from a2d.models.decoding import translate
from a2d.models.loading import count_parameters, load_model
from a2d.models.tokenizer import load_tokenizer
from a2d.text.corpus import read_corpus
from a2d.text.evaluation import score

COMPLETE = os.environ.get("SUITE") == "full"


def shell(command, folder):
    """Run a code block in a shell, without a network.

    It runs on one core: a second thread is many times slower beside other tests.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {"PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    environment = os.environ | settings
    return subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def first_pairs(name, folder):
    """Write some pairs of a packaged held-out set to a file."""
    path = folder / f"{name}.tsv"
    pairs = read_corpus(f"builtin:en-pt/{name}")[:100]
    path.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in pairs), "utf-8")
    return path.name


@pytest.mark.slow
def test_the_first_distillation(tmp_path):
    texts = [block.text for block in blocks(ROOT / "README.md")]
    (command,) = (text for text in texts if "a2d distill --teacher builtin:en-pt" in text)
    if not COMPLETE:
        assert "--epochs 3 " in command
        held_out = " ".join(f"--{name} {first_pairs(name, tmp_path)}" for name in ("valid", "test"))
        shorter = f"--epochs 1 corpus.limit=1000 evaluation.beams=1 {held_out} "
        command = command.replace("--epochs 3 ", shorter)
    process = shell(command, tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    translation = process.stdout.rstrip().rpartition("\n")[2]
    assert "navegador" in translation
    verdict = json.loads((tmp_path / "small-en-pt.run/verdict.json").read_text())
    assert verdict["student"][1] > 0.75 * verdict["yardstick"]["teacher"][1]
    assert max(map(len, process.stdout.splitlines())) <= 80


class TestPackagedTeacher:
    def test_is_small_and_has_its_papers(self):
        assert teachers.names() == ["en-pt"]
        folder = Path(teachers.model_path("builtin:en-pt"))
        assert (folder / "model.safetensors").stat().st_size <= 8e6
        assert "Mozilla Public License" in (folder / "LICENSE").read_text()
        assert "MPL-2.0" in (folder / "README.md").read_text()
        assert count_parameters(load_model("builtin:en-pt")) == pytest.approx(3.6e6, rel=0.05)

    def test_translates_what_it_has_never_seen(self):
        pairs = read_corpus("builtin:en-pt/test")[::50]
        model, tokenizer = load_model("builtin:en-pt"), load_tokenizer("builtin:en-pt")
        hypotheses = translate(model, tokenizer, [pair.source for pair in pairs], beams=1)
        assert score(hypotheses, [pair.target for pair in pairs]).bleu > 30

    def test_unknown_names_are_refused(self):
        with pytest.raises(UserError, match=r"no packaged teacher 'en-pr'.*'en-pt'"):
            load_model("builtin:en-pr")
