"""Every family with a record: maps and predictions equal those of transformers."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrained import config_of
from test_attention import FIELDS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from toys import batch, dataset
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast
from transformers.activations import ACT2FN

from a2d import A2DConfig, A2DTrainer
from a2d.errors import UserError
from a2d.families import (
    FAMILIES,
    Family,
    Geometry,
    activation_of,
    attention_width,
    family_of,
    has_two_vocabularies,
    positions_of,
    register_family,
    sizes_of,
)
from a2d.method.attention import enable_capture
from a2d.models.loading import decoder_inputs
from a2d.training.outputs import Needs, model_outputs

VOCABULARY = 13
every_family = pytest.mark.parametrize("family", FAMILIES)


def tiny(family, *, seed=0, **sizes):
    """A random model with peaked attention, and different depths and (if possible) heads."""
    positions = FAMILIES[family].positions
    defaults = {
        "encoder_layers": 3,
        "decoder_layers": 2,
        "heads": 2,
        "width": 24,
        "feed_forward": 16,
        "decoder_heads": 4,
    }
    config = config_of(
        family,
        defaults | sizes,
        head_width=6,
        **({} if positions is None else {positions: 32}),
        init_std=0.4,
        vocab_size=VOCABULARY,
        pad_token_id=VOCABULARY - 1,
        eos_token_id=0,
        bos_token_id=1,
        decoder_start_token_id=VOCABULARY - 1,
        forced_eos_token_id=None,
    )
    torch.manual_seed(seed)
    return AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float64).eval()


def eager(model, inputs):
    model.set_attn_implementation("eager")
    return model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        decoder_input_ids=decoder_inputs(model, inputs["labels"]),
        use_cache=False,
        output_attentions=True,
    )


def check_maps_and_predictions(family, source_lengths, target_lengths, seed=0):
    """Compare a random model's maps and logits with those of transformers' own attention."""
    model = tiny(family, seed=seed)
    inputs = batch(source_lengths, target_lengths, seed=seed)
    with torch.no_grad():
        reference = eager(model, inputs)
        enable_capture(model)
        tokens, features = model_outputs(model, inputs, Needs())
        plain = model_outputs(model, inputs, None).tokens.logits
    geometry = Geometry.of(model.config)
    for logits in (tokens.logits, plain):
        assert (logits - reference.logits).abs().max() <= 1e-9 * reference.logits.abs().max()
    for group, field in FIELDS.items():
        expected = torch.cat(getattr(reference, field), dim=1)
        assert expected.shape[1] == geometry.channels(group)
        assert (features.maps[group].stacked() - expected).abs().max() <= 1e-9


@every_family
@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3),
    st.integers(0, 2**16),
)
@settings(max_examples=8, deadline=None)
def test_maps_and_predictions_are_the_librarys(family, sizes, seed):
    sources, targets = map(list, zip(*sizes, strict=True))
    check_maps_and_predictions(family, sources, targets, seed)


@every_family
def test_maps_of_random_models_are_far_from_even(family):
    """Even maps would pass any comparison. Maps of short sentences may be even: one word twice."""
    with torch.no_grad():
        reference = eager(tiny(family), batch([7], [6]))
    for field in FIELDS.values():
        rows = torch.cat(getattr(reference, field), dim=1)[
            :, :, -1
        ]  # the last query may see all keys
        assert (rows - 1 / rows.shape[-1]).abs().max() > 0.02


def tokenizer():
    words = {**{f"w{i}": i for i in range(VOCABULARY - 1)}, "<pad>": VOCABULARY - 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w2")),
        pad_token="<pad>",
        eos_token="w0",
    )


def sentences(count):
    return dataset(batch([5, 3] * count, [4, 6] * count))


@every_family
def test_a_student_is_distilled_and_read_by_transformers(family, tmp_path):
    decoder = 2 if FAMILIES[family].deeper_decoder else 1
    student = tiny(family, encoder_layers=1, decoder_layers=decoder).float()
    teacher = tiny(family, seed=1).float()
    initial = student.state_dict()["lm_head.weight"].clone()
    config = A2DConfig(
        str(tmp_path / "out"),
        max_steps=4,
        max_tokens=32,
        report_to=[],
        bf16=False,
        disable_tqdm=True,
    )
    trainer = A2DTrainer(student, teacher, config, sentences(4), processing_class=tokenizer())
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    copy = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "student").eval()
    assert not torch.equal(copy.state_dict()["lm_head.weight"], initial)
    inputs = batch([5, 3], [4, 6])
    with torch.no_grad():
        logits, copy_logits = (
            model_outputs(m.eval(), inputs, None).tokens.logits for m in (student, copy)
        )
    assert torch.equal(logits, copy_logits)


class TestRecords:
    """Every record agrees with the models of transformers."""

    @every_family
    def test_sizes_are_those_of_the_modules(self, family):
        model = tiny(family, decoder_layers=2, feed_forward=20)
        record, config, width = FAMILIES[family], model.config, 24
        shape, inner = Geometry.of(config), attention_width(config)
        assert sizes_of(config)["width"] == model.get_input_embeddings().weight.shape[1] == width
        for stack, part in (("encoder", model.get_encoder()), ("decoder", model.get_decoder())):
            assert len(getattr(part, record.layers)) == shape.layers(stack)
            weights = [w for w in part.state_dict().values() if w.dim() == 2]
            shapes = {tuple(weight.shape) for weight in weights}
            assert {(inner, width), (width, inner), (20, width), (width, 20)} <= shapes
            biases = [
                tuple(weight.shape)[1:]
                for name, weight in part.state_dict().items()
                if record.head_bias and name.endswith(record.head_bias)
            ]
            assert set(biases) == ({(shape.heads(stack),)} if record.head_bias else set())

    @every_family
    def test_positions_are_the_longest_sentence(self, family):
        """Longer sentences exceed the table of positions, unless the model extends it."""
        model = tiny(family)
        positions = positions_of(model.config)
        model_outputs(model, batch([positions or 500], [2]), None)
        tables = {type(m).__name__ for m in model.modules() if "Position" in type(m).__name__}
        assert (positions is not None) == bool(tables)
        if positions is not None and tables != {"M2M100SinusoidalPositionalEmbedding"}:
            with pytest.raises(IndexError):
                model_outputs(model, batch([positions + 1], [2]), None)

    @every_family
    def test_computed_weights_do_not_learn(self, family):
        model = tiny(family)
        computed = FAMILIES[family].computed_weights
        frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        assert frozen == {n for n in model.state_dict() if computed and n.endswith(computed)}

    @every_family
    def test_activation_is_one_that_transformers_knows(self, family):
        assert activation_of(tiny(family).config).removeprefix("gated-") in ACT2FN

    def test_separate_vocabularies_are_detected(self):
        assert not has_two_vocabularies(tiny("bart").config)
        config = tiny("marian").config
        assert not has_two_vocabularies(config)
        config.share_encoder_decoder_embeddings = False
        assert has_two_vocabularies(config)


def test_records_need_no_libraries():
    """A user's file that registers a family costs the command line no start-up time."""
    heavy = "{'torch', 'transformers'} & {*sys.modules}"
    program = f"import sys, a2d.families; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestRegistration:
    SIZES = FAMILIES["t5"].sizes

    @pytest.fixture(autouse=True)
    def own_table(self, monkeypatch):
        monkeypatch.setattr("a2d.families.FAMILIES", dict(FAMILIES))

    def test_a_record_is_found_by_its_model_type(self):
        record = register_family(Family(model_type="new", sizes=self.SIZES, activation="act"))
        assert family_of(SimpleNamespace(model_type="new")) is record
        again = Family(model_type="new", sizes=dict(self.SIZES), activation="act")
        assert register_family(again) is again
        assert family_of(SimpleNamespace(model_type="new")) is record

    def test_another_record_of_that_type_is_refused(self):
        with pytest.raises(UserError, match=r"a different family is registered for .* 't5'"):
            register_family(Family(model_type="t5", sizes=self.SIZES, activation="act"))

    @pytest.mark.parametrize(
        ("sizes", "problem"),
        [
            ({"width": ()}, "it lacks 'width'"),
            ({"encoder_heads": ("heads",)}, "an unknown one, 'encoder_heads'"),
        ],
    )
    def test_sizes_are_complete_and_spelt_as_ours(self, sizes, problem):
        sizes = {**self.SIZES, **sizes}
        with pytest.raises(UserError, match=problem):
            register_family(Family(model_type="new", sizes=sizes, activation="act"))

    def test_unsupported_families_are_refused(self):
        with pytest.raises(UserError, match=r"'led' are not supported: .* marian, bart, .*umt5"):
            family_of(SimpleNamespace(model_type="led"))


def test_a_bias_of_the_output_projection_is_refused():
    model = tiny("bart")
    model.lm_head.bias = torch.nn.Parameter(torch.ones(model.config.vocab_size))
    with pytest.raises(UserError, match="output projection with a bias"):
        model_outputs(model, batch([3], [2]), None)
