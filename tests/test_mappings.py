"""Methods that A2D is compared with: naive twins, mappings, refusals, files."""

import math
from functools import partial

import naive
import pytest
import torch
from features import (
    WIDTHS,
    agree,
    case,
    cases,
    cast,
    close,
    distance_of_hidden,
    dot,
    example,
    kl,
    losses_of,
    one_sentence,
    refill,
    relevant,
    squares,
    tensors,
    with_gradients,
    wrap_maps,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config

from a2d.errors import UserError
from a2d.families import Geometry
from a2d.method.attention import GROUPS, Features
from a2d.method.mappings import (
    Combination,
    LayerMapping,
    MiniLM,
    TinyBert,
    last_mapping,
    uniform_mapping,
)
from a2d.method.methods import METHODS as REGISTERED
from a2d.method.objective import Objective
from a2d.training.distillation import build_transfer

METHODS = {
    "last": partial(LayerMapping, "last"),
    "uniform": partial(LayerMapping, "uniform"),
    "tinybert": partial(TinyBert, widths=WIDTHS),
    "minilm": partial(MiniLM, width=WIDTHS[0]),
    "ckd": Combination,
}
SHALLOW = ("last", "ckd")  # methods that refuse students deeper than their teacher

every_method = pytest.mark.parametrize("method", METHODS)
every_group = st.sampled_from(GROUPS)
depths = st.integers(1, 24)


def method_for(method, c, groups=GROUPS):
    torch.manual_seed(0)
    return METHODS[method](*c.shapes, groups=groups).double()


def cases_for(data, method):
    return data.draw(cases(shallow=method in SHALLOW))


# Mappings of layers


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (4, 12, [3, 6, 9, 12]),  # TinyBERT: g(m) = 3m
        (6, 12, [2, 4, 6, 8, 10, 12]),
        (3, 6, [2, 4, 6]),
        (1, 6, [6]),
        (5, 5, [1, 2, 3, 4, 5]),
        (4, 2, [1, 1, 2, 2]),
        (4, 6, [2, 3, 4, 6]),
    ],
)
def test_uniform_mapping_by_example(student, teacher, expected):
    assert [layer + 1 for layer in uniform_mapping(student, teacher)] == expected


@given(depths, depths)
def test_uniform_mapping_keeps_relative_depth(student, teacher):
    mapping = uniform_mapping(student, teacher)
    assert len(mapping) == student
    assert mapping == sorted(mapping)
    assert mapping[-1] == teacher - 1
    for layer, imitated in enumerate(mapping, start=1):
        assert 0 <= imitated < teacher
        off = abs((imitated + 1) * student - layer * teacher)  # in teacher layers, times student
        assert 2 * off <= student or (imitated == 0 and layer * teacher < student)
    if student <= teacher:
        assert len(set(mapping)) == student


@given(depths, depths)
def test_last_mapping_takes_the_last_in_order(student, teacher):
    if student > teacher:
        with pytest.raises(UserError, match=rf"'last'.* has {student} and the teacher {teacher}:"):
            last_mapping(student, teacher)
    else:
        numbered = list(range(teacher))
        assert last_mapping(student, teacher) == numbered[len(numbered) - student :]


@given(depths)
def test_equal_depths_map_to_themselves(layers):
    assert uniform_mapping(layers, layers) == last_mapping(layers, layers) == list(range(layers))


# Twins: loops over sentences b, query rows q, student layers s and pairs of maps


def rows_of_maps(c, group, mapping, maps):
    """Yield (row of the student, row of the teacher, 1/pairs) over visible keys."""
    student_heads, teacher_heads = (shape.heads(group) for shape in c.shapes)
    teacher = c.teacher.maps[group].tolist()
    for b in range(len(maps)):
        visible = naive.visible(group, c.source[b].tolist(), c.target[b].tolist())
        for q, keys in visible.items():
            for s, t in enumerate(mapping):
                student_rows = [
                    [maps[b][s * student_heads + h][q][k] for k in keys]
                    for h in range(student_heads)
                ]
                teacher_rows = [
                    [teacher[b][t * teacher_heads + h][q][k] for k in keys]
                    for h in range(teacher_heads)
                ]
                if student_heads != teacher_heads:
                    student_rows, teacher_rows = [mean(student_rows)], [mean(teacher_rows)]
                for pair in zip(student_rows, teacher_rows, strict=True):
                    yield *pair, 1 / (len(student_rows) * len(mapping))


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def divergence_of_maps(c, group, mapping, maps):
    return sum(
        share * kl(teacher_row, [math.log(p + 1e-6) for p in row])
        for row, teacher_row, share in rows_of_maps(c, group, mapping, maps)
    )


