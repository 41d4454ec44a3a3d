"""Token losses: naive twins, PyTorch's autograd, chunks, bf16."""

import naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import assert_close

from a2d.method import token_losses as module
from a2d.method.token_losses import Prediction, TopTokens, token_losses

chunks = st.sampled_from([1, 15, 2**22])
temperatures = st.sampled_from([0.5, 1.0, 3.0])
alphas = st.sampled_from([0.0, 0.3, 1.0])
smoothings = st.sampled_from([0.0, 0.1, 0.6])
seeds = st.integers(0, 2**16)
TOKEN_COUNT, VOCABULARY, WIDTH = 5, 7, 3


def prediction(seed, *, width=WIDTH, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return 2 * torch.randn(*shape, generator=generator, dtype=dtype)

    hidden, weight = random(TOKEN_COUNT, width), random(VOCABULARY, width)
    return Prediction(hidden.requires_grad_(), weight.requires_grad_(), random(VOCABULARY))


def targets(seed):
    return torch.randint(VOCABULARY, (TOKEN_COUNT,), generator=torch.Generator().manual_seed(seed))


def top_tokens(logits, count):
    top = logits.detach().log_softmax(-1).topk(count)
    return TopTokens(top.indices, top.values)


def spread(top):
    """Expand likeliest tokens into a full distribution."""
    other_count = VOCABULARY - top.ids.shape[-1]
    remainder = 1 - top.log_probabilities.exp().sum(-1, keepdim=True)
    distribution = (remainder / max(other_count, 1)).repeat(1, VOCABULARY)
    return distribution.scatter(-1, top.ids, top.log_probabilities.exp())


def reference(student, target, ids, alpha, temperature, smoothing):
    """The three losses by PyTorch's operations, with a graph."""
    ce = torch.nn.functional.cross_entropy(
        student.logits, ids, reduction="sum", label_smoothing=smoothing
    )
    predicted = (student.logits / temperature).log_softmax(-1)
    target = target.clamp_min(1e-300).log().div(temperature).softmax(-1)
    kd = -(target * predicted).sum() * temperature**2
    return (1 - alpha) * ce + alpha * kd, ce, kd


@given(
    seeds,
    st.tuples(chunks, chunks),
    alphas,
    temperatures,
    smoothings,
    st.sampled_from([None, 1, 4, VOCABULARY]),
)
@settings(max_examples=80, deadline=None)
def test_losses_and_gradients_equal_autograd(seed, sizes, alpha, temperature, smoothing, count):
    student, teacher, ids = prediction(seed), prediction(seed + 1, width=4), targets(seed)
    teacher_tokens = teacher if count is None else top_tokens(teacher.logits, count)
    target = teacher.logits.detach().softmax(-1) if count is None else spread(teacher_tokens)
    expected = reference(student, target, ids, alpha, temperature, smoothing)
    gradients = torch.autograd.grad(3 * expected[0], student[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", sizes[0])
        patch.setattr(module, "BLOCK", sizes[1])
        losses = token_losses(
            student,
            ids,
            teacher_tokens,
            alpha=alpha,
            temperature=temperature,
            label_smoothing=smoothing,
        )
    for one, other in zip(losses, expected, strict=True):
        assert_close(one, other, 1e-9)
    for one, other in zip(
        torch.autograd.grad(3 * losses.tokens, student[:2]), gradients, strict=True
    ):
        assert_close(one, other, 1e-9)


@given(seeds, temperatures, st.floats(0, 0.8))
@settings(max_examples=40, deadline=None)
def test_values_equal_the_naive_twin(seed, temperature, smoothing):
    student, teacher, ids = prediction(seed), prediction(seed + 1), targets(seed)
    converted = smoothing * VOCABULARY / (VOCABULARY - 1)
    losses = token_losses(student, ids, teacher, temperature=temperature, label_smoothing=converted)
    student_logits, teacher_logits = student.logits.tolist(), teacher.logits.tolist()
    naively = naive.cross_entropy(student_logits, ids.tolist(), smoothing)
    assert losses.ce.item() == pytest.approx(naively, rel=1e-10)
    naively = naive.word_level_kd(student_logits, teacher_logits, temperature)
    assert losses.kd.item() == pytest.approx(naively, rel=1e-10)


def test_without_a_teacher_it_is_cross_entropy():
    student, ids = prediction(0), targets(0)
    losses = token_losses(student, ids, alpha=0.7, label_smoothing=0.1)
    assert losses.tokens == losses.ce
    assert losses.kd == 0
    gradients = torch.autograd.grad(losses.tokens, student[:2])
    expected = torch.nn.functional.cross_entropy(
        student.logits, ids, reduction="sum", label_smoothing=0.1
    )
    for one, other in zip(gradients, torch.autograd.grad(expected, student[:2]), strict=True):
        assert_close(one, other, 1e-12)


def test_only_the_weighted_sum_has_gradients_for_the_student_alone():
    student, teacher = prediction(0), prediction(1)
    losses = token_losses(student, targets(0), teacher)
    assert [loss.requires_grad for loss in losses] == [True, False, False]
    losses.tokens.backward()
    assert teacher.hidden.grad is None
    assert teacher.weight.grad is None


def test_gradient_is_zero_where_student_equals_teacher():
    student = prediction(0)
    token_losses(student, targets(0), student, alpha=1.0, temperature=2.0).tokens.backward()
    assert student.hidden.grad.abs().max() < 1e-12


def test_frozen_embeddings_get_no_gradient():
    student = prediction(0)
    student.weight.requires_grad_(False)
    token_losses(student, targets(0)).tokens.backward()
    assert student.hidden.grad.abs().max() > 0
    assert student.weight.grad is None


def test_without_tokens_the_loss_is_zero():
    student = prediction(0)
    losses = token_losses(student.at(slice(0, 0)), targets(0)[:0], student.at(slice(0, 0)))
    losses.tokens.backward()
    assert [loss.item() for loss in losses] == [0, 0, 0]
    assert student.weight.grad.abs().max() == 0


def test_autocast_computes_logits_in_bf16_and_losses_in_float32():
    student, teacher = (prediction(seed, dtype=torch.float32) for seed in (0, 1))
    exact = token_losses(student, targets(0), teacher)
    gradients = torch.autograd.grad(exact.tokens, student[:2])
    with torch.autocast("cpu", torch.bfloat16):
        losses = token_losses(student, targets(0), teacher)
    for one, other in zip(losses, exact, strict=True):
        assert one.dtype == torch.float32
        assert one != other
        assert_close(one, other.item(), 2e-2)
    rounded = torch.autograd.grad(losses.tokens, student[:2])
    for one, other in zip(rounded, gradients, strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other, 5e-2)
