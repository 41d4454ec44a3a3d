"""`A2D`: every formula against its naive twin; groups, starts, the mixture, files."""

import math

import naive
import pytest
import torch
from features import (
    agree,
    case,
    cases,
    cast,
    close,
    dot,
    example,
    kl,
    losses_of,
    one_sentence,
    refill,
    relevant,
    tensors,
    wrap_maps,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from a2d.errors import UserError
from a2d.families import Geometry
from a2d.method.alignment import FILE_NAME, AttentionAlignment, combine
from a2d.method.attention import GROUPS, Features
from a2d.method.formulas import FORMULAS
from a2d.method.transfer import A2D, STARTS

ROWWISE = ("paper", "geometric")

every_formula = pytest.mark.parametrize("formula", FORMULAS)
rowwise_formulas = pytest.mark.parametrize("formula", ROWWISE)
every_group = st.sampled_from(GROUPS)
geometries = st.builds(Geometry, *[st.integers(1, 4)] * 4)


def a2d(shapes, formula, groups=GROUPS, start="random", seed=0):
    torch.manual_seed(seed)
    return A2D(*shapes, FORMULAS[formula], groups, start).double()


def twin(formula, group, weight, maps, teacher_maps, source, target, mixture=None):
    """Compute the loss from lists: weight[t][c], maps[b][c][q][k], teacher_maps[b][t][q][k]."""
    total = 0.0
    for b in range(len(maps)):
        rows = naive.visible(group, source[b], target[b])
        for t, weights in enumerate(weight):
            if formula.startswith("official"):
                total += over_whole_maps(weights, maps[b], teacher_maps[b], t, mixture)
            else:
                for q, keys in rows.items():
                    scores = [
                        intermediate(formula, weights, [m[q][k] for m in maps[b]]) for k in keys
                    ]
                    total += kl([teacher_maps[b][t][q][k] for k in keys], scores) / len(weight)
    return total


def intermediate(formula, weights, probabilities):
    """One position of an intermediate map, from the student's channels at that position."""
    if formula == "paper":
        return dot(weights, probabilities)
    if formula == "geometric":
        return dot(weights, [math.log(p + 1e-6) for p in probabilities])
    total = sum(math.exp(w) for w in weights)
    return math.log(1e-6 + dot([math.exp(w) / total for w in weights], probabilities))


def over_whole_maps(weights, maps, target, t, mixture):
    positions = [(q, k) for q in range(len(maps[0])) for k in range(len(maps[0][0]))]
    student_scores = naive.log_softmax(
        [dot(weights, [m[q][k] for m in maps]) for q, k in positions]
    )
    shares = [float(t == other) for other in range(len(target))] if mixture is None else mixture[t]
    teacher_scores = naive.log_softmax(
        [dot(shares, [m[q][k] for m in target]) for q, k in positions]
    )
    return sum(
        math.exp(teacher_log) * (teacher_log - student_log)
        for student_log, teacher_log in zip(student_scores, teacher_scores, strict=True)
    )


@every_formula
@given(cases(), every_group, st.sampled_from(STARTS))
@settings(max_examples=25, deadline=None)
def test_value_and_gradients_equal_the_naive_twin(formula, c, group, start):
    transfer = a2d(c.shapes, formula, start=start)
    maps = c.student.maps[group].requires_grad_()
    weight = transfer.alignment.weights[group]
    mixture = None if transfer.mixture is None else transfer.mixture.weights[group].tolist()
    fixed = [t.tolist() for t in (c.teacher.maps[group], c.source, c.target)]
    assert agree(
        losses_of(transfer, c)[group],
        lambda weight, maps: twin(formula, group, weight, maps, *fixed, mixture),
        [weight, maps],
    )


@rowwise_formulas
@given(cases())
@settings(max_examples=15, deadline=None)
def test_padding_and_future_positions_have_no_influence(formula, c):
    transfer = a2d(c.shapes, formula)
    terms = losses_of(transfer, c)
    other = refill(c)
    mask = relevant(c)
    for maps in other.student.maps.values():
        maps.requires_grad_()
    for group, term in losses_of(transfer, other).items():
        assert close(term, terms[group], 1e-12)
        (gradient,) = torch.autograd.grad(term, other.student.maps[group])
        assert not gradient.masked_fill(mask.maps[group], 0).any()


@rowwise_formulas
def test_terms_are_sums_over_sentences_without_padding(formula):
    c = example()
    transfer = a2d(c.shapes, formula)
    parts = [losses_of(transfer, one_sentence(c, index)) for index in range(len(c.source))]
    for group, term in losses_of(transfer, c).items():
        assert close(sum(part[group] for part in parts), term)


@rowwise_formulas
@given(cases())
@settings(max_examples=15, deadline=None)
def test_is_never_negative(formula, c):
    assert all(term >= -1e-12 for term in losses_of(a2d(c.shapes, formula), c).values())


@every_formula
def test_no_gradient_reaches_the_teacher(formula):
    c = example()
    transfer = a2d(c.shapes, formula)
    for tensor in tensors(c.teacher):
        tensor.requires_grad_()
    sum(losses_of(transfer, c).values()).backward()
    assert all(tensor.grad is None for tensor in tensors(c.teacher))


@every_formula
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("groups", [("encoder",), ("decoder", "cross"), GROUPS])
def test_groups_are_the_terms(formula, start, groups):
    c = example()
    transfer = a2d(c.shapes, formula, groups, start)
    terms = losses_of(transfer, c)
    assert tuple(terms) == groups
    sum(terms.values()).backward()
    for group in GROUPS:
        assert transfer.alignment.weights[group].any() == (group in groups)
        gradient = transfer.alignment.weights[group].grad
        assert (gradient is not None) == (group in groups)


@every_formula
def test_a_term_reads_the_maps_of_its_group_alone(formula):
    c = example()
    all_terms = losses_of(a2d(c.shapes, formula), c)
    for group in GROUPS:
        transfer = a2d(c.shapes, formula, (group,))
        models = c.student, c.teacher
        bare = [wrap_maps(Features({group: model.maps[group]}, {}, {})) for model in models]
        assert close(transfer(*bare, {group: c.masks[group]})[group], all_terms[group])


# Starts


def sizes(geometry, group):
    return (
        (geometry.encoder_layers, geometry.encoder_heads) if group == "encoder" else geometry[1::2]
    )


@given(geometries, geometries, every_group, st.floats(0.5, 8))
@settings(max_examples=40, deadline=None)
def test_uniform_start_is_the_guess_and_a_tenth_of_the_random_start(student, teacher, group, scale):
    alignment = AttentionAlignment(student, teacher)
    random = alignment.weights[group].detach().clone()
    alignment.start_uniform(scale)
    (layers, heads), (teacher_layers, teacher_heads) = sizes(student, group), sizes(teacher, group)
    guess = torch.zeros(teacher_layers * teacher_heads, layers * heads)
    for above in range(
        1, teacher_layers + 1
    ):  # teacher layer; `layer`: first student layer not below it
        layer = next(s for s in range(1, layers + 1) if s * teacher_layers >= above * layers)
        for teacher_head in range(teacher_heads):
            for head in range(heads):
                share = 1 / heads if heads != teacher_heads else float(head == teacher_head)
                row, column = (above - 1) * teacher_heads + teacher_head, (layer - 1) * heads + head
                guess[row, column] = scale * share
    assert close(alignment.weights[group], guess + random / 10, 1e-6)
    assert alignment.weights[group].requires_grad


@every_formula
def test_random_start_is_that_of_the_alignment(formula):
    shapes = Geometry(2, 1, 2, 3), Geometry(3, 2, 2, 1)
    torch.manual_seed(0)
    alignment = AttentionAlignment(*shapes)
    transfer = a2d(shapes, formula, seed=0)
    for group in GROUPS:
        assert close(transfer.alignment.weights[group], alignment.weights[group])


def twins(sharpness=1, seed=0):
    """A student and a teacher with the same geometry and maps."""
    geometry = (2, 2, 2, 2)
    c = example(geometry, geometry, sharpness=sharpness, seed=seed)
    return c._replace(teacher=c.student)


def rows_of(c):
    return {"encoder": c.source.sum(), "decoder": c.target.sum(), "cross": c.target.sum()}


@rowwise_formulas
@given(st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_uniform_start_is_closer_for_equal_models_than_a_random_one(formula, seed):
    c = twins(seed=seed, sharpness=3)
    random = losses_of(a2d(c.shapes, formula, seed=seed), c)
    uniform = losses_of(a2d(c.shapes, formula, start="uniform", seed=seed), c)
    assert sum(uniform.values()) < 0.5 * sum(random.values())


@given(st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_geometric_alone_reproduces_an_equal_student(seed):
    c = twins(seed=seed, sharpness=3)
    terms = {
        formula: losses_of(a2d(c.shapes, formula, start="uniform", seed=seed), c)
        for formula in ROWWISE
    }
    for group, rows in rows_of(c).items():
        assert terms["geometric"][group] / rows < 0.05
        assert terms["geometric"][group] < 0.3 * terms["paper"][group]


@given(st.integers(0, 2**16), st.sampled_from([1, 20]))
@settings(max_examples=15, deadline=None)
def test_geometric_of_the_identity_is_zero(seed, sharpness):
    c = twins(sharpness, seed)
    transfer = a2d(c.shapes, "geometric")
    for weight in transfer.alignment.parameters():
        weight.data.zero_()
    transfer.alignment.start_uniform(1.0)
    terms = losses_of(transfer, c)
    for group, rows in rows_of(c).items():
        assert torch.equal(transfer.alignment.weights[group], torch.eye(4).double())
        assert terms[group] / rows < 1e-5


# The alignment's ways to combine


@given(st.integers(0, 2**16), *[st.integers(1, 4)] * 5)
@settings(max_examples=25, deadline=None)
def test_combine_is_a_sum_over_channels(seed, batch, wide, channels, queries, keys):
    torch.manual_seed(seed)
    weight = torch.randn(wide, channels, dtype=torch.float64)
    maps = torch.rand(keys, queries, channels, batch, dtype=torch.float64).permute(3, 2, 1, 0)
    combined = combine(weight, maps)
    assert combined.shape == (batch, wide, queries, keys)
    for b in range(batch):
        for w in range(wide):
            expected = sum(weight[w, c].item() * maps[b, c] for c in range(channels))
            assert close(combined[b, w], expected)


def test_autocast_does_not_round_what_is_combined():
    weight, maps = torch.randn(6, 8), torch.rand(2, 8, 5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        combined = combine(weight, maps)
    assert combined.dtype == torch.float32
    assert close(combined, combine(weight.double(), maps.double()), 1e-6)


# The mixture


@given(cases())
@settings(max_examples=15, deadline=None)
def test_official_mixture_is_official_of_mixed_maps(c):
    mixture = a2d(c.shapes, "official-mixture")
    plain = a2d(c.shapes, "official")
    plain.alignment.load_state_dict(mixture.alignment.state_dict())
    mixed = {
        group: torch.einsum("tu,buqk->btqk", mixture.mixture.weights[group], maps)
        for group, maps in c.teacher.maps.items()
    }
    expected = losses_of(plain, c._replace(teacher=c.teacher._replace(maps=mixed)))
    for group, term in losses_of(mixture, c).items():
        assert close(term, expected[group])


def test_the_mixture_depends_on_the_seed_alone():
    c = example()
    first, again, reseeded = (
        losses_of(a2d(c.shapes, "official-mixture", seed=seed), c) for seed in (1, 1, 2)
    )
    for group in GROUPS:
        assert torch.equal(first[group], again[group])
        assert not close(first[group], reseeded[group], 1e-4)


def test_nothing_trains_the_mixture():
    c = example()
    transfer = a2d(c.shapes, "official-mixture")
    sum(losses_of(transfer, c).values()).backward()
    for parameter in transfer.mixture.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
    trainable = {name for name, p in transfer.named_parameters() if p.requires_grad}
    assert trainable == {f"alignment.weights.{group}" for group in GROUPS}


def test_only_the_mixture_formula_mixes():
    assert [f for f in FORMULAS if a2d(example().shapes, f).mixture] == ["official-mixture"]


# Files


@every_formula
def test_save_and_load(formula, tmp_path):
    c = example()
    transfer = a2d(c.shapes, formula, ("encoder", "cross"), seed=1).float()
    for weight in transfer.alignment.parameters():
        weight.data.add_(0.1)  # as after a training
    transfer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    copy = a2d(c.shapes, formula, ("encoder", "cross"), seed=1).float()
    copy.load(tmp_path)
    expected, terms = (losses_of(t.double(), c) for t in (transfer, copy))
    assert all(torch.equal(expected[group], terms[group]) for group in expected)
    alignment = AttentionAlignment.load(tmp_path / FILE_NAME)
    assert (alignment.student, alignment.teacher) == c.shapes


def test_a_file_of_other_models_is_refused(tmp_path):
    shapes = example().shapes
    a2d(shapes, "paper").save(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        a2d(shapes[::-1], "paper").load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"alignment\.safetensors does not exist"):
        a2d(example().shapes, "paper").load(tmp_path)


# Precision


def long_case(sharpness=2):
    lengths = torch.tensor([14, 9, 12])
    tokens = torch.arange(14) < lengths[:, None]
    return case((2, 2, 4, 4), (3, 2, 4, 2), tokens, tokens, sharpness=sharpness)


@every_formula
@pytest.mark.parametrize("start", STARTS)
def test_bf16_autocast_stays_near_float64(formula, start):
    c = long_case()
    transfer = a2d(c.shapes, formula, start=start)
    exact = losses_of(transfer, c)
    low = c._replace(student=cast(c.student, torch.float32), teacher=cast(c.teacher, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        terms = losses_of(transfer.float(), low)
    for group, term in terms.items():
        assert term.dtype == torch.float32
        assert abs(term - exact[group]) <= 1e-4 * exact[group]


@every_formula
def test_maps_with_zeros_stay_finite(formula):
    c = long_case(sharpness=1000)
    low = c._replace(student=cast(c.student, torch.float32), teacher=cast(c.teacher, torch.float32))
    for maps in low.student.maps.values():
        assert (maps == 0).any()
        maps.requires_grad_()
    transfer = a2d(c.shapes, formula, start="uniform").float()
    sum(losses_of(transfer, low).values()).backward()
    gradients = [maps.grad for maps in low.student.maps.values()]
    gradients += [weight.grad for weight in transfer.alignment.parameters()]
    assert all(gradient.isfinite().all() for gradient in gradients)
