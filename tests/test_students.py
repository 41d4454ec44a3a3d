"""Students of every family: their teacher's architecture, vocabulary and layers."""

import re

import pytest
import torch
from datasets import Dataset
from pretrained import FAMILIES, model_of, tokenizer_of
from toys import batch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from a2d.errors import UserError
from a2d.families import FAMILIES as RECORDS
from a2d.families import Geometry, attention_width, sizes_of
from a2d.models.loading import check_same_ids, decoder_inputs
from a2d.models.students import choose_layers, student_config, student_of
from a2d.training.outputs import model_outputs

every_release = pytest.mark.parametrize("name", FAMILIES)


def teacher_of(name, **sizes):
    return model_of(name, tokenizer_of(name), **{"layers": (4, 3), "heads": 4} | sizes)


def sample(seed=0):
    """Tokenised pairs of random tokens."""
    rng = torch.Generator().manual_seed(seed)

    def tokens(length):
        return torch.randint(5, 300, (length,), generator=rng).tolist()

    pairs = [{"input_ids": tokens(7), "labels": tokens(5 + n % 3)} for n in range(40)]
    return Dataset.from_list(pairs)


def logits(model):
    with torch.no_grad():
        return model_outputs(model, batch([7, 4], [6, 5], vocabulary=300), None).tokens.logits


def block(model, stack, index):
    """Weights of a layer by name, without those that only some layers have."""
    layers = model.get_encoder() if stack == "encoder" else model.get_decoder()
    layer = getattr(layers, RECORDS[model.config.model_type].layers)[index]
    return {n: w for n, w in layer.state_dict().items() if "relative_attention_bias" not in n}


FOR_CALLERS = dict.fromkeys(("use_cache", "output_attentions", "output_hidden_states"))
"""Generation settings that a model does not inherit, because its callers choose them."""


@every_release
def test_of_the_same_shape_computes_what_the_teacher_computes(name):
    teacher = teacher_of(name)
    student = student_of(teacher).eval()
    assert student is not teacher
    assert logits(student).equal(logits(teacher))
    rules, teacher_rules = (m.generation_config.to_dict() for m in (student, teacher))
    assert rules == teacher_rules | {"do_sample": False} | FOR_CALLERS


@pytest.mark.parametrize("start", ["teacher", "marian"])
def test_sampling_and_limits_of_the_teacher_are_not_inherited(start):
    teacher = teacher_of("bart")
    dropped = {"do_sample": True, "top_k": 9, "max_length": 200, "max_new_tokens": 30}
    inherited = {"length_penalty": 0.6, "num_beams": 4, "no_repeat_ngram_size": 3}
    teacher.generation_config.update(**inherited, **dropped, num_return_sequences=2)
    rules = student_of(teacher, start=start).generation_config
    assert {name: getattr(rules, name) for name in inherited} == inherited
    assert not any(getattr(rules, name) for name in [*dropped, "num_return_sequences"])
    assert teacher.generation_config.max_length == 200


@every_release
def test_layers_are_spread_evenly(name, tmp_path):
    teacher = teacher_of(name)
    student = student_of(teacher, encoder_layers=2, decoder_layers=1).eval()
    assert Geometry.of(student.config) == (2, 1, 4, 4)
    check_same_ids(teacher, student)
    for stack, chosen in (("encoder", [0, 3]), ("decoder", [2])):
        for index, original in enumerate(chosen):
            ours, theirs = block(student, stack, index), block(teacher, stack, original)
            assert ours.keys() == theirs.keys()
            assert all(ours[key].equal(theirs[key]) for key in ours)
    student.save_pretrained(tmp_path)
    assert logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)).equal(logits(student))


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if "decoder_heads" in RECORDS[family].sizes]
)
def test_stacks_may_differ_in_heads_and_widths(name):
    config = teacher_of(name).config
    sizes = {"heads": 6, "decoder_heads": 3, "feed_forward": 40, "decoder_feed_forward": 56}
    for size, value in sizes.items():
        config.update(dict.fromkeys(RECORDS[config.model_type].sizes[size], value))
    teacher = AutoModelForSeq2SeqLM.from_config(config).eval()
    assert logits(student_of(teacher).eval()).equal(logits(teacher))
    shape = {size: sizes_of(config)[size] for size in ("heads", "decoder_heads")}
    assert shape == {"heads": 6, "decoder_heads": 3}
    assert Geometry.of(student_of(teacher, **shape).config) == (4, 3, 6, 3)
    student = student_of(teacher, heads=2, feed_forward=32, sample=sample()).eval()
    assert Geometry.of(student.config) == (4, 3, 2, 2)
    assert student.config.decoder_ffn_dim == 32
    assert logits(student).isfinite().all()
    marian = student_of(teacher, start="marian", heads=2, decoder_heads=4).config
    assert Geometry.of(marian) == (4, 3, 2, 4)
    assert (marian.encoder_ffn_dim, marian.decoder_ffn_dim) == (40, 56)


