"""Students narrower than their teacher, or with other heads, that start from its weights."""

from collections import Counter
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from pretrained import FAMILIES, PAIRS, released

from a2d.errors import UserError
from a2d.families import FAMILIES as RECORDS
from a2d.families import sizes_of
from a2d.models.activations import Recorder, norms, projections, sample_text
from a2d.models.pruning import choose_subspaces, prune, take_weights
from a2d.models.students import name_layers, student_of
from a2d.models.subspaces import HeadMoments, choose_channels, map_heads, share_heads
from a2d.text.batching import tokenise

RELEASES = list({family: name for name, family in FAMILIES.items()}.values())
every_family = pytest.mark.parametrize("name", RELEASES)


class Release:
    """A teacher with tokenised pairs."""

    def __init__(self, name):
        self.teacher, self.tokenizer = released(name, mkdtemp())
        self.data = tokenise(PAIRS[:160], self.tokenizer)
        self.batch = sample_text(self.data, self.teacher)

    @torch.inference_mode()
    def divergence(self, student):
        """Mean KL divergence of a student's predictions from its teacher's, in nats per token."""
        text = self.batch["labels"] != -100
        student_logits, teacher_logits = (
            model.eval()(**self.batch).logits[text].double().log_softmax(-1)
            for model in (student, self.teacher)
        )
        return (teacher_logits.exp() * (teacher_logits - student_logits)).sum(-1).mean().item()

    def random(self, **sizes):
        return student_of(self.teacher, start="random", **sizes)

    def narrow(self, **sizes):
        return student_of(self.teacher, sample=self.data, **sizes)


_releases = {}


@pytest.fixture
def release(name):
    return _releases.get(name) or _releases.setdefault(name, Release(name))


SHAPES = [
    {"width": 18, "heads": 3},
    *(
        pytest.param(shape, marks=pytest.mark.full)
        for shape in (
            {"width": 12, "feed_forward": 20, "encoder_layers": 2, "decoder_layers": 1},
            {"width": 16, "feed_forward": 24},
            {"width": 16, "heads": 1, "feed_forward": 60},
            {"feed_forward": 24, "decoder_layers": 1},
        )
    ),
]


def recorded(release, *sentences):
    """Inputs and outputs of the teacher's modules."""
    pairs = {}
    recorder = Recorder(release.teacher, release.batch)
    for name in (*projections(release.teacher), *norms(release.teacher)):
        recorder.after(name, lambda name, *both: pairs.setdefault(name, []).append(both))
    recorder.run(*sentences)
    return {name: [*map(torch.cat, zip(*both, strict=True))] for name, both in pairs.items()}