def distance_of_maps(c, group, mapping, maps):
    rows = rows_of_maps(c, group, mapping, maps)
    return sum(share * squares(row, teacher_row) for row, teacher_row, share in rows)


def divergence_of_relations(c, group, values):
    """KL divergence between softmax(V·Vᵀ/√d), split into the teacher's number of heads."""
    tokens = {"encoder": c.source, "decoder": c.target}[group].tolist()
    count, teacher = c.shapes[1].heads(group), c.teacher.values[group].tolist()
    total = 0.0
    for b in range(len(tokens)):
        at = naive.positions(tokens[b])
        for head in range(count):
            student_vectors, teacher_vectors = (
                [cut([x for v in model[b] for x in v[n]], count, head) for n in at]
                for model in (values, teacher)
            )
            for n in range(len(at)):
                target = [math.exp(log) for log in naive.log_softmax(products(teacher_vectors, n))]
                total += kl(target, products(student_vectors, n)) / count
    return total


def cut(vector, count, part):
    size = len(vector) // count
    return vector[part * size : (part + 1) * size]


def products(vectors, n):
    return [dot(vectors[n], other) / math.sqrt(len(other)) for other in vectors]


def distance_of_fusion(c, group, weight, maps):
    """Squared distance of student maps from weighted sums of the teacher maps in their share."""
    (layers, heads), (depth, teacher_heads) = ((g.layers(group), g.heads(group)) for g in c.shapes)
    teacher = c.teacher.maps[group].tolist()
    total = 0.0
    for b in range(len(maps)):
        visible = naive.visible(group, c.source[b].tolist(), c.target[b].tolist())
        for channel in range(layers * heads):
            in_share = [t for t in range(depth) if share(t, layers, depth) == channel // heads]
            inputs = [t * teacher_heads + h for t in in_share for h in range(teacher_heads)]
            for q, k in ((q, k) for q, keys in visible.items() for k in keys):
                fusion = sum(weight[channel][f] * teacher[b][f][q][k] for f in inputs)
                total += (maps[b][channel][q][k] - fusion) ** 2 / (layers * heads)
    return total


def share(layer, student, teacher):
    """Student layer s whose interval [s/S, (s+1)/S) of depth contains the start of a layer."""
    return next(s for s in range(student) if layer * student < (s + 1) * teacher)


# Each method equals its twin


@pytest.mark.parametrize("rule", ["last", "uniform"])
@given(st.data(), every_group)
@settings(max_examples=50, deadline=None)
def test_layer_mapping_equals_its_twin(rule, data, group):
    c = cases_for(data, rule)
    transfer = method_for(rule, c)
    rule_of = {"last": last_mapping, "uniform": uniform_mapping}[rule]
    mapping = rule_of(*(shape.layers(group) for shape in c.shapes))
    maps = c.student.maps[group].requires_grad_()
    twin = partial(divergence_of_maps, c, group, mapping)
    assert agree(losses_of(transfer, c)[group], twin, [maps])


@given(cases(), every_group)
@settings(max_examples=50, deadline=None)
def test_tinybert_equals_its_twin(c, group):
    loss = losses_of(transfer := method_for("tinybert", c), with_gradients(c))[group]
    mapping = uniform_mapping(*(shape.layers(group) for shape in c.shapes))
    maps = c.student.maps[group]
    if group == "cross":
        assert agree(loss, partial(distance_of_maps, c, group, mapping), [maps])
        return

    def twin(maps, projection, *hidden):
        distance = distance_of_maps(c, group, mapping, maps)
        return distance + distance_of_hidden(c, group, mapping, projection, hidden)

    weight = transfer.projections[group].weight
    inputs = [maps, weight, *c.student.hidden[group]]
    assert agree(loss, twin, inputs)


@given(cases(), every_group)
@settings(max_examples=50, deadline=None)
def test_minilm_equals_its_twin(c, group):
    loss = losses_of(method_for("minilm", c), with_gradients(c))[group]
    heads, teacher_layers = c.shapes[0].heads(group), c.shapes[1].layers(group)

    def twin(maps, values=None):
        lasts = [sentence[-heads:] for sentence in maps]
        divergence = divergence_of_maps(c, group, [teacher_layers - 1], lasts)
        return divergence + (divergence_of_relations(c, group, values) if values else 0)

    inputs = [c.student.maps[group], c.student.values[group]][: 1 if group == "cross" else 2]
    assert agree(loss, twin, inputs)


@given(cases(shallow=True), every_group)
@settings(max_examples=50, deadline=None)
def test_ckd_equals_its_twin(c, group):
    transfer = method_for("ckd", c)
    torch.nn.init.normal_(transfer.weights[group])  # weights outside of the shares, too
    loss = losses_of(transfer, with_gradients(c))[group]
    twin = partial(distance_of_fusion, c, group)
    assert agree(loss, twin, [transfer.weights[group], c.student.maps[group]])


# Positions without influence


@every_method
@given(st.data())
@settings(max_examples=15, deadline=None)
def test_padding_and_future_positions_have_no_influence(method, data):
    c = cases_for(data, method)
    transfer = method_for(method, c)
    terms = losses_of(transfer, c)
    other = with_gradients(refill(c))
    for group, term in losses_of(transfer, other).items():
        assert close(term, terms[group], 1e-12)
        gradients = torch.autograd.grad(term, tensors(other.student), materialize_grads=True)
        for gradient, mask in zip(gradients, masks_of(other), strict=True):
            assert not gradient.masked_fill(mask, 0).any()


def masks_of(c):
    """Masks from `relevant`, one for each of the student's `tensors`."""
    masks = relevant(c)
    hidden = [masks.hidden[stack] for stack, layers in c.student.hidden.items() for _ in layers]
    return [*masks.maps.values(), *masks.values.values(), *hidden]


@every_method
def test_terms_are_sums_over_sentences_without_padding(method):
    c = example()
    transfer = method_for(method, c)
    parts = [losses_of(transfer, one_sentence(c, index)) for index in range(len(c.source))]
    for group, term in losses_of(transfer, c).items():
        assert close(sum(part[group] for part in parts), term)


@every_method
@given(st.data())
@settings(max_examples=15, deadline=None)
def test_is_never_negative(method, data):
    c = cases_for(data, method)
    assert all(term >= -1e-12 for term in losses_of(method_for(method, c), c).values())


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_reaches_the_teacher(method):
    c = example()
    for tensor in tensors(c.teacher):
        tensor.requires_grad_()
    sum(losses_of(method_for(method, with_gradients(c)), c).values()).backward()
    assert all(tensor.grad is None for tensor in tensors(c.teacher))


# Equal models


@pytest.mark.parametrize("method", ["last", "uniform", "minilm", "tinybert", "ckd"])
@pytest.mark.parametrize("sharpness", [1, 20])
def test_equal_models_have_no_distance(method, sharpness):
    c = equal(sharpness)
    transfer = METHODS[method](*c.shapes, groups=GROUPS, **equal_widths(method)).double()
    for parameter in transfer.parameters():
        torch.nn.init.eye_(parameter)
    for term in losses_of(transfer, c).values():
        # A millionth is added to the student's probabilities before the logarithm.
        assert abs(term) < 1e-4 if method in ("last", "uniform", "minilm") else term == 0


def equal(sharpness=1):
    """A student equal to its teacher; encoder and decoder have different numbers of heads."""
    c = example((2, 3, 3, 2), (2, 3, 3, 2), sharpness=sharpness)
    return c._replace(teacher=c.student)


def equal_widths(method):
    widths = {"tinybert": {"widths": (WIDTHS[0],) * 2}, "minilm": {"width": WIDTHS[0]}}
    return widths.get(method, {})


@every_method
def test_different_models_have_a_distance(method):
    c = example()
    assert all(term > 0.01 for term in losses_of(method_for(method, c), c).values())


# Combination


@given(cases(shallow=True), every_group)
@settings(max_examples=25, deadline=None)
def test_ckd_starts_near_the_mean_of_each_share(c, group):
    (layers, heads), (depth, teacher_heads) = ((g.layers(group), g.heads(group)) for g in c.shapes)
    transfer = method_for("ckd", c)
    weight = transfer.weights[group]
    assert weight.shape == (layers * heads, depth * teacher_heads)
    owners = [share(t, layers, depth) for t in range(depth)]
    assert owners == sorted(owners)
    assert {owners.count(s) for s in range(layers)} <= {depth // layers, -(-depth // layers)}
    for channel in range(layers * heads):
        inputs = [
            t * teacher_heads + h
            for t in range(depth)
            if owners[t] == channel // heads
            for h in range(teacher_heads)
        ]
        for f in range(depth * teacher_heads):
            expected = 1 / len(inputs) if f in inputs else 0
            assert abs(weight[channel, f] - expected) <= 0.6 * expected


def test_ckd_heads_have_different_initial_weights():
    weight = method_for("ckd", example()).weights["encoder"]
    assert len({tuple(row) for row in weight.tolist()}) == len(weight)


# Refusals and choice of groups


@pytest.mark.parametrize("method", SHALLOW)
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_student_that_is_too_deep_is_refused(method, side):
    student, teacher = Geometry(2, 2, 2, 2), Geometry(3, 3, 2, 2)
    deep = student._replace(**{f"{side}_layers": 4})
    with pytest.raises(UserError, match=rf"method '{method}'.*\b[34]\b.*\b[34]\b.*method"):
        METHODS[method](deep, teacher, groups=GROUPS)
    other = tuple(group for group in GROUPS if (group == "encoder") != (side == "encoder"))
    METHODS[method](deep, teacher, groups=other)


@pytest.mark.parametrize("method", ["uniform", "tinybert", "minilm"])
def test_other_methods_take_a_deeper_student(method):
    c = example((3, 3, 2, 2), (2, 1, 2, 2))
    assert set(losses_of(method_for(method, c), c)) == set(GROUPS)


@pytest.mark.parametrize(("heads", "group"), [((5, 2), "encoder"), ((2, 5), "decoder")])
def test_a_width_that_cannot_be_split_is_refused(heads, group):
    shapes = Geometry(1, 1, 2, 2), Geometry(2, 2, *heads)
    with pytest.raises(UserError, match=r"method 'minilm'.* width 12 .* 5 heads"):
        MiniLM(*shapes, GROUPS, 12)
    MiniLM(*shapes, ("decoder",) if group == "encoder" else ("encoder",), 12)
    MiniLM(*shapes, GROUPS, 10)


def test_minilm_splits_the_values_not_the_hidden_states():
    """mT5-small: six heads of 64 channels under a width of 512, which six does not divide."""
    config = T5Config(d_model=512, num_heads=6, d_kv=64, num_layers=1, num_decoder_layers=1)
    objective = Objective("minilm", "geometric", alpha=0.5, temperature=1.0, label_smoothing=0.1)
    assert isinstance(build_transfer(objective, config, config), MiniLM)


@every_method
@pytest.mark.parametrize("groups", [("encoder",), ("cross",), ("decoder", "cross"), GROUPS])
def test_groups_are_the_terms(method, groups):
    c = example()
    all_terms = losses_of(method_for(method, c), c)
    only = [
        wrap_maps(model._replace(maps={group: model.maps[group] for group in groups}))
        for model in (c.student, c.teacher)
    ]
    transfer = method_for(method, c, groups)
    parameters = dict(method_for(method, c).named_parameters())
    for name, parameter in transfer.named_parameters():
        parameter.data = parameters[name].data
    terms = transfer(*only, {group: c.masks[group] for group in groups})
    assert tuple(terms) == groups
    for group, term in terms.items():
        assert close(term, all_terms[group])


@pytest.mark.parametrize(
    ("method", "groups", "names"),
    [
        ("last", GROUPS, set()),
        ("uniform", GROUPS, set()),
        ("minilm", GROUPS, set()),
        ("tinybert", GROUPS, {"projections.encoder.weight", "projections.decoder.weight"}),
        ("tinybert", ("decoder", "cross"), {"projections.decoder.weight"}),
        ("tinybert", ("cross",), set()),
        ("ckd", GROUPS, {f"weights.{group}" for group in GROUPS}),
        ("ckd", ("cross",), {"weights.cross"}),
    ],
)
def test_parameters_are_saved(method, groups, names, tmp_path):
    c = example()
    transfer = method_for(method, c, groups).float()
    assert {name for name, _ in transfer.named_parameters()} == names
    for parameter in transfer.parameters():
        parameter.data.add_(0.1)  # as after a training
    transfer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["transfer.safetensors"] * bool(names)
    copy = method_for(method, c, groups).float()
    copy.load(tmp_path)
    expected, terms = (losses_of(t.double(), c) for t in (transfer, copy))
    assert all(torch.equal(expected[group], terms[group]) for group in groups)
    for parameter in copy.parameters():
        (gradient,) = torch.autograd.grad(sum(terms.values()), parameter, retain_graph=True)
        assert gradient.any()


@pytest.mark.parametrize("method", ["tinybert", "ckd"])
def test_a_file_of_other_models_is_refused(method, tmp_path):
    METHODS[method](Geometry(2, 2, 2, 2), Geometry(2, 2, 2, 2), groups=GROUPS).save(tmp_path)
    other = METHODS[method](Geometry(2, 2, 2, 2), Geometry(2, 2, 2, 2), groups=("encoder",))
    with pytest.raises(UserError, match="not a checkpoint of this method"):
        other.load(tmp_path)
    (tmp_path / "transfer.safetensors").unlink()
    with pytest.raises(UserError, match="not a checkpoint of this method"):
        other.load(tmp_path)


@every_method
def test_a_method_names_the_features_that_it_reads(method):
    c = example()
    transfer = method_for(method, c)
    entry = REGISTERED[method]
    bare = [
        wrap_maps(
            Features(
                model.maps,
                model.values if entry.values else {},
                model.hidden if entry.hidden_states else {},
            )
        )
        for model in (c.student, c.teacher)
    ]
    expected = losses_of(transfer, c)
    assert all(close(term, expected[group]) for group, term in transfer(*bare, c.masks).items())


# Precision


@every_method
def test_bf16_autocast_stays_near_float64(method):
    lengths = torch.tensor([14, 9, 12])
    tokens = torch.arange(14) < lengths[:, None]
    c = case((2, 2, 3, 3), (3, 2, 3, 2), tokens, tokens, sharpness=2)
    transfer = method_for(method, c)
    exact = losses_of(transfer, c)
    low = c._replace(student=cast(c.student, torch.float32), teacher=cast(c.teacher, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        terms = losses_of(transfer.float(), with_gradients(low))
    for group, term in terms.items():
        assert term.dtype == torch.float32
        rounded = method in ("tinybert", "minilm") and group != "cross"  # in a matrix product
        assert abs(term - exact[group]) <= (5e-3 if rounded else 1e-5) * exact[group]
    sum(terms.values()).backward()
    for tensor in tensors(low.student):
        assert tensor.grad is None or tensor.grad.isfinite().all()


@every_method
def test_maps_with_zeros_and_empty_sentences_stay_finite(method):
    tokens = [[1, 1, 1, 1], [0, 0, 0, 0]]
    c = case((2, 1, 2, 3), (3, 2, 2, 1), tokens, tokens, sharpness=1000)
    c = c._replace(student=cast(c.student, torch.float32), teacher=cast(c.teacher, torch.float32))
    transfer = method_for(method, c).float()
    terms = losses_of(transfer, with_gradients(c))
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    gradients = [tensor.grad for tensor in (*tensors(c.student), *transfer.parameters())]
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
