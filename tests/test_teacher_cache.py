"""Cached outputs equal those of the live teacher, except for rounding and unlikely tokens."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from test_families import tiny
from toys import assert_close, batch, dataset, marian

from a2d import A2DConfig, A2DTrainer, UserError
from a2d.families import Geometry
from a2d.files import damage
from a2d.method.attention import GROUPS, capture_attention, enable_capture
from a2d.method.methods import METHODS
from a2d.method.objective import Objective
from a2d.models.loading import decoder_inputs
from a2d.training import teacher_cache
from a2d.training.distillation import IGNORE_INDEX, Distillation
from a2d.training.outputs import model_outputs
from a2d.training.teacher_cache import (
    TeacherCache,
    _decode_maps,
    _encode_maps,
    build,
    open_or_build,
)

SOURCES, TARGETS = [4, 6, 2, 6, 1], [5, 2, 4, 6, 3]


def corpus():
    return dataset(batch(SOURCES, TARGETS))


def teacher(**settings):
    model = marian(3, 2, 4, 3, seed=1, **settings)
    enable_capture(model)
    return model


def build_cache(folder, model, states=False):
    folder.mkdir(exist_ok=True)
    progress = []
    build(folder, model, corpus(), 12, progress.append, states)
    assert progress[-1] == len(SOURCES)
    return TeacherCache(folder, corpus(), model)


def padded_batch(rows):
    """Batch of the sentences `rows` of the corpus, padded to the longest."""
    inputs = batch(SOURCES, TARGETS)
    widths = {
        "input_ids": max(SOURCES[r] for r in rows),
        "attention_mask": max(SOURCES[r] for r in rows),
        "labels": max(TARGETS[r] for r in rows),
    }
    return {name: inputs[name][rows, :width] for name, width in widths.items()}


def outputs(cache, rows, states=False):
    """Cached outputs of the sentences `rows`, padded like `padded_batch`."""
    inputs = padded_batch(rows)
    tokens = inputs["attention_mask"].bool(), inputs["labels"].ne(IGNORE_INDEX)
    return cache.unpack(cache.read(rows, states=states), *tokens)


@pytest.mark.parametrize(
    ("method", "states"),
    [(name, method.states) for name, method in METHODS.items() if method.distribution],
)
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3], [4, 2]])
def test_terms_and_gradients_equal_the_live_teacher(tmp_path, method, states, rows):
    model = teacher()  # all 13 tokens fit
    cached = outputs(build_cache(tmp_path / "cache", model, states), rows, states)
    student = marian(2, 1, 2, 3)
    enable_capture(student)
    torch.manual_seed(2)
    module = Distillation(student, Objective(method, "paper", 0.5, 2.0, 0.1), model.config)
    with torch.no_grad():
        live = model_outputs(model, padded_batch(rows), module.needs)
    results = []
    for teacher_outputs in (live, cached):
        module.zero_grad()
        terms = module(**padded_batch(rows), teacher=teacher_outputs)
        sum(terms[t.name] for t in module.objective.trained_terms).backward()
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        results.append((torch.stack(list(terms.values())), torch.cat(gradients)))
    tolerance = 5e-3 if states else 1e-3  # rounding of bfloat16, and of maps to 8 bits
    assert_close(results[1][0], results[0][0], tolerance)
    assert_close(results[1][1], results[0][1], tolerance)


def test_a_bf16_teacher(tmp_path):
    exact, rounded = teacher(), teacher().bfloat16()
    caches = [
        outputs(build_cache(tmp_path / n, m), [0, 3]) for n, m in (("1", exact), ("2", rounded))
    ]
    for group in GROUPS:
        exact_maps, rounded_maps = (cached.features.maps[group].stacked() for cached in caches)
        assert (exact_maps - rounded_maps).norm() < 0.05 * exact_maps.norm()


def test_padding_is_refused(tmp_path):
    data = corpus().map(lambda pair: {"labels": [*pair["labels"], IGNORE_INDEX]})
    with pytest.raises(UserError, match=r"the dataset's labels hold padding \(-100\): tokenise"):
        open_or_build(tmp_path / "cache", teacher(), data)


def test_training_on_another_dataset_is_refused(tmp_path):
    cache = build_cache(tmp_path / "cache", teacher())
    config = A2DConfig(str(tmp_path / "out"), max_tokens=32, bf16=False, report_to=[])
    subset = corpus().select([1, 0, 2, 3, 4])
    collator = SimpleNamespace(pad_token_id=12, padding_side="right")
    trainer = A2DTrainer(marian(), teacher(), config, subset, teacher_cache=cache)
    trainer.processing_class = collator
    with pytest.raises(UserError, match="built from another dataset than train_dataset"):
        trainer.get_train_dataloader()


def test_another_process_opens_the_files(tmp_path):
    cache = build_cache(tmp_path / "cache", teacher(), states=True)
    pickled = pickle.dumps(cache)
    for name, values in pickle.loads(pickled).read([2, 0], states=True).items():
        assert torch.equal(values, cache.read([2, 0], states=True)[name])
    (tmp_path / "cache/cross.npy").unlink()
    with pytest.raises(FileNotFoundError):  # a pickle without contents
        pickle.loads(pickled)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_hidden_states_and_values_of_all_layers(tmp_path, family):
    model = tiny(family).float()
    cached = outputs(build_cache(tmp_path / "cache", model, True), [1, 0], states=True).features
    inputs = padded_batch([1, 0])
    enable_capture(model)
    feed = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "decoder_input_ids": decoder_inputs(model, inputs["labels"]),
    }
    with torch.no_grad():
        _, live = capture_attention(model, feed, hidden_states=True)
    for stack, sizes in (("encoder", SOURCES), ("decoder", TARGETS)):
        pairs = list(zip(cached.hidden[stack], live.hidden[stack], strict=True))
        assert len(pairs) == Geometry.of(model.config).layers(stack)
        values = [f.values[stack].transpose(1, 2) for f in (cached, live)]
        for states, expected in [*pairs, values]:
            for index, row in enumerate([1, 0]):
                assert_close(states[index, : sizes[row]], expected[index, : sizes[row]], 2**-8)


def test_a_cache_without_states_is_refused_where_they_are_needed(tmp_path):
    cache = build_cache(tmp_path / "cache", teacher())
    config = A2DConfig(str(tmp_path / "out"), method="a2d+hidden", max_tokens=32, bf16=False)
    with pytest.raises(UserError, match="holds no hidden states"):
        A2DTrainer(marian(), teacher(), config, corpus(), teacher_cache=cache)
    assert open_or_build(tmp_path / "cache", teacher(), corpus(), states=True).read(
        [0], states=True
    )


def test_of_a_large_vocabulary_the_likeliest_tokens_are_stored(tmp_path):
    model = teacher(vocabulary=200)
    cached = outputs(build_cache(tmp_path / "cache", model), [0, 1])
    with torch.no_grad():
        live = model_outputs(model, padded_batch([0, 1]), None).tokens.logits.softmax(-1)
    assert cached.tokens.ids.shape[-1] == teacher_cache.TOP
    top = cached.tokens.log_probabilities.exp()
    valid = padded_batch([0, 1])["labels"] != IGNORE_INDEX
    assert_close(top[valid], live.sort(descending=True).values[valid][:, : top.shape[-1]], 2e-3)
    assert_close(top[valid], live.gather(-1, cached.tokens.ids)[valid], 2e-3)


class TestAnotherOrDamaged:
    """A cache of other data is refused; a damaged cache is built again."""

    OTHER_CORPORA = (
        lambda: corpus().select(range(3)),
        lambda: corpus().select([1, 0, 2, 3, 4]),
        lambda: dataset(batch(SOURCES, TARGETS, seed=9)),
    )

    @pytest.mark.parametrize("other", OTHER_CORPORA)
    def test_corpus_is_refused(self, tmp_path, other):
        build_cache(tmp_path, teacher())
        with pytest.raises(UserError, match="built from another corpus or teacher"):
            TeacherCache(tmp_path, other(), teacher())

    def test_teacher_is_refused(self, tmp_path):
        build_cache(tmp_path, teacher())
        other = teacher()
        with torch.no_grad():
            other.get_encoder().layers[0].fc1.bias[0] += 1
        with pytest.raises(UserError, match="built from another corpus or teacher"):
            TeacherCache(tmp_path, corpus(), other)

    def test_an_empty_folder_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="holds no teacher cache"):
            TeacherCache(tmp_path, corpus(), teacher())

    @pytest.mark.parametrize("file", ["tokens", "log_probabilities", *GROUPS])
    def test_a_single_wrong_byte_is_detected(self, tmp_path, file):
        build_cache(tmp_path, teacher())
        assert damage(tmp_path) is None
        path = tmp_path / f"{file}.npy"
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        assert damage(tmp_path) == f"{file}.npy is damaged"

    @staticmethod
    def remove_an_entry(folder):
        manifest = json.loads((folder / teacher_cache.CONTENTS).read_text())
        manifest["arrays"].remove("cross")
        (folder / teacher_cache.CONTENTS).write_text(json.dumps(manifest))

    DAMAGES = (
        lambda folder: (folder / "cross.npy").write_bytes(b"nothing"),
        lambda folder: (folder / "encoder.npy").unlink(),
        lambda folder: (folder / teacher_cache.CONTENTS).write_text("[]"),
        remove_an_entry,
    )

    @pytest.mark.parametrize("damage_cache", DAMAGES)
    def test_a_damaged_cache_is_built_again(self, tmp_path, damage_cache):
        expected = build_cache(tmp_path, teacher()).read([0, 1])
        damage_cache(tmp_path)
        values = open_or_build(tmp_path, teacher(), corpus()).read([0, 1])
        assert damage(tmp_path) is None
        assert torch.equal(values["cross"], expected["cross"])

    def test_a_cache_of_other_data_is_built_again(self, tmp_path):
        build_cache(tmp_path, teacher())
        subset = corpus().select(range(3))
        assert open_or_build(tmp_path, teacher(), subset).read([2])
        TeacherCache(tmp_path, subset, teacher())

    def test_an_intact_cache_is_reused(self, tmp_path, monkeypatch):
        build_cache(tmp_path, teacher())
        monkeypatch.setattr(teacher_cache, "build", None)
        open_or_build(tmp_path, teacher(), corpus())


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(0, 12))
)
def test_maps_in_8_bits_are_close(logits):
    maps = torch.from_numpy(logits).softmax(dim=-1)
    decoded = _decode_maps(_encode_maps(maps))
    assert_close(decoded.sum(dim=-1), torch.ones(len(maps)), 1e-6)
    # Square roots are rounded to 1/255. A row of them has length 1, before its rounding errors,
    # and is then divided by the length that it has.
    error, length = 0.5 / 255, 0.5 / 255 * maps.shape[1] ** 0.5
    assert (decoded.sqrt() - maps.sqrt()).abs().max() < (error + length) / (1 - length)
