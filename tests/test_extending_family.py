"""A model family from outside the package needs one record, and then works like the others.

This is the guide "Add a model family" in CONTRIBUTING.md.
"""

from dataclasses import replace

import pretrained
import pytest
import torch
from pretrained import PAIRS, released
from rich.console import Console
from test_families import check_maps_and_predictions, tiny
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BartForConditionalGeneration
from transformers import PreTrainedConfig as Config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING as MODELS

from a2d.errors import UserError
from a2d.families import FAMILIES, Geometry, register_family, sizes_of
from a2d.method.attention import enable_capture
from a2d.models.decoding import translate
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.models.loading import load_config, load_model
from a2d.models.students import student_of
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.distill import distill
from a2d.text.batching import tokenise
from a2d.text.corpus import read_corpus


class ToyConfig(Config):
    """BART's configuration with other names for all sizes."""

    model_type = "toy"
    attribute_map = {  # noqa: RUF012
        "encoder_layers": "reading_layers",
        "decoder_layers": "writing_layers",
        "num_hidden_layers": "reading_layers",
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), "all_heads"),
        "num_attention_heads": "all_heads",
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), "inner_width"),
        **dict.fromkeys(("d_model", "hidden_size"), "outer_width"),
        "dropout": "forgetting",
        "activation_function": "bend",
        "max_position_embeddings": "places",
    }

    vocab_size: int = 100
    reading_layers: int = 2
    writing_layers: int = 2
    all_heads: int = 2
    inner_width: int = 16
    outer_width: int = 8
    forgetting: float = 0.0
    bend: str = "gelu"
    places: int = 200
    is_encoder_decoder: bool = True
    is_decoder: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    decoder_start_token_id: int | None = 2
    init_std: float = 0.02
    scale_embedding: bool = False
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0


class ToyForTranslation(BartForConditionalGeneration):
    """BART with the toy's configuration."""

    config_class = ToyConfig


TOY = replace(
    FAMILIES["bart"],
    model_type="toy",
    sizes={
        "encoder_layers": ("reading_layers",),
        "decoder_layers": ("writing_layers",),
        "heads": ("all_heads",),
        "width": ("outer_width",),
        "feed_forward": ("inner_width",),
        "dropout": ("forgetting",),
    },
    activation="bend",
    positions="places",
)


def _with(new, old):
    """Projections of the toy with another name for one module."""
    return {new if name == old else name: role for name, role in TOY.projections.items()}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Register the family as a user's file does; unregister it after the test."""
    AutoConfig.register("toy", ToyConfig)
    AutoModelForSeq2SeqLM.register(ToyConfig, ToyForTranslation)
    register_family(TOY)
    pretrained.FAMILIES["toy"] = "toy"
    yield
    del pretrained.FAMILIES["toy"], FAMILIES["toy"]
    del CONFIG_MAPPING._extra_content["toy"], MODELS._extra_content[ToyConfig]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "toy"
    released("toy", folder, layers=(3, 2), heads=4)
    return folder


