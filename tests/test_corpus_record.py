"""Record of a run's corpus: it avoids a second reading; outdated records are ignored."""

import time

import pytest
from datasets import Dataset
from pretrained import PAIRS
from rich.console import Console

from a2d.errors import UserError
from a2d.runs import execution
from a2d.runs import run as runs
from a2d.runs.corpus_record import CORPUS_RECORD, hash_of_inputs, load_record
from a2d.runs.recipe import load_recipe

PARTS = {"train": PAIRS[:60], "valid": PAIRS[60:70], "test": PAIRS[70:80]}
SHAPE = "{encoder_layers: 1, decoder_layers: 1, heads: 2, width: 16, feed_forward: 16}"
READING = "Reading the corpus…"


class Setup:
    """A small corpus and its dry runs."""

    def __init__(self, folder):
        self.folder, self.readings = folder, 0
        for name, part in PARTS.items():
            text = "".join(f"{pair.source}\t{pair.target}\n" for pair in part)
            (folder / f"{name}.tsv").write_text(text, "utf-8")
        noise = f"{PAIRS[0].source}\t{PAIRS[0].target}\nno pair\n"  # a duplicate, a malformed line
        with (folder / "train.tsv").open("a", encoding="utf-8") as file:
            file.write(noise)
        self.record = folder / "run" / CORPUS_RECORD

    def recipe(self, *overrides):
        return load_recipe(
            "methods",
            [
                *(f"corpus.{part}={self.folder / part}.tsv" for part in PARTS),
                "vocabulary.size=400",
                f"teacher.shape={SHAPE}",
                f"students=[{SHAPE}]",
                "methods=[baseline]",
                "compute.parallel=1",
                *overrides,
            ],
        )

    def run(self, *overrides):
        """Prepare a run; returns its output."""
        console = Console(record=True, width=100)
        execution.carry_out(self.recipe(*overrides), self.folder / "run", console, dry=True)
        return console.export_text()


@pytest.fixture
def setup(tmp_path, monkeypatch):
    setup, read = Setup(tmp_path), runs.read_splits

    def count_and_read(recipe):
        setup.readings += 1
        return read(recipe)

    monkeypatch.setattr(runs, "read_splits", count_and_read)
    return setup


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([], "train: 1 of 62 entries are malformed"),
        (
            ["corpus.monolingual={}/alone.txt", "methods=[seqkd]"],
            "Monolingual text: 1 sentences (2 read, dropped: 1 duplicates).",
        ),
        (
            ["teacher={{translations: {}/train.tsv}}", "methods=[seqkd]"],
            "teacher.translations lacks 10 of 10 sources of corpus.valid: ",
        ),
    ],
)
def test_the_corpus_is_read_once_and_shown_each_time(setup, overrides, line):
    (setup.folder / "alone.txt").write_text("Nur dieser Satz.\n" * 2, "utf-8")
    overrides = [setting.format(setup.folder) for setting in overrides]
    first = setup.run(*overrides)
    assert setup.readings == 1
    assert f"{READING}\n" in first
    assert "Corpus: 60 training pairs (61 read, dropped: 1 duplicates)" in first
    assert line in " ".join(first.split())
    second = setup.run(*overrides)
    assert setup.readings == 1
    assert second == first.replace(f"{READING}\n", "")


class TestReadsAgain:
    def test_a_changed_file_of_the_same_length(self, setup):
        setup.run()
        path = setup.folder / "valid.tsv"
        text = path.read_text("utf-8")
        path.write_text(text.replace("a", "b", 1), "utf-8")
        assert len(path.read_text("utf-8")) == len(text)
        with pytest.raises(UserError, match="corpus belongs to another run"):
            setup.run()
        assert setup.readings == 2

    def test_with_other_rules_of_cleaning(self, setup):
        setup.run()
        with pytest.raises(UserError, match="corpus belongs to another run"):
            setup.run("corpus.cleaning.max_words=4")
        assert setup.readings == 2
        setup.run("corpus.cleaning.max_words=249")  # drops no more pairs
        assert setup.readings == 3

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda content: b"",
            lambda content: b"null",
            lambda content: b"[1]",
            lambda content: b'{"text": 1}',
            lambda content: content[: len(content) // 2],
            lambda content: content[:40] + b"\xff" + content[41:],
            lambda content: content.replace(b'"train": 60', b'"train": 61'),
            lambda content: content.replace(b'"text": "', b'"text": "0', 1),
        ],
    )
    def test_with_a_damaged_record(self, setup, spoil):
        setup.run()
        content = setup.record.read_bytes()
        damaged = spoil(content)
        assert damaged != content
        setup.record.write_bytes(damaged)
        assert "Corpus: 60 training pairs" in setup.run()
        assert setup.readings == 2
        assert setup.record.read_bytes() == content

    def test_without_a_record(self, setup):
        setup.run()
        content = setup.record.read_bytes()
        setup.record.unlink()
        setup.run()
        assert setup.readings == 2
        assert setup.record.read_bytes() == content

    def test_for_a_damaged_stage(self, setup):
        setup.run()
        file = setup.folder / "run/corpus/valid.source.txt"
        content = file.read_bytes()
        file.write_bytes(content[:-2])
        assert "is done again" in setup.run().replace("\n", " ")
        assert setup.readings == 2
        assert file.read_bytes() == content


class TestInputs:
    """Hash of everything that reading the corpus depends on."""

    def test_depend_on_files_in_folders(self, setup):
        data, hashes = setup.folder / "data", []
        for target in ("jo", "jo", "ně"):
            rows = {"translation": [{"de": "ja", "dsb": target}]}
            Dataset.from_dict(rows).save_to_disk(str(data))
            hashes.append(hash_of_inputs(setup.recipe(f"corpus.train={data}")))
        assert None not in hashes
        assert hashes[1] != hashes[2]

    @pytest.mark.parametrize(
        "spec",
        [
            "missing.tsv",
            "'-'",
            "sacrebleu:wmt14",
            "{dataset: someone/corpus}",
            "~no-such-user/a.tsv",
            "a" * 300 + ".tsv",
            "'a\\0.tsv'",
            "/proc",
            "/dev/zero",
        ],
    )
    def test_are_unknown_for_other_sources_than_files(self, setup, spec):
        start = time.monotonic()
        assert hash_of_inputs(setup.recipe(f"corpus.train={spec}")) is None
        assert time.monotonic() < start + 5
        assert load_record(setup.folder, None) is None

    def test_are_unknown_for_unreadable_files(self, setup, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("a2d.runs.corpus_record.digest", refuse)
        assert hash_of_inputs(setup.recipe()) is None

    @pytest.mark.parametrize("change", ["methods=[seqkd]", "evaluation.split=valid"])
    def test_depend_on_methods_and_evaluated_set_with_a_teachers_translations(self, setup, change):
        teacher = f"teacher={{translations: {setup.folder / 'train.tsv'}}}"
        recipes = [[teacher], [teacher, change], [], [change]]
        before, after, *without = (
            hash_of_inputs(setup.recipe(*overrides)) for overrides in recipes
        )
        assert before != after
        assert without[0] == without[1] != before