def test_a_family_with_one_size_for_both_stacks_refuses_two():
    with pytest.raises(UserError, match="one size for encoder and decoder: remove decoder_heads"):
        student_of(teacher_of("t5"), heads=2, decoder_heads=4)


@every_release
def test_a_random_one_has_any_shape(name):
    teacher = teacher_of(name)
    shape = {"encoder_layers": 5, "decoder_layers": 1, "heads": 2, "width": 16, "feed_forward": 20}
    student = student_of(teacher, **shape, dropout=0.2, start="random").eval()
    assert student.get_input_embeddings().weight.shape == (teacher.config.vocab_size, 16)
    assert Geometry.of(student.config) == (5, 1, 2, 2)
    assert sizes_of(student.config)["dropout"] == 0.2
    assert logits(student).isfinite().all()
    check_same_ids(teacher, student)


@every_release
def test_a_marian_one_has_the_teachers_vocabulary_and_decodes_by_its_rules(name):
    teacher = teacher_of(name)
    shape = {"encoder_layers": 5, "decoder_layers": 1, "heads": 2, "width": 16}
    student = student_of(teacher, **shape, dropout=0.2, start="marian").eval()
    assert student.config.model_type == "marian"
    assert student.get_input_embeddings().weight.shape == (teacher.config.vocab_size, 16)
    assert Geometry.of(student.config) == (5, 1, 2, 2)
    assert (student.config.encoder_ffn_dim, student.config.dropout) == (40, 0.2)
    check_same_ids(teacher, student)
    inputs = batch([7, 4], [6, 5], vocabulary=300)
    assert decoder_inputs(student, inputs["labels"])[:, 1:].equal(
        decoder_inputs(teacher, inputs["labels"])[:, 1:]
    )
    assert logits(student).isfinite().all()
    rules, theirs = (m.generation_config.to_dict() for m in (student, teacher))
    own = {"bad_words_ids": None}
    assert rules | own == theirs | own | {"do_sample": False} | FOR_CALLERS
    assert rules["bad_words_ids"] == [[teacher.config.pad_token_id]]


def test_a_marian_one_has_one_vocabulary():
    teacher = teacher_of("opus")
    teacher.config.share_encoder_decoder_embeddings = False
    with pytest.raises(UserError, match="the teacher has two: start from the teacher's layers"):
        student_of(teacher, start="marian")


def test_biases_by_distance_follow_the_heads():
    teacher = teacher_of("t5")
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    theirs = teacher.state_dict()[bias]

    def ours(**shape):
        return student_of(teacher, **shape, sample=sample()).state_dict()[bias]

    assert ours(heads=8).equal(theirs[:, [0, 0, 1, 1, 2, 2, 3, 3]])
    assert ours(heads=2).equal(torch.stack([theirs[:, :2].mean(1), theirs[:, 2:].mean(1)], 1))
    assert ours(encoder_layers=1, decoder_layers=1).equal(theirs)  # only the first layer has one
    fewer = ours(heads=3, width=18)  # heads of 6 channels, like the teacher's
    assert [
        column for column in theirs.T.tolist() if column in fewer.T.tolist()
    ] == fewer.T.tolist()


def test_width_must_be_divisible():
    config = teacher_of("opus").config
    with pytest.raises(UserError, match="width 24 cannot be split into 5 heads"):
        student_config(config, heads=5)


def test_the_message_names_widths_that_fit():
    """Heads of mT5-small: six of 64 channels under a width of 512."""
    config = teacher_of("t5").config
    config.update({"d_model": 512, "num_heads": 6, "d_kv": 64})
    with pytest.raises(UserError, match="width 250 cannot be split into 6 heads") as error:
        student_config(config, width=250)
    widths = re.findall("a width of ([0-9]+) or ([0-9]+)", str(error.value))[0]
    assert int(widths[0]) < 250 < int(widths[1])
    with pytest.raises(UserError, match="choose a width of 504 or 512, or another number"):
        student_config(config, width=511)  # 520 could not start from the teacher
    for width in map(int, widths):
        assert attention_width(student_config(config, width=width)) == round(384 / 512 * width)


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if not RECORDS[family].deeper_decoder]
)
def test_a_decoder_that_transformers_has_no_caches_for_is_refused(name):
    with pytest.raises(UserError, match="not 1x2"):
        student_of(teacher_of(name), encoder_layers=1, decoder_layers=2)
    student_of(teacher_of(name), encoder_layers=2, decoder_layers=2)


def test_other_families_are_refused():
    with pytest.raises(UserError, match=r"'led' are not supported: .* marian, bart"):
        student_config(AutoConfig.for_model("led"))


@pytest.mark.parametrize("available", range(1, 13))
def test_chosen_layers_are_as_many_in_order_and_differ(available):
    for count in range(1, available + 1):
        chosen = choose_layers(count, available)
        assert len(set(chosen)) == count
        assert chosen == sorted(chosen)
        assert set(chosen) <= set(range(available))
