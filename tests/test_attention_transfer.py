"""Losses on attention maps: naive twins, padding, half precision."""

import math
from typing import NamedTuple

import naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from toys import assert_close

from a2d.families import Geometry
from a2d.method import losses
from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import GROUPS
from a2d.method.formulas import FORMULAS
from a2d.method.maps import Block, RecomputedMaps, StackedMaps, additive_mask
from a2d.training.distillation import group_masks

FLAGS = {"paper": {}, "geometric": {"log_maps": True}, "combined": {"log_combined": True}}
"""Formula → arguments of the loss that set its logarithms."""

every_group = pytest.mark.parametrize("group", GROUPS)


class Case(NamedTuple):
    """Maps of a group on a batch, and masks of tokens."""

    group: str
    alignment: AttentionAlignment
    maps: Tensor
    teacher: Tensor
    source: Tensor
    target: Tensor


def visibility(group, source, target):
    """Visible keys (B, Q, K) by the naive rule; False in rows of padding."""
    queries = source if group == "encoder" else target
    keys = target if group == "decoder" else source
    visible_keys = torch.zeros(len(source), queries.shape[1], keys.shape[1], dtype=torch.bool)
    for b in range(len(source)):
        for q, visible in naive.visible(group, source[b].tolist(), target[b].tolist()).items():
            visible_keys[b, q, visible] = True
    return visible_keys


def case(group, source, target, student=(2, 1, 2, 2), teacher=(2, 2, 2, 1), seed=0):
    """Random maps; positions that must not influence the loss are random, too."""
    torch.manual_seed(seed)
    student, teacher = Geometry(*student), Geometry(*teacher)
    source, target = torch.as_tensor(source), torch.as_tensor(target)
    visible_keys = visibility(group, source, target)[:, None]
    batch, _, queries, keys = visible_keys.shape
    alignment = AttentionAlignment(student, teacher).double()
    for weight in alignment.parameters():
        weight.data.mul_(3)
    maps = torch.rand(batch, student.channels(group), queries, keys, dtype=torch.float64)
    scores = 3 * torch.randn(batch, teacher.channels(group), queries, keys, dtype=torch.float64)
    rows = scores.masked_fill(~visible_keys, -1e300).softmax(-1)
    maps_of_teacher = torch.where(visible_keys, rows, torch.rand_like(rows))
    return Case(group, alignment, maps, maps_of_teacher, source, target)


def token_masks(batch):
    """Masks of tokens (B, N): any number of tokens, padding on either side."""
    return st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.tuples(st.integers(0, width), st.integers(0, width)).map(
                lambda ends: [min(ends) <= position < max(ends) for position in range(width)]
            ),
            min_size=batch,
            max_size=batch,
        )
    )


@st.composite
def cases(draw):
    batch = draw(st.integers(1, 3))
    geometry = st.tuples(*[st.integers(1, 3)] * 4)
    return case(
        draw(st.sampled_from(GROUPS)),
        draw(token_masks(batch)),
        draw(token_masks(batch)),
        draw(geometry),
        draw(geometry),
        draw(st.integers(0, 2**16)),
    )