def test_maps_and_predictions_are_the_librarys():
    check_maps_and_predictions("toy", [7, 4, 1], [5, 6, 2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scaled_embeddings": "scaling"}, r"record of the family 'toy' .* lacks \(.*'scaling'"),
        ({"projections": _with("q_prj", "q_proj")}, "but no module of a layer.* its 'query'"),
        ({"projections": {**TOY.projections, "fc1": "contract", "fc2": "expand"}}, "its 'expand'"),
    ],
)
def test_a_wrong_record_of_a_plugin_is_refused_with_the_configuration(
    teacher, monkeypatch, settings, message
):
    monkeypatch.setitem(FAMILIES, "toy", replace(TOY, **settings))
    monkeypatch.setattr(FAMILIES, "plugin", lambda name: {"toy.py": "0"})
    with pytest.raises(UserError, match=message):
        load_config(teacher)


def test_a_misspelt_role_is_refused():
    with pytest.raises(UserError, match=r"the family 'toy' have the roles .*qery.*: give each of"):
        register_family(replace(TOY, projections={**TOY.projections, "q_proj": "qery"}))


def test_a_misspelt_setting_is_refused_in_a_sentence(teacher, monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", replace(TOY, positions="seats"))
    with pytest.raises(UserError, match=r"record of the family 'toy' .* lacks \(.*'seats'"):
        load_model(teacher)


def test_a_record_with_other_layers_is_refused(teacher, monkeypatch):
    model = load_model(teacher)
    monkeypatch.setitem(FAMILIES, "toy", replace(TOY, layers="block"))
    message = r"layers='block', but the encoder keeps its 3 layers elsewhere \(its lists: layers\)"
    with pytest.raises(UserError, match=message):
        load_model(teacher)
    with pytest.raises(UserError, match=message):
        student_of(model, encoder_layers=2)


def test_a_record_with_text_as_a_size_is_refused():
    sizes = {**TOY.sizes, "width": "outer_width"}
    with pytest.raises(UserError, match="the size 'width' of the family 'toy' is the text"):
        register_family(replace(TOY, sizes=sizes))


def test_its_group_function_is_asked(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", replace(TOY, group=lambda module: "cross"))
    model = tiny("toy")
    enable_capture(model)
    with pytest.raises(RuntimeError, match="captured 0 encoder attention maps"):
        check_maps_and_predictions("toy", [3], [2])


def test_students_start_from_its_layers(teacher):
    model = load_model(teacher)
    assert Geometry.of(model.config) == (3, 2, 4, 4)
    student = student_of(model, encoder_layers=2, decoder_layers=1, dropout=0.3)
    assert type(student) is ToyForTranslation
    assert (student.config.reading_layers, student.config.writing_layers) == (2, 1)
    assert (student.config.all_heads, student.config.forgetting) == (4, 0.3)
    for ours, theirs in ((0, 0), (1, 2)):
        weights = model.model.encoder.layers[theirs].state_dict()
        for name, weight in student.model.encoder.layers[ours].state_dict().items():
            assert torch.equal(weight, weights[name])
    data = tokenise(PAIRS[:50], load_tokenizer(teacher))
    narrower = student_of(model, width=16, heads=2, feed_forward=20, sample=data)
    assert (narrower.config.outer_width, narrower.config.all_heads) == (16, 2)
    with pytest.raises(UserError, match=r"a toy model has one size for .*: remove decoder_heads"):
        student_of(model, decoder_heads=2)


@pytest.mark.slow
def test_it_is_distilled_trimmed_and_exported(teacher, tmp_path):
    data = tmp_path / "memory.tsv"
    pairs = read_corpus("builtin:de-dsb/train")[:700]
    data.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in pairs), "utf-8")
    distill(
        str(teacher),
        [str(data)],
        ("de", "dsb"),
        tmp_path / "small",
        Console(quiet=True),
        student="2x1",
        epochs=1,
        trim=True,
        force=True,  # the teacher is untrained
        overrides=[
            "corpus.limit=60",
            "training.evaluate_every=1",
            "evaluation={beams: 2, samples: 1}",
            "teacher.cache=true",
        ],
    )
    student = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "small").eval()
    assert type(student) is ToyForTranslation
    sizes = {"encoder_layers": 2, "decoder_layers": 1, "heads": 4, "width": 24, "feed_forward": 40}
    assert {size: sizes_of(student.config)[size] for size in sizes} == sizes
    assert student.config.vocab_size < load_model(teacher).config.vocab_size
    tokenizer, sources = load_tokenizer(tmp_path / "small"), [pair.source for pair in PAIRS[:9]]
    export(tmp_path / "small", tmp_path / "exported")
    assert ExportedModel(tmp_path / "exported").translate(sources, beams=2) == translate(
        student, tokenizer, sources, beams=2
    )
