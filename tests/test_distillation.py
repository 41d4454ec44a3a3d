"""`Distillation`: the terms of a batch, and their gradients."""

from itertools import combinations

import pytest
import torch
from toys import TERMS, RecordedModel, assert_close, batch, marian
from transformers import GenerationConfig

from a2d.method import attention
from a2d.method.attention import GROUPS, enable_capture
from a2d.method.formulas import FORMULAS
from a2d.method.maps import StackedMaps
from a2d.method.methods import METHODS
from a2d.method.objective import Objective
from a2d.training.distillation import IGNORE_INDEX, Distillation
from a2d.training.outputs import Outputs, model_outputs

LENGTHS = {"source_lengths": [4, 6, 2], "target_lengths": [5, 2, 4]}
ON_TOKENS, ALL = {"ce", "kd"}, {"ce", "kd", "encoder", "decoder", "cross"}
TERMS_OF = {
    "baseline": {"ce"},
    "kd": ON_TOKENS,
    "seqkd": {"ce"},
    "seqkd+references": {"ce"},
    "seqkd+kd": ON_TOKENS,
    **dict.fromkeys(
        ("last", "uniform", "tinybert", "minilm", "ckd", "a2d", "a2d+hidden", "seqkd+a2d"), ALL
    ),
}
TRAINED_TERMS = ("tokens", *GROUPS)
COMPARING = [method for method, terms in TERMS_OF.items() if terms == ALL]

WAYS = [
    *[("a2d", formula) for formula in FORMULAS],
    *[(method, "paper") for method in COMPARING if method != "a2d"],
]
every_way = pytest.mark.parametrize(("method", "formula"), WAYS)


def capturing_model(*geometry, seed=0):
    model = marian(*geometry, seed=seed).double()
    enable_capture(model)
    return model


def teacher():
    return capturing_model(3, 2, 4, 3, seed=1)


def outputs(inputs, module):
    with torch.no_grad():
        return model_outputs(teacher(), inputs, module.needs)


def distillation(method="a2d", formula="paper", alpha=0.5, **settings):
    student = capturing_model(2, 2, 2, 3)
    torch.manual_seed(2)
    objective = Objective(method, formula, alpha, temperature=2.0, label_smoothing=0.1, **settings)
    return Distillation(student, objective, teacher().config).double()


def sentence(inputs, index):
    """One sentence of a batch, without its padding."""
    source = inputs["attention_mask"][index].bool()
    target = inputs["labels"][index] != IGNORE_INDEX
    return {
        "input_ids": inputs["input_ids"][index][source][None],
        "attention_mask": inputs["attention_mask"][index][source][None],
        "labels": inputs["labels"][index][target][None],
    }


def total(terms):
    """Sum of the terms that have gradients."""
    return sum(terms[name] for name in TRAINED_TERMS)


@every_way
def test_gradients_of_terms_differ(method, formula):
    inputs = batch(**LENGTHS)
    gradients = {}
    for name in TERMS:
        module = distillation(method, formula, alpha=float(name == "kd"))
        terms = module(**inputs, teacher=outputs(inputs, module))
        parameters = [p for p in module.student.parameters() if p.requires_grad]
        term = terms[name if name in GROUPS else "tokens"]
        parts = torch.autograd.grad(term, parameters, materialize_grads=True)
        gradient = torch.cat([part.flatten() for part in parts])
        assert gradient.norm() > 1e-6, name
        gradients[name] = gradient / gradient.norm()
    for one, other in combinations(TERMS, 2):
        assert abs(gradients[one] @ gradients[other]) < 0.99, (one, other)


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_term_trains_the_alignment_of_its_group_alone(formula):
    inputs = batch(**LENGTHS)
    module = distillation(formula=formula)
    terms = module(**inputs, teacher=outputs(inputs, module))
    weights = [module.alignment.weights[group] for group in GROUPS]
    for name in TRAINED_TERMS:
        parts = torch.autograd.grad(terms[name], weights, retain_graph=True, materialize_grads=True)
        trained_groups = [
            group for group, part in zip(GROUPS, parts, strict=True) if part.norm() > 1e-9
        ]
        assert trained_groups == [name] * (name in GROUPS)


@pytest.mark.parametrize(
    ("method", "formula"),
    [(method, formula) for method, formula in WAYS if "official" not in formula],  # padding counts
)
def test_terms_are_sums_over_sentences_without_padding(method, formula):
    inputs = batch(**LENGTHS)
    module = distillation(method, formula)
    batch_terms = module(**inputs, teacher=outputs(inputs, module))
    sentence_terms = []
    for index in range(len(inputs["labels"])):
        inputs_of_one = sentence(inputs, index)
        sentence_terms.append(module(**inputs_of_one, teacher=outputs(inputs_of_one, module)))
    for name in TERMS:
        in_float32 = method in ("tinybert", "minilm", "a2d+hidden") and name in GROUPS
        tolerance = 1e-6 if in_float32 else 1e-10
        assert_close(sum(terms[name] for terms in sentence_terms), batch_terms[name], tolerance)


