"""Every verified family of models: its maps and predictions are those of transformers itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attention import FIELDS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from toys import batch, dataset
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from a2d import A2DConfig, A2DTrainer
from a2d.families import Geometry
from a2d.method.attention import GROUPS, VERIFIED_FAMILIES, enable_capture
from a2d.method.transfer import Transfer
from a2d.models.loading import decoder_inputs
from a2d.training.distillation import run

VOCABULARY = 13
T5 = ("t5", "mt5", "umt5")
every_family = pytest.mark.parametrize("family", VERIFIED_FAMILIES)


def tiny(family, *, seed=0, **more):
    """A random model with peaked attention; depths and, where the family knows it, heads differ."""
    sizes = (
        {"num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 6, "d_ff": 16}
        if family in T5
        else {
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "max_position_embeddings": 32,
            "init_std": 0.4,
        }
    )
    dropouts = dict.fromkeys(("dropout", "attention_dropout", "dropout_rate"), 0.0)
    layerdrops = dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop"), 0.0)
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCABULARY,
        d_model=24,
        pad_token_id=VOCABULARY - 1,
        eos_token_id=0,
        bos_token_id=1,
        decoder_start_token_id=VOCABULARY - 1,
        forced_eos_token_id=None,
        **(sizes | dropouts | layerdrops | more),
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


@every_family
@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3),
    st.integers(0, 2**16),
)
@settings(max_examples=8, deadline=None)
def test_maps_and_predictions_are_the_librarys(family, sizes, seed):
    model = tiny(family, seed=seed)
    sources, targets = map(list, zip(*sizes, strict=True))
    inputs = batch(sources, targets, seed=seed)
    with torch.no_grad():
        reference = eager(model, inputs)
        enable_capture(model)
        tokens, features = run(model, inputs, Transfer(GROUPS))
        plain = run(model, inputs, None).tokens.logits
    geometry = Geometry.of(model.config)
    for logits in (tokens.logits, plain):
        assert (logits - reference.logits).abs().max() <= 1e-9 * reference.logits.abs().max()
    for group, field in FIELDS.items():
        expected = torch.cat(getattr(reference, field), dim=1)
        assert expected.shape[1] == geometry.channels(group)
        assert (features.maps[group] - expected).abs().max() <= 1e-9


@every_family
def test_maps_of_random_models_are_far_from_even(family):
    """Or else any maps would pass above. Short sentences' may be even, of one word twice."""
    with torch.no_grad():
        reference = eager(tiny(family), batch([7], [6]))
    for field in FIELDS.values():
        rows = torch.cat(getattr(reference, field), dim=1)[:, :, -1]  # the last may see all keys
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
def test_a_student_is_distilled_saved_and_read_by_transformers(family, tmp_path):
    student = tiny(family, **({"num_layers": 1} if family in T5 else {"encoder_layers": 1})).float()
    teacher = tiny(family, seed=1).float()
    before = student.state_dict()["lm_head.weight"].clone()
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
    read = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "student").eval()
    assert not torch.equal(read.state_dict()["lm_head.weight"], before)
    inputs = batch([5, 3], [4, 6])
    with torch.no_grad():
        ours, theirs = (run(m.eval(), inputs, None).tokens.logits for m in (student, read))
    assert torch.equal(ours, theirs)
