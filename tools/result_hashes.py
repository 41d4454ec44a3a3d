"""Hash the results of tiny runs, to show that a change of the code does not change results.

    python tools/result_hashes.py before.json      # record
    python tools/result_hashes.py after.json --than before.json

The runs cover every method, every formula, every model family and `a2d distill`. Models are hashed
by their tensors, translations by their text. Compare hashes of one machine only: another CPU rounds
differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import pretrained  # type: ignore[import-not-found]

from a2d import teachers
from a2d.runs.distill import distill
from a2d.runs.execution import carry_out
from a2d.runs.recipe import load_recipe
from a2d.text.corpus import read_corpus

METHODS = """[baseline, kd, seqkd, seqkd+references, seqkd+kd, last, uniform, tinybert, minilm, ckd,
 {method: a2d, formula: [paper, geometric, official, official-mixture]},
 a2d+hidden, seqkd+a2d,
 {method: a2d, name: unlike, decay: 0.7, alignment_start: random, groups: encoder+cross,
  alpha: 0.3, temperature: 2.0},
 {method: a2d, name: same-rate, alignment_learning_rate: null},
 {method: a2d, name: copied, student_start: teacher, beta: 1.0},
 {method: a2d+hidden, name: copied-hidden, student_start: teacher}]"""

FAMILY_METHODS = """[{method: a2d+hidden, name: copied, student_start: teacher},
 {method: seqkd+a2d, name: random}, {method: minilm, name: marian, student_start: marian}]"""


def main() -> None:
    """Record the hashes; with `--than`, compare them with earlier ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--than", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        hashes = dict(_hashes(Path(folder)))
    arguments.output.write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n")
    print(f"{len(hashes)} hashes in {arguments.output}")
    if arguments.than:
        before = json.loads(arguments.than.read_text())
        changed = [k for k in sorted(before.keys() | hashes) if before.get(k) != hashes.get(k)]
        print("\n".join(changed) or "No result has changed.")
        sys.exit(bool(changed))


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    corpus = _corpus(folder)
    monolingual = folder / "monolingual.txt"
    monolingual.write_text("".join(f"{p.source}\n" for p in pretrained.PAIRS[250:300]))
    small = [
        "vocabulary.size=500",
        "teacher.shape={encoder_layers: 3, decoder_layers: 2, heads: 2, width: 16, "
        "feed_forward: 32}",
        "teacher.training={max_steps: 12}",
        "students=[{encoder_layers: 2, decoder_layers: 1, heads: 4}]",
    ]
    yield from _run(folder / "methods", [*corpus, *small, f"methods={METHODS}"])
    cached = ["teacher.cache=true", "methods=[kd, a2d, a2d+hidden, seqkd+a2d, minilm]"]
    yield from _run(folder / "cached", [*corpus, *small, *cached])
    extended = [f"corpus.monolingual={monolingual}", "sequences.n_best=2"]
    alone = "{method: seqkd, name: references-alone, monolingual: false}"
    extended += [f"methods=[seqkd, seqkd+references, {alone}]", "training.plateau_patience=4"]
    yield from _run(folder / "monolingual", [*corpus, *small, *extended])
    for name in pretrained.FAMILIES:
        released = folder / "released" / name
        pretrained.released(name, released)
        teacher = f"teacher={{path: {released}, trim: {str(name in ('opus', 't5', 'nllb')).lower()}"
        if name in pretrained.LANGUAGES:
            teacher += ", languages: [{}, {}]".format(*pretrained.LANGUAGES[name])
        if name == "t5":
            teacher += ", source_prefix: 'translate German to Czech: '"
        sizes = "{encoder_layers: 2, decoder_layers: 1, heads: 2, width: 24, feed_forward: 40}"
        settings = [teacher + "}", f"students=[{sizes}]", f"methods={FAMILY_METHODS}"]
        yield from _run(folder / name, [*corpus, *settings])
    yield from _distilled(folder / "student")


def _corpus(folder: Path) -> list[str]:
    pairs = [p for p in read_corpus("builtin:de-dsb/train") if 10 < len(p.source) < 50][:160]
    overrides = ["corpus.cleaning.language=false", "evaluation.beams=2", "training.max_steps=8"]
    overrides += ["training.max_tokens=256", "training.evaluate_every=2", "training.bf16=false"]
    overrides += ["sequences.engine=transformers"]
    for name, part in {"train": pairs[:120], "valid": pairs[120:135], "test": pairs[135:]}.items():
        path = folder / f"{name}.tsv"
        path.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in part))
        overrides.append(f"corpus.{name}={path}")
    return overrides


def _run(folder: Path, overrides: list[str]) -> Iterator[tuple[str, str]]:
    print(folder.name, flush=True)
    with redirect_stdout(StringIO()) as output:
        carry_out(load_recipe("methods", overrides), folder, Console(file=output))
    yield from _of_folder(folder)


def _distilled(folder: Path) -> Iterator[tuple[str, str]]:
    print("distill", flush=True)
    with redirect_stdout(StringIO()) as output:
        distill(
            teachers.model_path("builtin:en-pt"),
            ["builtin:en-pt/memory"],
            ("en", "pt"),
            folder,
            Console(file=output),
            student="2x1",
            overrides=["training.max_steps=20", "training.bf16=false", "corpus.limit=1500"],
        )
    yield from _of_folder(folder)
    yield from _of_folder(folder.with_name(folder.name + ".run"))


def _of_folder(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = f"{folder.name}/{path.relative_to(folder)}"
        if path.suffix == ".safetensors":
            digest = hashlib.sha256()
            for _, tensor in sorted(load_file(path).items()):  # names and shapes may change
                digest.update(tensor.contiguous().view(-1).numpy().tobytes())
            yield name, digest.hexdigest()[:16]
        elif path.parent.parent.name == "translations" and path.suffix == ".txt":
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
