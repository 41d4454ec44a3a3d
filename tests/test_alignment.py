"""`AttentionAlignment`: shapes, layout, and its file."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from a2d.errors import UserError
from a2d.families import Geometry
from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import GROUPS

STUDENT, TEACHER = Geometry(2, 1, 3, 2), Geometry(4, 3, 2, 5)
CHANNELS = {"encoder": (8, 6), "decoder": (15, 2), "cross": (15, 2)}


@pytest.fixture
def alignment():
    torch.manual_seed(0)
    return AttentionAlignment(STUDENT, TEACHER)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alignment.safetensors"


@pytest.mark.parametrize("group", GROUPS)
def test_shapes_for_unequal_depths_and_heads(alignment, group):
    teacher, student = CHANNELS[group]
    assert alignment.weights[group].shape == (teacher, student)
    assert alignment(torch.rand(2, student, 5, 7), group).shape == (2, teacher, 5, 7)


@pytest.mark.parametrize("group", GROUPS)
def test_equals_the_pointwise_convolution(alignment, group):
    maps = torch.rand(2, CHANNELS[group][1], 5, 7)
    expected = functional.conv2d(maps, alignment.weights[group][:, :, None, None])
    assert torch.allclose(alignment(maps, group), expected, atol=1e-6)


def test_starts_as_the_convolutions_of_pytorch_do():
    """Weights, and what the random generator gives next."""
    torch.manual_seed(3)
    alignment, following = AttentionAlignment(STUDENT, TEACHER), torch.rand(1)
    torch.manual_seed(3)
    for group in GROUPS:
        teacher, student = CHANNELS[group]
        convolution = torch.nn.Conv2d(student, teacher, kernel_size=1, bias=False)
        assert torch.equal(alignment.weights[group], convolution.weight.flatten(1))
    assert torch.equal(torch.rand(1), following)


def test_takes_maps_that_are_not_contiguous(alignment):
    maps = torch.rand(2, 6, 7, 5)
    expected = alignment(maps, "encoder").transpose(2, 3)
    assert torch.allclose(alignment(maps.transpose(2, 3), "encoder"), expected)


def test_weights_are_rows_of_teacher_channels(alignment):
    with torch.no_grad():
        alignment.weights["encoder"].zero_()[5, 2] = 3.0
    maps = torch.rand(1, 6, 4, 4)
    intermediate = alignment(maps, "encoder")
    assert torch.equal(intermediate[:, 5], 3 * maps[:, 2])
    assert intermediate.count_nonzero() == intermediate[:, 5].count_nonzero()
    assert alignment.weights["encoder"][5, 2] == 3


def test_trains_three_weights_and_nothing_else(alignment):
    parameters = dict(alignment.named_parameters())
    assert set(parameters) == {f"weights.{group}" for group in GROUPS}
    assert all(parameter.requires_grad for parameter in parameters.values())


def test_save_and_load(alignment, path):
    alignment.save(path)
    copy = AttentionAlignment.load(path)
    assert (copy.student, copy.teacher) == (STUDENT, TEACHER)
    for group in GROUPS:
        assert torch.equal(copy.weights[group], alignment.weights[group])
        assert copy.weights[group].requires_grad


def test_saving_twice_keeps_the_newer(alignment, path):
    alignment.save(path)
    newer = AttentionAlignment(TEACHER, STUDENT)
    newer.save(path)
    copy = AttentionAlignment.load(path)
    assert copy.student == TEACHER
    assert torch.equal(copy.weights["cross"], newer.weights["cross"])


def test_a_missing_file_is_refused(path):
    with pytest.raises(UserError, match=r"alignment\.safetensors does not exist"):
        AttentionAlignment.load(path)


def refused(path):
    with pytest.raises(
        UserError, match=r"alignment\.safetensors is not an alignment written by a2d"
    ):
        AttentionAlignment.load(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04pickle", bytes(200)])
def test_a_file_of_another_kind_is_refused(path, content):
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_refused(alignment, path, share):
    alignment.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


def geometry(**changes):
    return STUDENT._asdict() | changes


def model_geometries(teacher):
    return {"geometries": json.dumps({"student": geometry(), "teacher": teacher})}


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"geometries": "{"},
        {"geometries": json.dumps({"student": geometry()})},
        model_geometries([1, 2, 3, 4]),
        model_geometries(geometry(layers=3)),
        model_geometries(geometry(encoder_heads="two")),
        model_geometries(geometry(encoder_heads=-1)),
        model_geometries(geometry()),  # other shapes than the weights
    ],
    ids=["none", "bad-json", "half", "list", "unknown-key", "text", "negative", "shapes"],
)
def test_wrong_metadata_are_refused(alignment, path, metadata):
    save_file(alignment.state_dict(), path, metadata=metadata)
    refused(path)


def test_wrong_weights_are_refused(alignment, path):
    metadata, weights = model_geometries(TEACHER._asdict()), alignment.state_dict()
    save_file(weights, path, metadata=metadata)
    AttentionAlignment.load(path)
    for wrong in (
        {name: t for name, t in weights.items() if "cross" not in name},
        weights | {"lm_head.weight": torch.ones(2, 2)},
    ):
        save_file(wrong, path, metadata=metadata)
        refused(path)


def test_the_same_alignment_is_the_same_file(alignment, path):
    alignment.save(path)
    first = path.read_bytes()
    for _ in range(20):
        AttentionAlignment.load(path).save(path)
        assert path.read_bytes() == first
