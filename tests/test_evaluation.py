"""Scores equal sacreBLEU's command line on the same files."""

import json
import random
import subprocess
import sys

import pytest
import sacrebleu
from sacrebleu.metrics import BLEU

from a2d.text.corpus import read_corpus
from a2d.text.evaluation import bleu_tokenizer, estimate, score

REFERENCES = [pair.target for pair in read_corpus("builtin:de-dsb/test")[:200]]


def damaged(references):
    """Imitate translations: words lost, doubled and swapped, odd spacing, an empty line."""
    rng = random.Random(0)
    lines = []
    for line in references:
        words = [w for w in line.split() for _ in range(rng.choice([0, 1, 1, 1, 1, 2]))]
        if rng.random() < 0.3:
            words.reverse()
        lines.append("  ".join(words) + rng.choice(["", " ", " ."]))
    return [*lines[:-1], ""]


def test_equals_the_command_line(tmp_path):
    hypotheses = damaged(REFERENCES)
    for name, lines in (("hypotheses", hypotheses), ("references", REFERENCES)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    command = [sys.executable, "-m", "sacrebleu", tmp_path / "references", "-i"]
    options = [tmp_path / "hypotheses", "-m", "bleu", "chrf", "-f", "json", "-w", "12"]
    output = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
    bleu, chrf = json.loads(output)

    scores = score(hypotheses, REFERENCES)
    assert 5 < scores.bleu < 95
    assert scores.bleu == pytest.approx(bleu["score"], abs=1e-9)
    assert scores.chrf == pytest.approx(chrf["score"], abs=1e-9)
    assert scores.signatures == {"bleu": bleu["signature"], "chrf": chrf["signature"]}


def test_signatures_describe_the_scoring():
    signatures = score(REFERENCES, REFERENCES).signatures
    bleu, chrf = (set(signatures[name].split("|")) for name in ("bleu", "chrf"))
    version = f"version:{sacrebleu.__version__}"
    assert {"nrefs:1", "case:mixed", "tok:13a", "smooth:exp", version} <= bleu
    assert {"nrefs:1", "case:mixed", "nc:6", "nw:0", version} <= chrf


def test_perfect_and_hopeless():
    assert score(REFERENCES, REFERENCES)[:2] == pytest.approx((100, 100))
    assert score(["q"] * 200, REFERENCES).bleu < 1


@pytest.mark.parametrize("count", [0, 199, 201])
def test_unequal_numbers_of_lines(count):
    hypotheses = (REFERENCES * 2)[:count]
    with pytest.raises(ValueError, match=f"{count} hypotheses for 200 references"):
        score(hypotheses, REFERENCES)


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        (["请保存当前文件。", "打开 Firefox 设置"], "zh"),
        (["ファイルを保存してください。", "設定"], "char"),
        (["บันทึกไฟล์"], "char"),
        (["파일을 저장하십시오."], "13a"),
        (["Guardar o ficheiro", "文件"], "13a"),
        ([""], "13a"),
    ],
)
def test_bleu_counts_units_of_the_script(references, tokenizer):
    assert bleu_tokenizer(references) == tokenizer
    hypotheses = [text.replace("文", "本") for text in references]
    expected = BLEU(tokenize=tokenizer).corpus_score(hypotheses, [references]).score
    assert score(hypotheses, references).bleu == expected
    (estimates,) = estimate(hypotheses, {}, references, ["bleu"]).values()
    assert estimates[0].score == expected
