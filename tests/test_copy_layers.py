"""Students that start from their teacher's layers."""

import pytest
import torch
from toys import batch

from a2d import A2DConfig, A2DTrainer, UserError
from a2d.models.loading import new_model
from a2d.models.students import copy_layers
from a2d.models.tokenizer import train_tokenizer
from a2d.text.corpus import read_corpus


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for pair in read_corpus("builtin:de-dsb/valid")[:100] for text in pair]
    return train_tokenizer(texts, 300)


@pytest.fixture
def model(tokenizer):
    """Function that makes models without equal weights."""
    torch.manual_seed(0)

    def make(encoder_layers, decoder_layers, heads=2, width=16, feed_forward=24):
        result = new_model(
            tokenizer,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            heads=heads,
            width=width,
            feed_forward=feed_forward,
        )
        with torch.no_grad():  # biases and layer norms start with equal values in every model
            for name, tensor in result.state_dict().items():
                if "embed_positions" not in name:
                    tensor.add_(torch.randn_like(tensor) / 4)
        return result.eval()

    return make


def layer(model, stack, index):
    """A layer's weights as one vector."""
    weights = model.get_submodule(f"model.{stack}.layers.{index}").parameters()
    return torch.cat([weight.detach().flatten() for weight in weights])


def copied(teacher, student, stack):
    """For each student layer, the teacher layer that it equals, or None."""
    depths = [getattr(m.config, f"{stack}_layers") for m in (student, teacher)]
    theirs = [layer(teacher, stack, index) for index in range(depths[1])]
    return [
        next((n for n, t in enumerate(theirs) if t.equal(layer(student, stack, i))), None)
        for i in range(depths[0])
    ]


def logits(model):
    with torch.inference_mode():
        return model(**batch([9, 4], [7, 5], vocabulary=300)).logits


def test_with_all_layers_it_equals_the_teacher(model):
    teacher, student = model(3, 2), model(3, 2)
    assert not logits(student).allclose(logits(teacher))
    copy_layers(teacher, student)
    assert logits(student).equal(logits(teacher))


@pytest.mark.parametrize(
    ("teacher_layers", "student_layers", "indices"),
    [
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (6, 4, [0, 2, 3, 5]),
        (6, 3, [0, 2, 5]),
        (6, 2, [0, 5]),
        (6, 1, [5]),
        (12, 4, [0, 4, 7, 11]),
        (3, 2, [0, 2]),
        (1, 1, [0]),
    ],
)
def test_layers_are_evenly_spaced_with_first_and_last(
    model, teacher_layers, student_layers, indices
):
    teacher, student = model(teacher_layers, 1), model(student_layers, 1)
    assert copied(teacher, student, "encoder") == [None] * student_layers
    copy_layers(teacher, student)
    assert copied(teacher, student, "encoder") == indices


def test_encoder_and_decoder_layers_are_chosen_separately(model):
    teacher, student = model(4, 6), model(2, 3)
    copy_layers(teacher, student)
    assert copied(teacher, student, "encoder") == [0, 3]
    assert copied(teacher, student, "decoder") == [0, 2, 5]


def test_embeddings_are_copied_and_stay_one_matrix(model):
    teacher, student = model(2, 2), model(1, 1)
    copy_layers(teacher, student)
    source, output = student.get_input_embeddings().weight, student.get_output_embeddings().weight
    assert source.equal(teacher.get_input_embeddings().weight)
    assert student.final_logits_bias.equal(teacher.final_logits_bias)
    assert source.data_ptr() == output.data_ptr()


def test_a_student_that_learns_does_not_change_its_teacher(model):
    teacher, student = model(2, 2), model(1, 1)
    copy_layers(teacher, student)
    initial = logits(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert logits(teacher).equal(initial)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"encoder_layers": 3}, "a student with 3 encoder layers cannot start from a teacher with"),
        ({"decoder_layers": 4}, "a student with 4 decoder layers cannot start from a teacher with"),
        ({"width": 32}, "or start it at random (a2d distill: --start random; "),
        (
            {"width": 8},
            "cannot copy the teacher's layers: the shapes of model.shared.weight differ",
        ),
        ({"feed_forward": 25}, "layers.0.fc1.weight differ"),
    ],
)
def test_other_shapes_are_refused_without_changes(model, shape, message):
    teacher, student = model(2, 2), model(**{"encoder_layers": 1, "decoder_layers": 1} | shape)
    initial = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with pytest.raises(UserError) as caught:
        copy_layers(teacher, student)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(tensor.equal(initial[name]) for name, tensor in student.state_dict().items())


def test_padding_stays_the_teacher_s_in_training(model, tokenizer, tmp_path):
    teacher, student = model(2, 2), model(1, 1)
    copy_layers(teacher, student)
    weight = student.get_input_embeddings().weight
    assert weight[tokenizer.pad_token_id].any()  # as in some pretrained teachers
    trainer = A2DTrainer(
        student,
        teacher,
        A2DConfig(str(tmp_path), method="kd", report_to=[]),
        processing_class=tokenizer,
    )
    assert weight.equal(teacher.get_input_embeddings().weight)
    others = torch.arange(len(tokenizer)) != tokenizer.pad_token_id
    with trainer.prepare_student():
        student(**batch([9, 4], [7, 5], vocabulary=300)).loss.backward()
    assert weight.grad[others].any()
    assert not weight.grad[tokenizer.pad_token_id].any()