@every_family
class TestEveryFamily:
    def test_all_parts_together_compute_what_the_teacher_computes(self, release):
        student, steps = release.random(), []
        names = name_layers(release.teacher, student)
        prune(release.teacher, student, names, release.batch, lambda *step: steps.append(step))
        assert release.divergence(student) < 1e-6
        count = len(projections(student)) + len(norms(student))
        assert steps == [(number, count) for number in range(count + 1)]

    def test_the_teacher_s_activations_do_not_depend_on_parts_of_the_text(self, release):
        whole, parts = recorded(release), recorded(release, 7)
        assert whole.keys() == parts.keys()
        for name, tensors in whole.items():
            for one, other in zip(tensors, parts[name], strict=True):
                assert torch.allclose(one, other, atol=1e-5), name

    def test_a_shallower_student_needs_no_measurement(self, release, monkeypatch):
        """It keeps the same parts as if the importance of everything had been measured."""
        student = release.random(encoder_layers=2, decoder_layers=1)
        arguments = release.teacher, student, name_layers(release.teacher, student), release.batch
        unmeasured = choose_subspaces(*arguments)
        monkeypatch.setattr("a2d.models.pruning.have_same_widths", lambda *_: False)
        measured = choose_subspaces(*arguments)
        assert unmeasured.channels.equal(measured.channels)
        assert unmeasured.heads == measured.heads
        for name in ("rows", "columns"):
            ours, theirs = getattr(unmeasured, name), getattr(measured, name)
            assert ours.keys() == theirs.keys()
            assert all(ours[key].equal(theirs[key]) for key in ours)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_fitted_student_is_nearer_than_a_sliced_or_a_random_one(self, release, shape):
        teacher = release.teacher
        student = release.narrow(**shape)
        assert {k: sizes_of(student.config)[k] for k in shape} == shape
        sliced = release.random(**shape)
        names = name_layers(teacher, sliced)
        take_weights(
            teacher, sliced, names, choose_subspaces(teacher, sliced, names, release.batch)
        )
        fitted, cut, random = map(release.divergence, (student, sliced, release.random(**shape)))
        assert fitted < 0.8 * cut
        assert fitted < 0.6 * random

    def test_neurons_without_effect_are_dropped_without_loss(self, release):
        teacher, rng = release.teacher, torch.Generator().manual_seed(3)
        before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
        try:
            with torch.no_grad():
                for name, role in projections(teacher).items():
                    if role == "contract":
                        weight = teacher.get_submodule(name).weight
                        weight[:, torch.randperm(weight.shape[1], generator=rng)[:16]] = 0
            assert release.divergence(release.narrow(feed_forward=24)) < 1e-6
            assert release.divergence(release.random(feed_forward=24)) > 1e-2
        finally:
            teacher.load_state_dict(before)

    def test_new_neurons_change_nothing_and_learn(self, release):
        student = release.narrow(feed_forward=64)
        assert release.divergence(student) < 1e-6
        student(**release.batch).loss.backward()
        for name, role in projections(student).items():
            if role == "contract":
                assert student.get_submodule(name).weight.grad[:, 40:].any(0).all()

    def test_more_heads_within_their_means_compute_what_the_teacher_computes(self, release):
        """Scores of rank 6 fit into heads of width 6, which divide the values."""
        teacher = release.teacher
        before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
        try:
            with torch.no_grad():
                for name, role in projections(teacher).items():
                    if role in ("query", "key"):
                        module = teacher.get_submodule(name)
                        for start in (6, 18):
                            module.weight[start : start + 6] = 0
                            if module.bias is not None:
                                module.bias[start : start + 6] = 0
            assert release.divergence(release.narrow(heads=4)) < 1e-6
        finally:
            teacher.load_state_dict(before)

    def test_the_teacher_stays_as_it_is(self, release):
        before = {name: weight.clone() for name, weight in release.teacher.state_dict().items()}
        release.narrow(width=16)
        after = release.teacher.state_dict()
        assert all(after[name].equal(weight) for name, weight in before.items())

    def test_embeddings_stay_tied_and_padding_the_teachers(self, release):
        student, teacher = release.narrow(width=16), release.teacher
        ours = [m.weight.data_ptr() for m in (student.get_input_embeddings(), student.lm_head)]
        theirs = [m.weight.data_ptr() for m in (teacher.get_input_embeddings(), teacher.lm_head)]
        assert (ours[0] == ours[1]) == (theirs[0] == theirs[1])
        padding = teacher.get_input_embeddings().weight[teacher.config.pad_token_id]
        student_padding = student.get_input_embeddings().weight[student.config.pad_token_id]
        assert padding.any() == student_padding.any()


class TestRefusals:
    @pytest.mark.parametrize("name", ["opus"])
    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ({"width": 32}, "a student of width 32 cannot start from a teacher of width 24"),
            ({"width": 16, "encoder_layers": 4}, "with 4 encoder layers cannot start from a"),
        ],
    )
    def test_larger_students(self, release, shape, message):
        with pytest.raises(UserError, match=message):
            release.narrow(**shape)

    @pytest.mark.parametrize("name", ["opus"])
    def test_no_sample(self, release):
        with pytest.raises(UserError, match=r"give sample=tokenise\(pairs, tokenizer\)"):
            student_of(release.teacher, width=16)


