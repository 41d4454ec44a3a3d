"""Hostile recipes, overrides and paths are refused in one sentence, within seconds."""

import os
from pathlib import Path

import pytest
import yaml
from campaign import FULL
from hostile import outcome_of
from runs import run_of

from a2d import recipes
from a2d.runs.overrides import assign
from a2d.runs.recipe import Recipe, load_recipe, make_cleaning, make_recipe
from a2d.runs.splits import Splits
from a2d.runs.stages import all_stages
from a2d.runs.stages.students import space_needed
from a2d.text.cleaning import CleaningReport
from a2d.text.pairs import Pair

KIND, PATHS = "hostile recipes", "hostile paths"
DEMO = (Path(recipes.__file__).parent / "methods.yaml").read_text("utf-8")
SPLITS = Splits([Pair("a", "b")], [], [], CleaningReport(1, {}, 1))
FUZZED = 150 if FULL else 25


def use(recipe, folder):
    """Use a recipe as a run does before it reads the corpus."""
    assert yaml.safe_dump(recipe.model_dump(), sort_keys=False)
    run = run_of(recipe, Path(folder), SPLITS)
    assert all_stages(run)
    if recipe.teacher.path is None:
        space_needed(run)


def billion_laughs(levels=9, width=10):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, levels):
        items = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{items}]")
    return "\n".join(lines)


def merged_billion_laughs():
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 9)]
    return "\n".join(lines)


TEN = list(range(1, 11))
EIGHT_LISTS = {
    name: [n / 10 for n in TEN]
    for name in ("alpha", "beta", "decay", "temperature", "alignment_learning_rate")
} | {"formula": ["x"] * 10, "groups": ["y"] * 10, "student_start": ["z"] * 10}

FILES = {
    "empty": "",
    "comments": "# nothing\n" * 3,
    "binary": bytes(range(256)) * 20,
    "not UTF-8": "name: ü".encode("latin-1"),
    "UTF-16": "name: x".encode("utf-16"),
    "a list": "- a\n",
    "a number": "5",
    "unhashable key": "? [a]: 1\n",
    "unhashable key of a key": "? {[a]: 1}: 1\n",
    "key of no text": "1: 2\nnull: 3\n",
    "a word for an integer": "name: !!int abc\n",
    "no time": "name: !!timestamp junk\n",
    "impossible time": "name: 2024-99-99\n",
    "binary tag": "name: !!binary '***'\n",
    "set": "name: !!set {a, b}\n",
    "pairs": "name: !!pairs [a: 1]\n",
    "code": "name: !!python/object/apply:os.system [ls]\n",
    "5,000 digits": f"seeds: [{'9' * 5000}]\n",
    "hexadecimal digits": f"seeds: [0x{'f' * 100_000}]\n",
    "base 60": f"seeds: [{'1:' * 100_000}1]\n",
    "empty digits": "seeds: [!!int '', !!int '-', !!float ' ', !!int '0x']\n",
    "brackets": "[" * 10_000,
    "braces": "{a: " * 10_000,
    "dashes": "- " * 10_000,
    "questions": "? " * 10_000,
    "anchors": "&a " * 10_000,
    "closed brackets": "seeds: " + "[" * 500 + "]" * 500,
    "billion laughs": billion_laughs(),
    "merged billion laughs": merged_billion_laughs(),
    "billion laughs in the seeds": f"extends: methods\n{billion_laughs(4)}\n",
    "itself": "a: &a [*a]\n",
    "itself as a mapping": "&a {extends: methods, seeds: *a}\n",
    "merge of a number": "<<: 5\n",
    "escape of no character": 'name: "\\U7fffffff"\n',
    "half a character": 'extends: methods\nname: "a\\ud800"\n',
    "NUL in a path": 'extends: methods\ncorpus: {train: "a\\0b"}\n',
    "NUL": b"name: \0\n",
    "long key": "k" * 500_000 + ": 1\n",
    "long name": f"extends: methods\nname: {'n' * 500_000}\n",
    "many values": f"seeds: [{'1,' * 400_000}1]\n",
    "many seeds": f"extends: methods\nseeds: [{','.join(map(str, range(3000)))}]\n",
    "many students": "extends: methods\nstudents:\n" + "- {}\n" * 3000,
    "many methods": "extends: methods\nmethods:\n" + "- kd\n" * 3000,
    "many files": f"extends: methods\ncorpus: {{train: [{','.join(['a.tsv'] * 90_000)}]}}\n",
    "many combinations": yaml.safe_dump(
        {"extends": "methods", "methods": [{"method": "a2d"} | EIGHT_LISTS]}
    ),
    "extends a list": "extends: [methods]\n",
    "extends itself": "extends: mine.yaml\n",
    "extends itself, relatively": "extends: ./mine.yaml\n",
    "extends itself, by a link": "extends: link.yaml\n",
    "extends itself, from above": "extends: ../{folder}/mine.yaml\n",
    "extends itself, absolutely": "extends: {path}\n",
    "extends a folder": "extends: .\n",
    "extends without end": "extends: base0.yaml\n",
    "extends a name that is too long": f"extends: {'x' * 300}\n",
    "a megabyte": "# " + "x" * 1_100_000,
}

