"""A cached teacher says what the teacher does, but for float16 and the unlikeliest tokens."""

import pytest
import torch
from toys import assert_close, batch, dataset, marian

from a2d import UserError, teacher_cache
from a2d.attention import GROUPS, Geometry, enable_capture
from a2d.distillation import IGNORED, Distillation, Objective, run
from a2d.teacher_cache import TeacherCache, build

SOURCES, TARGETS = [4, 6, 2, 6, 1], [5, 2, 4, 6, 3]


def corpus():
    return dataset(batch(SOURCES, TARGETS))


def teacher(**settings):
    model = marian(3, 2, 4, 3, seed=1, **settings)
    enable_capture(model)
    return model


def built(folder, model):
    folder.mkdir(exist_ok=True)
    done = []
    build(folder, model, corpus(), 12, done.append)
    assert done[-1] == len(SOURCES)
    return TeacherCache(folder, corpus(), Geometry.of(model.config))


def padded(rows):
    """The sentences `rows` of the corpus as a batch, padded to the longest of them."""
    inputs = batch(SOURCES, TARGETS)
    widths = {
        "input_ids": max(SOURCES[r] for r in rows),
        "attention_mask": max(SOURCES[r] for r in rows),
        "labels": max(TARGETS[r] for r in rows),
    }
    return {name: inputs[name][rows, :width] for name, width in widths.items()}


@pytest.mark.parametrize("method", ["kd", "a2d", "uniform", "ckd"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3], [4, 2]])
def test_terms_and_gradients_equal_the_live_teachers(tmp_path, method, rows):
    model = teacher()  # its 13 tokens all fit
    cached = built(tmp_path / "cache", model).signals(rows)
    student = marian(2, 1, 2, 3)
    enable_capture(student)
    torch.manual_seed(2)
    module = Distillation(student, Objective(method, "paper", 0.5, 2.0, 0.1), model.config)
    with torch.no_grad():
        live = run(model, padded(rows), module.transfer)
    found = []
    for signals in (live, cached):
        module.zero_grad()
        terms = module(**padded(rows), teacher=signals)
        sum(terms[name] for name in ("tokens", *GROUPS)).backward()
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        found.append((torch.stack(list(terms.values())), torch.cat(gradients)))
    assert_close(found[1][0], found[0][0], 1e-3)
    assert_close(found[1][1], found[0][1], 1e-3)


def test_a_large_vocabulary_keeps_its_likeliest_tokens(tmp_path):
    model = teacher(vocabulary=200)
    cached = built(tmp_path / "cache", model).signals([0, 1])
    with torch.no_grad():
        live = run(model, padded([0, 1]), None).tokens.logits.softmax(-1)
    assert cached.tokens.ids.shape[-1] == teacher_cache.TOP
    kept = cached.tokens.log_probabilities.exp()
    valid = padded([0, 1])["labels"] != IGNORED
    assert_close(kept[valid], live.sort(descending=True).values[valid][:, : kept.shape[-1]], 2e-3)
    assert_close(kept[valid], live.gather(-1, cached.tokens.ids)[valid], 2e-3)


def test_another_corpus_is_refused(tmp_path):
    built(tmp_path, teacher())
    other = corpus().select(range(3))
    with pytest.raises(UserError, match="made from another corpus or teacher"):
        TeacherCache(tmp_path, other, Geometry(3, 2, 4, 3))
    with pytest.raises(UserError, match="made from another corpus or teacher"):
        TeacherCache(tmp_path, corpus(), Geometry(3, 3, 4, 3))
    (tmp_path / "cross.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is no teacher cache"):
        TeacherCache(tmp_path, corpus(), Geometry(3, 2, 4, 3))