class TestChannels:
    @given(st.data())
    def test_sinusoidal_ones_keep_their_frequencies(self, data):
        width = 2 * data.draw(st.integers(1, 40))
        total = width + 2 * data.draw(st.integers(0, 40))
        scores = torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=total, max_size=total)))
        channels = choose_channels(scores, width, sinusoidal=True)
        assert len(set(channels.tolist())) == width
        assert channels.sort().values.equal(channels)
        for part in range(2):
            for index in range(width // 2):
                # exponents of the frequencies differ by less than one step of the student's
                theirs = (int(channels[part * width // 2 + index]) - part * total // 2) / total
                assert abs(theirs - index / width) <= 1 / width

    def test_others_are_the_most_active(self):
        scores = torch.tensor([3.0, 1, 5, 2])
        assert choose_channels(scores, 2, sinusoidal=False).tolist() == [0, 2]


class TestHeads:
    @pytest.mark.parametrize(
        ("heads", "width", "shared"),
        [
            (4, 8, [[0], [1], [2], [3]]),
            (8, 4, [[0], [0], [1], [1], [2], [2], [3], [3]]),
            (5, 8, [[0], [1], [2], [2], [3]]),
            (2, 8, [[1], [2]]),
            (2, 16, [[0, 1], [2, 3]]),
            (3, 10, [[0], [1], [2]]),
            (1, 32, [[0, 1, 2, 3]]),
        ],
    )
    def test_shares(self, heads, width, shared):
        importance = torch.tensor([2.0, 3, 4, 1])
        assert share_heads(importance, heads, width, 8) == shared

    @pytest.mark.parametrize("rank", [1, 3, 6])
    def test_directions_lose_as_little_as_any_can(self, rank):
        """Compare with the best approximation of all scores, and of all outputs, by NumPy."""
        rng = np.random.default_rng(rank)
        mix = rng.normal(size=(2, 8, 8))
        queries, keys = rng.normal(size=(50, 8)) @ mix[0], rng.normal(size=(70, 8)) @ mix[1]
        contexts, output = rng.normal(size=(60, 8)) @ mix[0], rng.normal(size=(5, 8))
        moments = HeadMoments(
            *(torch.tensor(states.T @ states)[None] for states in (queries, keys, contexts))
        )
        maps = map_heads(moments, torch.tensor(output), [[0]], rank)
        query, key, value, back = (part.numpy() for part in maps)
        scores = queries @ keys.T
        approximated = (queries @ query.T) @ (keys @ key.T).T
        best = np.linalg.svd(scores, compute_uv=False)[rank:]
        assert np.isclose(((scores - approximated) ** 2).sum(), (best**2).sum(), rtol=1e-6)
        outputs = contexts @ output.T
        approximated = contexts @ value.T @ back.T @ output.T
        best = np.linalg.svd(outputs, compute_uv=False)[rank:]
        loss = ((outputs - approximated) ** 2).sum()
        assert np.isclose(loss, (best**2).sum(), rtol=1e-6, atol=1e-9)


class TestSample:
    @pytest.mark.parametrize("name", ["opus"])
    def test_is_spread_over_the_data_without_the_longest(self, release):
        lengths = [max(len(r["input_ids"]), len(r["labels"])) for r in release.data]
        batch = release.batch
        assert 0.95 * len(lengths) <= len(batch["labels"]) < len(lengths)
        assert batch["labels"].shape[1] <= sorted(lengths)[int(0.95 * len(lengths))]
        rows = zip(batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], strict=True)
        pairs = [(ids[mask].tolist(), labels[labels >= 0].tolist()) for ids, mask, labels in rows]
        sampled = Counter((tuple(source), tuple(target)) for source, target in pairs)
        data = Counter((tuple(r["input_ids"]), tuple(r["labels"])) for r in release.data)
        assert sampled <= data
        assert batch["input_ids"].shape[1] == max(len(source) for source, _ in pairs)


def test_every_record_names_its_linear_modules():
    roles = {"query", "key", "value", "output", "expand", "contract"}
    assert all(set(family.projections.values()) == roles for family in RECORDS.values())


@pytest.mark.parametrize("name", ["bart", "opus", "t5"])
def test_little_memory_records_the_teacher_in_several_passes(release, monkeypatch):
    shape = {"width": 16, "feed_forward": 24, "decoder_layers": 1}
    at_once = release.narrow(**shape).state_dict()
    passes = []
    run = Recorder.run
    monkeypatch.setattr(
        Recorder, "run", lambda self, *n: (passes.append(self.model), run(self, *n))[1]
    )
    monkeypatch.setattr("a2d.models.pruning._MAX_FLOATS", 100_000)
    in_turn = release.narrow(**shape).state_dict()
    assert all(in_turn[name].equal(weight) for name, weight in at_once.items())
    assert sum(model is release.teacher for model in passes) > 4


def test_sample_text_is_of_the_whole_corpus(monkeypatch):
    rows = [{"input_ids": [4, n % 7 + 5, 0], "labels": [n, 5, 0]} for n in range(1000)]
    model = SimpleNamespace(config=released("opus", mkdtemp())[0].config)
    widest = max(sizes_of(model.config)[size] for size in ("width", "feed_forward"))
    monkeypatch.setattr("a2d.models.activations._FLOATS", 10 * 3 * widest)
    batch = sample_text(Dataset.from_list(rows), model)
    assert sorted(batch["labels"][:, 0].tolist()) == list(range(0, 1000, 100))
    with pytest.raises(UserError, match="no sentence pairs"):
        sample_text(Dataset.from_list(rows).select([]), model)
