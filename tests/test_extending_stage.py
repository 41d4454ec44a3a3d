"""A kind of stage from outside the package, as in CONTRIBUTING.md."""

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
from pages import ROOT, blocks
from pretrained import PAIRS, released
from rich.console import Console

from a2d.errors import UserError
from a2d.files import write_text
from a2d.runs.execution import carry_out
from a2d.runs.recipe import load_recipe
from a2d.runs.run_stage import RunStage
from a2d.runs.stages import AFTER_PREPARATION, all_stages, register_stage
from a2d.runs.stages.translations import Translations

UNIT = "words"
finished_before = {}
"""Model whose words were counted → True if all stages of a2d were finished before."""


@dataclass(frozen=True)
class WordCount(RunStage):
    """Words of a model's translations."""

    translations: Translations

    @classmethod
    def of(cls, run):
        """Return a stage for every model."""
        return [
            cls(
                run.folder / "words" / stage.model.name,
                {"translations": stage.fingerprint, "unit": UNIT},
                stage,
            )
            for stage in run.all(Translations)
        ]

    def make(self, run):
        """Count the words."""
        earlier = [s for s in all_stages(run) if type(s).__module__.startswith("a2d.")]
        finished_before[self.translations.model.name] = all(stage.done for stage in earlier)
        count = sum(len(line.split()) for line in self.translations.hypotheses)
        with self.work() as folder:
            write_text(folder / "count.txt", f"{count}\n")


(GUIDE,) = [b.text for b in blocks(ROOT / "docs/extend.md") if "register_stage\n" in b.text]


@pytest.fixture(scope="module")
def registered():
    """Register two kinds of stages: the one above and the one of docs/extend.md."""
    before = list(AFTER_PREPARATION)
    register_stage(WordCount)
    guide = ModuleType("guide")
    sys.modules["guide"] = guide
    exec(GUIDE, vars(guide))
    yield
    AFTER_PREPARATION[:] = before
    del sys.modules["guide"]


@pytest.fixture(scope="module")
def finished(registered, tmp_path_factory):
    """Function that repeats a finished run; returns folder and output."""
    folder = tmp_path_factory.mktemp("run")
    released("opus", folder / "teacher")
    for name, part in {"train": PAIRS[:40], "valid": PAIRS[40:46], "test": PAIRS[46:52]}.items():
        text = "".join(f"{pair.source}\t{pair.target}\n" for pair in part)
        (folder / f"{name}.tsv").write_text(text, "utf-8")
    settings = [
        *(f"corpus.{part}={folder / part}.tsv" for part in ("train", "valid", "test")),
        f"teacher={{path: {folder / 'teacher'}}}",
        "students=[{encoder_layers: 1, decoder_layers: 1, heads: 2, width: 24, feed_forward: 40}]",
        "methods=[baseline]",
        "training={num_train_epochs: 1, max_tokens: 512, learning_rate: 0.001, warmup_steps: 0}",
        "evaluation={beams: 1, samples: 1}",
        "compute.parallel=1",
    ]
    recipe = load_recipe("methods", settings)

    def run():
        finished_before.clear()
        console = Console(record=True, width=100)
        carry_out(recipe, folder / "run", console)
        return folder / "run", console.export_text()

    run()
    run.first = dict(finished_before)
    return run


def test_is_carried_out_after_all_others_for_every_model(finished):
    folder, _ = finished()
    names = {path.name for path in (folder / "translations/test").iterdir()}
    assert len(names) == 2
    assert finished.first.keys() == names
    assert set(finished.first.values()) == {True}
    for name in names:
        text = (folder / f"translations/test/{name}/hypotheses.txt").read_text("utf-8")
        assert (folder / f"words/{name}/count.txt").read_text() == f"{len(text.split())}\n"
        assert (folder / f"count/{name}/words.txt").read_text() == f"{len(text.split())}\n"


def test_is_skipped_when_it_is_done(finished):
    finished()
    assert finished_before == {}


def test_is_done_again_when_it_is_damaged(finished):
    folder, _ = finished()
    path = folder / "words/teacher/count.txt"
    content = path.read_bytes()
    path.write_bytes(content + b"0")
    _, text = finished()
    assert "words/teacher: " in text.replace("\n", "")
    assert finished_before == {"teacher": True}
    assert path.read_bytes() == content


def test_is_refused_with_other_settings(finished, monkeypatch):
    monkeypatch.setattr("test_extending_stage.UNIT", "letters")
    with pytest.raises(UserError, match=r"another run \(unit is 'words' there, 'letters' here\)"):
        finished()


class Lazy(RunStage):
    """Its `make` fills nothing, and its `of` returns what a test sets."""

    stages = None

    @classmethod
    def of(cls, run):
        return cls.stages(run)

    def make(self, run):
        pass


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            lambda run: [Lazy(run.folder / "lazy", {})],
            r"stage Lazy \(.* did not fill .*lazy:",
        ),
        (lambda run: Lazy(run.folder / "lazy", {}), "returns Lazy.* it must return a list of Lazy"),
        (lambda run: [Lazy(run.folder / "x", {"at": run.folder})], "not serialisable as JSON"),
        (
            lambda run: [Lazy(run.folder / "corpus", {})],
            "stages Corpus and Lazy .* have the same folder",
        ),
        (
            lambda run: [Lazy(run.folder / "x", {})] * 2,
            "two stages of the kind Lazy .* the same folder",
        ),
        (lambda run: [Lazy(run.folder / "x/../corpus", {})], "stages Corpus and Lazy .* the same"),
        (lambda run: [Lazy(run.folder, {})], "stage Lazy .* folder of its own below run.folder"),
        (lambda run: [Lazy(run.folder.parent / "x", {})], "stage Lazy .* its own below run.folder"),
        (
            lambda run: [Lazy("x", {})],
            "Lazy .* has the folder 'x' .*: give a Path below run.folder",
        ),
        (lambda run: [Lazy(run.folder / "x", None)], "and the settings None: give .* a mapping"),
    ],
)
def test_that_does_not_do_its_part_is_refused(finished, monkeypatch, stages, message):
    monkeypatch.setattr(Lazy, "stages", stages)
    register_stage(Lazy)
    try:
        with pytest.raises(UserError, match=message):
            finished()
    finally:
        AFTER_PREPARATION.remove(Lazy)


class Plain:
    """A class that is no stage."""


class Unmade(RunStage):
    """A stage without `make`."""

    @classmethod
    def of(cls, run):
        return []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Plain, "not a subclass of RunStage"),
        (Unmade, "must define the methods `of` and `make`"),
        (WordCount, "is registered twice"),
    ],
)
def test_what_is_no_stage_is_refused(registered, kind, message):
    with pytest.raises(UserError, match=message):
        register_stage(kind)