OVERRIDES = [
    "=1", "a..b=1", ".=1", "..=", "methods[99999999].x=1", "methods.99999999.x=1", "methods.٣=1",
    "methods.²=1", "seeds.0.0=1", "name=", "name=\n", "name=\x1b[31m", "name='a\nb'", "name=.",
    "name=con.", f"name={'x' * 100_000}", f"{'x.' * 100_000}y=1", f"seeds={'[' * 10_000}",
    f"seeds=[{'9' * 5000}]", "training.num_train_epochs=1e308",
    "training.num_train_epochs=1.0e+308",
    "training.num_train_epochs=.nan", "training.num_train_epochs=-.inf",
    "training.num_train_epochs='1e400'",
    "training.num_train_epochs=1.0e-320", "training.max_steps=99999999999999999999",
    "training.evaluate_every=1.0e-300", "training.learning_rate=1.0e+300",
    "training.warmup_steps=.inf", "training.max_hours='inf'", "training.max_tokens=1e30",
    "training.gradient_accumulation_steps=4294967297", "compute.parallel=1000000000",
    "compute.parallel=1e9", "evaluation.beams=1000000000", "evaluation.samples=99999999999",
    "vocabulary.size=1000000000", "vocabulary.size=4294967296",
    "teacher.shape.encoder_layers=1000000000", "teacher.shape.width=4294967296",
    "students.0.heads=4294967296", "corpus.train={path: x.csv, min_score: .nan, score: 1}",
    "corpus.train={? [a]: 1}", "corpus={}", "corpus.train=!!int abc",
    "corpus.limit=!!timestamp junk", "distillation.temperature=.inf", "methods=&a [*a]",
    "students=*a", "extends=methods", "extends.x=1", "teacher=[]",
    "teacher.training.num_train_epochs=true",
    "teacher.training=null", "seeds=[0, 00, 0x0]", "seeds=[true]", "methods=[[kd]]",
    "methods=[null]", "methods=[{}]", "methods=[{name: x}]", "methods=[{method: [kd, [a2d]]}]",
    "methods=[{method: {}}]", "methods=[{method: kd, alpha: [0.1, {a: b}]}]",
    "methods=[{method: kd, name: [a, b]}]", "methods=[{method: kd, alpha: [[[]]]}]",
    f"methods=[{{method: kd, alpha: {[n / 9999 for n in range(9999)]}}}]",
    f"seeds={list(range(2000))}", "students.0={}", "students=[{}, {}]", "distillation=5", "=", "",
    "x",
]  # fmt: skip


SLOW = ("many values", "many files")


@pytest.mark.parametrize("name", [name for name in FILES if FULL or name not in SLOW])
def test_files(name, tmp_path, ledger):
    path, text = tmp_path / "mine.yaml", FILES[name]
    if isinstance(text, str):
        text = text.replace("{folder}", tmp_path.name).replace("{path}", str(path)).encode()
    path.write_bytes(text)
    (tmp_path / "link.yaml").symlink_to(path)
    if name == "extends without end":
        for number in range(100):
            (tmp_path / f"base{number}.yaml").write_text(f"extends: base{number + 1}.yaml\n")
    outcome, message = outcome_of(lambda: use(load_recipe(str(path)), tmp_path))
    ledger.record(KIND, outcome, f"{name}: {message}")
    assert outcome == "refused in a sentence"


def test_overrides(tmp_path, ledger):
    for text in OVERRIDES:
        outcome, message = outcome_of(lambda: use(load_recipe("methods", [text]), tmp_path))  # noqa: B023
        ledger.record(KIND, outcome, f"{text[:200]!r}: {message}")
        outcome, message = outcome_of(lambda: make_cleaning([f"corpus.cleaning.{text}"]))  # noqa: B023
        ledger.record(KIND, outcome, f"cleaning: {text[:200]!r}: {message}")


