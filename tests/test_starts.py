"""Stage that makes the start of all students of a shape."""

import shutil

import pytest
from safetensors.torch import load_file
from test_pipeline import corpus, run  # noqa: F401

from a2d.errors import UserError
from a2d.models.loading import load_model
from a2d.runs import training

SETTINGS = [
    "methods=[kd, {method: kd, name: from, student_start: teacher}, "
    "{method: baseline, name: references, student_start: teacher}]",
    "students=[{encoder_layers: 1, decoder_layers: 1, heads: 2}, "
    "{encoder_layers: 1, decoder_layers: 1, heads: 2, width: 8, feed_forward: 16}]",
    "training.num_train_epochs=1",
    "training.learning_rate=1e-9",
]


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("starts") / "run"
    run(corpus, folder, *SETTINGS)
    return folder


def test_there_is_one_stage_for_each_shape(folder):
    names = sorted(path.name for path in (folder / "starts").iterdir())
    assert names == ["1+1x2-16-32", "1+1x2-8-16"]
    widths = [load_model(folder / "starts" / name).config.d_model for name in names]
    assert widths == [16, 8]


def test_students_start_from_it(folder):
    """The learning rate is so low that students stay at their start."""
    start = load_file(folder / "starts/1+1x2-8-16/model.safetensors")
    for method in ("from", "references"):
        trained = load_file(folder / f"models/{method}-1+1x2-8-16-seed1/model.safetensors")
        assert trained.keys() == start.keys()
        for name, weight in start.items():
            assert trained[name].allclose(weight, atol=1e-5)
    other = load_file(folder / "models/kd-1+1x2-8-16-seed1/model.safetensors")
    assert not other["model.shared.weight"].allclose(start["model.shared.weight"], atol=1e-2)


def test_a_finished_run_does_not_look_at_it(folder, corpus):  # noqa: F811
    weights = folder / "starts/1+1x2-8-16/model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1])
    assert "Warning" not in run(corpus, folder, *SETTINGS)
    assert len(list((folder / "starts").iterdir())) == 2
    weights.write_bytes(before)


def test_a_finished_run_needs_no_start(folder, corpus, monkeypatch):  # noqa: F811
    shutil.rmtree(folder / "starts")
    monkeypatch.setattr(training, "student_of", None)
    run(corpus, folder, *SETTINGS)
    assert not (folder / "starts").exists()


def test_a_lost_student_has_the_same_start_again(folder, corpus):  # noqa: F811
    model = folder / "models/from-1+1x2-8-16-seed1"
    before = (model / "model.safetensors").read_bytes()
    shutil.rmtree(model)
    run(corpus, folder, *SETTINGS)
    assert (model / "model.safetensors").read_bytes() == before
    assert [path.name for path in (folder / "starts").iterdir()] == ["1+1x2-8-16"]


def test_a_damaged_one_is_made_again(folder, corpus):  # noqa: F811
    start, model = folder / "starts/1+1x2-8-16", folder / "models/from-1+1x2-8-16-seed1"
    before = (model / "model.safetensors").read_bytes()
    (start / "model.safetensors").write_bytes(b"damaged")
    shutil.rmtree(model)
    output = "".join(run(corpus, folder, *SETTINGS).split())  # lines are broken anywhere
    assert "model.safetensorsisdamaged.Thestageisdoneagain" in output
    assert (model / "model.safetensors").read_bytes() == before
    assert load_model(start).config.d_model == 8


PLACES = [
    *("starts", "starts/1+1x2-8-16", "models", "models/teacher.partial", "translations/test"),
    *("vocabulary", "results", "plots", "tensorboard"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_in_place_of_a_folder_is_refused_at_once(place, kind, corpus, tmp_path):  # noqa: F811
    path = tmp_path / "run" / place
    path.parent.mkdir(parents=True)
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        run(corpus, tmp_path / "run", *SETTINGS)
    assert str(caught.value) == (
        f"{path} is not a folder, and the run needs one there: move it away, or choose another "
        "--output."
    )
    assert [p for p in (tmp_path / "run").rglob("*") if not p.is_dir()] == [path]