@every_way
def test_long_sentences_give_the_same_losses_and_gradients(method, formula, monkeypatch):
    inputs = batch(**LENGTHS)
    results = []
    for long in (attention.LONG, 4):
        monkeypatch.setattr(attention, "LONG", long)
        module = distillation(method, formula)
        terms = module(**inputs, teacher=outputs(inputs, module))
        total(terms).backward()
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        results.append((torch.stack([terms[name] for name in TERMS]), torch.cat(gradients)))
    for one, other in zip(*results, strict=True):
        assert_close(one, other.detach(), 1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_terms_of_each_method(method):
    inputs = batch(**LENGTHS)
    module = distillation(method)
    has_teacher = method not in ("baseline", "seqkd", "seqkd+references")
    terms = module(**inputs, teacher=outputs(inputs, module) if has_teacher else None)
    assert {name for name, term in terms.items() if term != 0} == {"tokens"} | TERMS_OF[method]
    assert {term.name for term in module.objective.terms} == TERMS_OF[method]
    assert terms["tokens"] == (terms["ce"] + terms.get("kd", 0)) / (2 if has_teacher else 1)
    assert (module.alignment is not None) == ("a2d" in method)


@pytest.mark.parametrize("method", [m for m in METHODS if "a2d" not in m])
def test_other_methods_ignore_the_formula(method):
    inputs = batch(**LENGTHS)
    modules = [distillation(method, formula) for formula in ("paper", "official")]
    one, other = (module(**inputs, teacher=outputs(inputs, module)) for module in modules)
    assert one == other
    assert not modules[1].objective.released_normalisation


@pytest.mark.parametrize("method", COMPARING)
@pytest.mark.parametrize("groups", [("encoder",), ("decoder", "cross")])
def test_groups_that_are_not_compared_have_no_terms(method, groups):
    inputs = batch(**LENGTHS)
    module = distillation(method, groups=groups)
    terms = module(**inputs, teacher=outputs(inputs, module))
    assert set(terms) == {"tokens", "ce", "kd", *groups}


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_gradient_reaches_the_teacher(formula):
    inputs = batch(**LENGTHS)
    model = teacher()
    module = distillation(formula=formula)
    terms = module(**inputs, teacher=model_outputs(model, inputs, module.needs))
    total(terms).backward()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("formula", FORMULAS)
def test_bf16_autocast_stays_near_float64(formula):
    inputs = batch([14, 26, 12], [15, 22, 24])
    # The student's layers are replaced by their outputs: only the losses run in bf16.
    module = distillation(formula=formula)
    with torch.no_grad():
        tokens, features = model_outputs(module.student, inputs, module.needs)
    module.student = RecordedModel(
        {g: features.maps[g].tensor[None] for g in GROUPS}, tokens.logits
    )
    exact_outputs = outputs(inputs, module)
    exact = module(**inputs, teacher=exact_outputs)

    maps = {
        group: StackedMaps(exact_outputs.features.maps[group].tensor.float()) for group in GROUPS
    }
    tokens = exact_outputs.tokens.to(torch.float32)
    low = Outputs(tokens, exact_outputs.features._replace(maps=maps))
    module.float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = module(**inputs, teacher=low)
    total(terms).backward()
    for name in TERMS:
        assert terms[name].dtype == torch.float32
        assert_close(terms[name], exact[name].item(), 5e-3)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert all(parameter.grad.isfinite().all() for parameter in trained)


def test_a_batch_without_target_tokens_has_finite_gradients():
    inputs = batch(**LENGTHS)
    inputs["labels"] = torch.full_like(inputs["labels"], IGNORE_INDEX)
    module = distillation()
    terms = module(**inputs, teacher=outputs(inputs, module))
    assert [name for name in TERMS if terms[name] != 0] == ["encoder"]
    total(terms).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_it_has_the_interface_of_the_student():
    module = distillation()
    assert module.config is module.student.config
    assert module.generation_config is module.student.generation_config
    prompt = {k: v for k, v in batch(**LENGTHS).items() if k != "labels"}
    hypotheses = module.generate(**prompt, max_new_tokens=5)
    assert torch.equal(hypotheses, module.student.generate(**prompt, max_new_tokens=5))


def test_train_switches_all_modules():
    module = distillation()
    for switched in (module, module.student):  # one switch serves both
        for mode in (False, True):
            switched.train(mode)
            module.train(mode)
            assert {part.training for part in module.modules()} == {mode}


def test_generation_config_can_be_replaced():
    module = distillation()
    replacement = GenerationConfig(max_new_tokens=3)
    module.generation_config = replacement
    assert module.student.generation_config is replacement


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients():
    inputs = batch(**LENGTHS)
    gradients = []
    for checkpointing in (False, True):
        module = distillation().train()
        if checkpointing:
            module.gradient_checkpointing_enable()
        assert module.student.model.encoder.layers[0].gradient_checkpointing == checkpointing
        total(module(**inputs, teacher=outputs(inputs, module))).backward()
        weights = [p for p in module.parameters() if p.requires_grad]
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights]))
    assert_close(gradients[1], gradients[0], 1e-10)