def example(group):
    source = [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 0]]
    target = [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    return case(group, torch.tensor(source).bool(), torch.tensor(target).bool())


def transfer(c: Case, intermediate=None):
    """The loss of maps combined by the alignment, or of given intermediate maps."""
    maps, weight = c.maps, c.alignment.weights[c.group]
    if intermediate is not None:
        maps, weight = intermediate, None
    masks = group_masks(c.source, c.target)[c.group]
    return losses.attention_transfer(
        StackedMaps(maps), StackedMaps(c.teacher), *masks, weight=weight
    )


def dense(entries, like):
    gradient = torch.zeros_like(like)
    for index, value in entries.items():
        gradient[index] = value
    return gradient


def close(value, reference):
    """Compare to 1e-10, relative to the largest value if that exceeds 1."""
    reference = torch.as_tensor(reference, dtype=torch.float64)
    return (value.detach() - reference).abs().max() <= 1e-10 * max(1.0, reference.abs().max())


@given(cases(), st.sampled_from([1, 40, 2**21]))
@settings(max_examples=60, deadline=None)
def test_value_and_gradients_equal_the_naive_twin(c, chunk):
    """The result does not depend on the chunk size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "CHUNK", chunk)
        compare_with_the_naive_twin(c)


def compare_with_the_naive_twin(c):
    weight = c.alignment.weights[c.group]
    value, weight_gradient, maps_gradient = naive.attention_transfer(
        c.group,
        *(tensor.tolist() for tensor in (weight, c.maps, c.teacher, c.source, c.target)),
    )
    c.maps.requires_grad_()
    loss = transfer(c)
    loss.backward()
    assert close(loss, value)
    assert close(c.maps.grad, dense(maps_gradient, c.maps))
    assert close(weight.grad, dense(weight_gradient, weight))


def random_maps(group, source, target, channels, seed, dtype=torch.float64):
    """Random queries and keys."""
    generator = torch.Generator().manual_seed(seed)
    keys, _ = group_masks(source, target)[group]
    batch, _, length = keys.shape
    queries = (source if group == "encoder" else target).shape[1]
    vectors = [
        torch.randn(batch, channels, count, 3, generator=generator, dtype=dtype)
        for count in (queries, length)
    ]
    mask = additive_mask(keys.expand(batch, queries, length).unsqueeze(1), dtype)
    return RecomputedMaps(*vectors, 0.8, mask)


def stack(maps):
    """Compute the maps as one tensor."""
    scores = maps.query @ maps.key.mT * maps.scale
    return StackedMaps(scores.masked_fill(maps.mask != 0, -math.inf).softmax(-1).nan_to_num())


@given(
    st.sampled_from(GROUPS),
    st.integers(1, 3).flatmap(lambda batch: st.tuples(token_masks(batch), token_masks(batch))),
    st.sampled_from(["paper", "geometric", "combined"]),
    st.sampled_from([1, 20, 2**21]),
    st.booleans(),
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_recomputed_maps_give_the_same_loss_and_gradients(group, masks, formula, chunk, live, seed):
    source, target = (torch.tensor(mask, dtype=torch.bool) for mask in masks)
    student, teacher = (random_maps(group, source, target, 4 + i, seed + i) for i in (0, 1))
    weight = torch.rand(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inputs = [weight.requires_grad_()]
    inputs += [tensor.requires_grad_() for tensor in student.inputs]
    masks_of_group = group_masks(source, target)[group]
    settings = {"weight": weight, **FLAGS[formula]}
    expected = losses.attention_transfer(
        *map(stack, (student, teacher)), *masks_of_group, **settings
    )
    gradients = torch.autograd.grad(2 * expected, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "CHUNK", chunk)
        teacher_maps = teacher if live else stack(teacher)
        loss = losses.attention_transfer(student, teacher_maps, *masks_of_group, **settings)
    assert close(loss, expected)
    for one, other in zip(torch.autograd.grad(2 * loss, inputs), gradients, strict=True):
        assert close(one, other)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("formula", ["paper", "geometric"])
def test_gradients_in_long_sentences_survive_half_precision(formula, dtype, tolerance):
    """Gradients are computed in the forward pass, before loss scaling, and must not underflow."""
    tokens = torch.ones(1, 400, dtype=torch.bool)
    halves = [random_maps("encoder", tokens, tokens, 8, seed, dtype=dtype) for seed in (0, 1)]
    weight, gradients = torch.full((8, 8), 1 / 8), []
    for kind in (torch.float64, dtype):
        student, teacher = (
            RecomputedMaps(h.query.to(kind), h.key.to(kind), h.scale, h.mask.to(kind))
            for h in halves
        )
        inputs = [part.requires_grad_() for part in student.inputs]
        masks = group_masks(tokens, tokens)["encoder"]
        settings = {"weight": weight.to(torch.promote_types(kind, torch.float32)), **FLAGS[formula]}
        loss = losses.attention_transfer(student, teacher, *masks, **settings)
        gradients.append(torch.autograd.grad(2**10 * loss, inputs))
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded.double() - exact).norm() < tolerance * exact.norm()


def test_scores_beyond_half_precision_leave_maps_finite():
    query = torch.full((1, 1, 2, 64), 34.0, dtype=torch.float16)
    maps = RecomputedMaps(query, query, 1 / 8, query.new_zeros(1, 1, 2, 2)).block(Block())
    torch.testing.assert_close(maps, torch.full((1, 1, 2, 2), 0.5))


def test_without_sentences_the_loss_is_zero():
    tokens = torch.ones(0, 3, dtype=torch.bool)
    student, teacher = (torch.rand(0, channels, 3, 3, requires_grad=True) for channels in (2, 4))
    weight = torch.rand(4, 2, requires_grad=True)
    masks = group_masks(tokens, tokens)["encoder"]
    maps = StackedMaps(student), StackedMaps(teacher)
    loss = losses.attention_transfer(*maps, *masks, weight=weight)
    loss.backward()
    assert loss == 0
    assert weight.grad.abs().max() == 0


@given(cases())
@settings(max_examples=30, deadline=None)
def test_is_never_negative(c):
    assert transfer(c) >= -1e-12


@given(cases(), st.tuples(*[st.integers(0, 2)] * 4))
@settings(max_examples=30, deadline=None)
def test_more_padding_changes_nothing(c, amounts):
    source, target = amounts[:2], amounts[2:]
    queries, keys = {"encoder": (source, source), "decoder": (target, target)}.get(
        c.group, (target, source)
    )

    def pad_maps(maps):
        return functional.pad(maps, (*keys, *queries), value=0.7)

    padded_case = Case(
        c.group,
        c.alignment,
        pad_maps(c.maps),
        pad_maps(c.teacher),
        functional.pad(c.source, source),
        functional.pad(c.target, target),
    )
    assert close(transfer(padded_case), transfer(c))


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_of_sentences_changes_nothing(c, random):
    order = random.sample(range(len(c.maps)), len(c.maps))
    permuted = c._replace(
        maps=c.maps[order],
        teacher=c.teacher[order],
        source=c.source[order],
        target=c.target[order],
    )
    assert close(transfer(permuted), transfer(c))


@every_group
def test_zero_if_intermediate_rows_equal_the_teachers(group):
    c = example(group)
    intermediate = c.teacher.log().add(5).requires_grad_()  # constants of rows have no effect
    loss = transfer(c, intermediate)
    loss.backward()
    assert abs(loss) < 1e-12
    assert intermediate.grad.abs().max() < 1e-12


@every_group
def test_gradcheck(group):
    c = case(group, [[True, True, False], [True] * 3], [[True, False], [True, True]])
    name = f"weights.{group}"

    def apart(weight, maps):
        return transfer(c, functional_call(c.alignment, {name: weight}, (maps, group)))

    def at_once(weight, maps):
        masks = group_masks(c.source, c.target)[group]
        student, teacher = StackedMaps(maps), StackedMaps(c.teacher)
        return losses.attention_transfer(student, teacher, *masks, weight=weight)

    weight = c.alignment.weights[group].detach().requires_grad_()
    maps = c.maps.requires_grad_()
    assert torch.autograd.gradcheck(apart, (weight, maps))
    assert torch.autograd.gradcheck(at_once, (weight, maps))


@every_group
def test_a_bias_changes_nothing(group):
    c = example(group)
    weight = c.alignment.weights[group][:, :, None, None]
    bias = torch.randn(len(weight), dtype=torch.float64)
    assert close(transfer(c, functional.conv2d(c.maps, weight, bias)), transfer(c))


@every_group
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_gradient_reaches_the_teacher(group, dtype):
    c = example(group)
    teacher = c.teacher.to(dtype).requires_grad_()
    official = losses.official_attention_transfer(c.alignment(c.maps, group), teacher)
    (transfer(c._replace(teacher=teacher)) + official).backward()
    assert teacher.grad is None


@every_group
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_teacher_rows_with_zeros_stay_finite(group, dtype):
    c = example(group)
    one_hot = functional.one_hot(c.teacher.argmax(-1), c.teacher.shape[-1])
    peaked = 60 * c.alignment(c.maps, group).detach()
    exact = transfer(c._replace(teacher=one_hot.double()), peaked.to(dtype).double())
    intermediate = peaked.to(dtype).requires_grad_()
    loss = transfer(c._replace(teacher=one_hot.to(dtype)), intermediate)
    loss.backward()
    assert_close(loss, exact, 1e-5)
    assert intermediate.grad.isfinite().all()


@every_group
def test_official_formula_of_bf16_inputs_is_exact(group):
    c = example(group)
    intermediate = c.alignment(c.maps, group).detach().bfloat16()
    exact = losses.official_attention_transfer(intermediate.double(), c.teacher)
    loss = losses.official_attention_transfer(intermediate, c.teacher.float())
    assert_close(loss, exact, 1e-4)


@pytest.mark.parametrize("name", ["paper", "geometric"])
def test_shown_maps_are_those_compared(name):
    """A teacher with exactly the shown maps has no divergence, even where students look nowhere."""
    c = example("encoder")
    maps, keys = c.maps[:1].clone(), torch.ones(4, 4, dtype=torch.bool)
    maps[..., 1] = 0  # all students ignore this key
    weight = c.alignment.weights["encoder"].detach()
    formula = FORMULAS[name]
    shown = formula.intermediate(weight, maps, keys)
    loss = formula.loss(
        StackedMaps(maps), StackedMaps(shown), keys[None], torch.ones(1, 4).bool(), weight
    )
    assert loss.abs() < 1e-9