def test_what_is_no_file(tmp_path, ledger):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    with (tmp_path / "vast.yaml").open("wb") as file:
        file.truncate(2**30)
    paths = [tmp_path, "/dev/zero", "/dev/stdin", "", ".", "/", "\0", "a\nb", "\udcff", "x" * 300]
    paths += [
        "x/" * 3000,
        "~nosuchuser/x.yaml",
        *(tmp_path / name for name in os.listdir(tmp_path)),
    ]
    for path in map(str, paths):
        outcome, message = outcome_of(lambda: load_recipe(path))  # noqa: B023
        ledger.record(PATHS, outcome, f"{path[:200]!r}: {message}")
        assert outcome == "refused in a sentence"


class TestFuzzed:
    """A packaged recipe with random values, bytes and overrides."""

    WORDS = (
        "", "a", "kd", "a2d", "seqkd+a2d", "baseline", "methods", "teacher", "random", "linear",
        "auto", "\0", "\x1b[1m", "\ud800", "é\n", "x" * 300, "../x", "~", "1e999", "nan", "-1",
        "0x10", "<<", "builtin:x",
    )  # fmt: skip
    NUMBERS = (
        0, 1, -1, 2, 3, 8, 0.5, 1e308, 1e-320, float("nan"), float("inf"), 2**31, 2**32, 2**63,
        10**30, True, None,
    )  # fmt: skip

    def value(self, rng, deep=0):
        kind = rng.random()
        if deep > 3 or kind < 0.35:
            return rng.choice(self.NUMBERS)
        if kind < 0.6:
            return rng.choice(self.WORDS)
        if kind < 0.8:
            return [self.value(rng, deep + 1) for _ in range(rng.randrange(4))]
        keys = (
            *self.WORDS,
            "path",
            "shape",
            "method",
            "name",
            "training",
            "source",
            "target",
            "score",
        )
        return {rng.choice(keys): self.value(rng, deep + 1) for _ in range(rng.randrange(4))}

    def disturb(self, rng, raw):
        """Put a random value at a random place."""
        container = raw
        while True:
            keys = list(container) if isinstance(container, dict) else list(range(len(container)))
            if not keys:
                return
            key = rng.choice(keys)
            if isinstance(container[key], dict | list) and rng.random() < 0.75:
                container = container[key]
                continue
            container[key] = self.value(rng)
            if rng.random() < 0.1 and isinstance(container, dict):
                container[rng.choice(self.WORDS)] = self.value(rng)
            return

    def test_structures(self, rng, tmp_path, ledger):
        for number in range(FUZZED):
            raw = yaml.safe_load(DEMO)
            for _ in range(rng.randrange(1, 4)):
                self.disturb(rng, raw)
            path = tmp_path / "mine.yaml"
            if number % 2:  # as a file, which is read first
                text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=False)
                path.write_text(text, "utf-8")
                outcome, message = outcome_of(lambda: use(load_recipe(str(path)), tmp_path))  # noqa: B023
            else:  # as `a2d distill` makes them
                outcome, message = outcome_of(lambda: use(make_recipe(raw, [], "x"), tmp_path))  # noqa: B023
            ledger.record(KIND, outcome, f"{raw}: {message}")

    def test_bytes(self, rng, tmp_path, ledger):
        path = tmp_path / "mine.yaml"
        for _ in range(FUZZED):
            text = bytearray(DEMO.encode())
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(text))
                text[at : at + rng.randrange(3)] = rng.choice(
                    (
                        b"[",
                        b"{",
                        b"&a ",
                        b"*a ",
                        b"? ",
                        b": ",
                        b"\n",
                        b"\t",
                        b"'",
                        b'"',
                        b"!!int ",
                        b"\xff",
                        b"- ",
                    )
                )
            path.write_bytes(text)
            outcome, message = outcome_of(lambda: use(load_recipe(str(path)), tmp_path))
            ledger.record(KIND, outcome, f"{bytes(text)}: {message}")

    def test_overrides(self, rng, tmp_path, ledger):
        keys = (
            "methods",
            "0",
            "1",
            "training",
            "num_train_epochs",
            "teacher",
            "shape",
            "x",
            "",
            "-1",
            "students",
            "seeds",
        )
        for _ in range(FUZZED):
            key = ".".join(rng.choices(keys, k=rng.randrange(1, 4)))
            text = f"{key}={yaml.safe_dump(self.value(rng), default_flow_style=True).strip()}"
            outcome, message = outcome_of(lambda: use(load_recipe("methods", [text]), tmp_path))  # noqa: B023
            ledger.record(KIND, outcome, f"{text}: {message}")
            outcome, message = outcome_of(lambda: assign({}, text, Recipe))  # noqa: B023
            ledger.record(KIND, outcome, f"{text}: {message}")
