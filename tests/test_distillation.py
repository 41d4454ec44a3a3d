"""`Distillation`: what a batch's terms consist of, and whom their gradients reach."""

from itertools import combinations

import pytest
import torch
from toys import RecordedModel, assert_close, batch, marian
from transformers import GenerationConfig

from a2d.attention import GROUPS, Geometry, enable_capture
from a2d.distillation import IGNORED, TERMS, Distillation, Objective, TeacherSignals, run
from a2d.losses import FORMULAS

LENGTHS = {"source_lengths": [4, 6, 2], "target_lengths": [5, 2, 4]}


def prepared(*geometry, seed=0):
    model = marian(*geometry, seed=seed).double()
    enable_capture(model)
    return model


def teacher():
    return prepared(3, 2, 4, 3, seed=1)


def signals(inputs):
    with torch.no_grad():
        output, maps = run(teacher(), inputs, with_maps=True)
    return TeacherSignals(output.logits, maps)


def distillation(method="a2d", formula="paper"):
    student = prepared(2, 2, 2, 3)
    torch.manual_seed(2)
    objective = Objective(method, formula, temperature=2.0, label_smoothing=0.1)
    return Distillation(student, objective, Geometry.of(teacher().config)).double()


def sentence(inputs, index):
    """One sentence of a batch, without its padding."""
    source = inputs["attention_mask"][index].bool()
    target = inputs["labels"][index] != IGNORED
    return {
        "input_ids": inputs["input_ids"][index][source][None],
        "attention_mask": inputs["attention_mask"][index][source][None],
        "labels": inputs["labels"][index][target][None],
    }


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_term_has_a_gradient_of_its_own(formula):
    inputs = batch(**LENGTHS)
    module = distillation(formula=formula)
    terms = module(**inputs, teacher=signals(inputs))
    parameters = [p for p in module.student.parameters() if p.requires_grad]
    gradients = {}
    for name in TERMS:
        parts = torch.autograd.grad(
            terms[name], parameters, retain_graph=True, materialize_grads=True
        )
        gradient = torch.cat([part.flatten() for part in parts])
        assert gradient.norm() > 1e-6, name
        gradients[name] = gradient / gradient.norm()
    for one, other in combinations(TERMS, 2):
        assert abs(gradients[one] @ gradients[other]) < 0.99, (one, other)


@pytest.mark.parametrize("formula", FORMULAS)
def test_each_group_trains_its_own_alignment(formula):
    inputs = batch(**LENGTHS)
    module = distillation(formula=formula)
    terms = module(**inputs, teacher=signals(inputs))
    weights = [module.alignment.convolutions[group].weight for group in GROUPS]
    for name in TERMS:
        parts = torch.autograd.grad(terms[name], weights, retain_graph=True, materialize_grads=True)
        moved = [group for group, part in zip(GROUPS, parts, strict=True) if part.norm() > 1e-9]
        assert moved == [name] * (name in GROUPS)


def test_terms_are_sums_over_sentences_however_padded():
    inputs = batch(**LENGTHS)
    module = distillation()
    whole = module(**inputs, teacher=signals(inputs))
    parts = []
    for index in range(len(inputs["labels"])):
        alone = sentence(inputs, index)
        parts.append(module(**alone, teacher=signals(alone)))
    for name in TERMS:
        assert_close(sum(part[name] for part in parts), whole[name], 1e-10)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("baseline", {"ce"}), ("kd", {"ce", "kd"}), ("a2d", {"ce", "kd", *GROUPS})],
)
def test_a_method_has_its_terms_and_no_others(method, expected):
    inputs = batch(**LENGTHS)
    module = distillation(method)
    terms = module(**inputs, teacher=None if method == "baseline" else signals(inputs))
    assert tuple(terms) == TERMS
    assert {name for name, term in terms.items() if term != 0} == expected
    assert (module.alignment is not None) == (method == "a2d")


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_gradient_reaches_the_teacher(formula):
    inputs = batch(**LENGTHS)
    model = teacher()
    output, maps = run(model, inputs, with_maps=True)
    terms = distillation(formula=formula)(**inputs, teacher=TeacherSignals(output.logits, maps))
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "formula",
    [
        "paper",
        "official",
    ],
)
def test_bf16_autocast_stays_near_float64(formula):
    inputs = batch([14, 26, 12], [15, 22, 24])
    # What the student's own layers lose to bf16 is not at stake: its maps and logits are given.
    with torch.no_grad():
        output, maps = run(prepared(2, 2, 2, 3), inputs, with_maps=True)
    student = RecordedModel({group: maps[group][None] for group in GROUPS}, output.logits)
    module = distillation(formula=formula)
    module.student = student
    exact = module(**inputs, teacher=signals(inputs))

    logits, maps = signals(inputs)
    low = TeacherSignals(logits.float(), {group: maps[group].float() for group in GROUPS})
    module.float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = module(**inputs, teacher=low)
    sum(terms.values()).backward()
    for name in TERMS:
        assert terms[name].dtype == torch.float32
        assert_close(terms[name], exact[name].item(), 5e-3)
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_a_batch_without_target_tokens_is_harmless():
    inputs = batch(**LENGTHS)
    inputs["labels"] = torch.full_like(inputs["labels"], IGNORED)
    module = distillation()
    terms = module(**inputs, teacher=signals(inputs))
    assert [name for name in TERMS if terms[name] != 0] == ["encoder"]
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_it_passes_for_the_student():
    module = distillation()
    assert module.config is module.student.config
    assert module.generation_config is module.student.generation_config
    prompt = {k: v for k, v in batch(**LENGTHS).items() if k != "labels"}
    ours = module.generate(**prompt, max_new_tokens=5)
    assert torch.equal(ours, module.student.generate(**prompt, max_new_tokens=5))


def test_generation_config_can_be_replaced():
    module = distillation()
    replacement = GenerationConfig(max_new_tokens=3)
    module.generation_config = replacement
    assert module.student.generation_config is replacement


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_gradient_checkpointing_is_the_students():
    inputs = batch(**LENGTHS)
    gradients = []
    for checkpointing in (False, True):
        module = distillation().train()
        if checkpointing:
            module.gradient_checkpointing_enable()
        assert module.student.model.encoder.layers[0].gradient_checkpointing == checkpointing
        sum(module(**inputs, teacher=signals(inputs)).values()).backward()
        weights = [p for p in module.parameters() if p.requires_grad]
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights]))
    assert_close(gradients[1], gradients[0], 1e-10)
