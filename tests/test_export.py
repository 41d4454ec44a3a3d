"""Exported models translate as before; models that cannot be exported are refused."""

import json
import shutil
import sys

import ctranslate2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pretrained import FAMILIES, model_of, released, tokenizer_of

from a2d import UserError
from a2d.models.conversion import LARGEST_WEIGHT, quantise_rows
from a2d.models.decoding import translate
from a2d.models.export import export
from a2d.models.exported import ExportedModel, is_exported
from a2d.models.loading import load_model, new_model
from a2d.models.teachers import set_target_language
from a2d.models.tokenizer import load_tokenizer, train_tokenizer
from a2d.text.corpus import read_corpus

PAIRS = read_corpus("builtin:de-dsb/train")[:300]
SENTENCES = ["", *[pair.source for pair in PAIRS[:40]], "   ", "Ein Satz, den es nicht gibt: €ß漢"]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    tokenizer = train_tokenizer((text for pair in PAIRS for text in pair), 500)
    torch.manual_seed(0)
    model = new_model(
        tokenizer, encoder_layers=2, decoder_layers=1, heads=2, width=32, feed_forward=64
    )
    with torch.no_grad():  # makes sentences end and differ
        model.final_logits_bias[0, tokenizer.eos_token_id] = 2.0
        for weight in model.parameters():
            weight.mul_(1.7)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "fast"
    export(student, folder)
    return folder


@pytest.mark.parametrize("beams", [1, 4])
def test_translations_are_the_same(student, exported, beams):
    expected = translate(load_model(student), load_tokenizer(student), SENTENCES, beams=beams)
    translations = ExportedModel(exported).translate(SENTENCES, beams=beams)
    assert len(set(expected)) > 20
    assert sum(a == b for a, b in zip(translations, expected, strict=True)) >= {1: 43, 4: 41}[beams]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_translates_as_before(name, tmp_path):
    model, tokenizer = released(name, tmp_path / "model")
    set_target_language(model, tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "fast")
    fast, sources = ExportedModel(tmp_path / "fast"), SENTENCES[:20]
    for beams in (1, 4):
        expected = translate(model, tokenizer, sources, beams=beams)
        assert len(set(expected)) > 8
        outputs = fast.translate(sources, beams=beams)
        assert sum(a == b for a, b in zip(outputs, expected, strict=True)) >= {1: 20, 4: 18}[beams]


@pytest.mark.parametrize("scaled", [True, False])
def test_t5_scales_its_outputs_or_not(scaled, tmp_path):
    """Beam search notices the scale, greedy search does not."""
    model, tokenizer = released("t5", tmp_path / "model")
    model.config.scale_decoder_outputs = model.config.tie_word_embeddings = scaled
    model.config.save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert model.config.scale_decoder_outputs == scaled
    export(tmp_path / "model", tmp_path / "fast")
    expected = translate(model, tokenizer, SENTENCES[:20], beams=4)
    translations = ExportedModel(tmp_path / "fast").translate(SENTENCES[:20], beams=4)
    assert sum(a == b for a, b in zip(translations, expected, strict=True)) >= 18


@pytest.mark.parametrize("beams", [1, 4])
def test_of_a_model_whose_padding_is_not_zero(student, tmp_path, beams):
    """With tied output weights, transformers' Trainer trains the padding row, too."""
    model = load_model(student)
    zero = translate(model, load_tokenizer(student), SENTENCES, beams=beams)
    with torch.no_grad():
        model.get_input_embeddings().weight[model.config.pad_token_id] += 1
    model.save_pretrained(tmp_path / "model")
    load_tokenizer(student).save_pretrained(tmp_path / "model")
    expected = translate(model, load_tokenizer(student), SENTENCES, beams=beams)
    assert sum(a != b for a, b in zip(expected, zero, strict=True)) > 20
    export(tmp_path / "model", tmp_path / "fast")
    translations = ExportedModel(tmp_path / "fast").translate(SENTENCES, beams=beams)
    assert sum(a == b for a, b in zip(translations, expected, strict=True)) >= {1: 43, 4: 41}[beams]


@pytest.mark.parametrize("beams", [1, 4])
def test_limit_and_beams_of_the_model_are_used(student, tmp_path, beams):
    model, tokenizer = load_model(student), load_tokenizer(student)
    usual = translate(model, tokenizer, SENTENCES, beams=beams)
    model.generation_config.update(max_length=9, num_beams=beams)
    expected = translate(model, tokenizer, SENTENCES)
    assert expected != usual
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "fast")
    fast = ExportedModel(tmp_path / "fast")
    translations = fast.translate(SENTENCES)
    assert sum(a == b for a, b in zip(translations, expected, strict=True)) >= {1: 43, 4: 41}[beams]
    model.generation_config.max_length = 200
    model.generation_config.save_pretrained(tmp_path / "fast")
    cut = [
        hypotheses[0]
        for hypotheses in ExportedModel(tmp_path / "fast").n_best(SENTENCES, 1, cut=True)
    ]
    assert sum(a == b for a, b in zip(cut, usual, strict=True)) >= {1: 43, 4: 41}[beams]


def test_empty_translations_stay_empty(student, tmp_path):
    model, tokenizer = load_model(student), load_tokenizer(student)
    model.final_logits_bias[0, tokenizer.eos_token_id] = 50.0
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "fast")
    assert set(translate(model, tokenizer, SENTENCES, beams=1)) == {""}
    assert set(ExportedModel(tmp_path / "fast").translate(SENTENCES, beams=1)) == {""}


def test_padding_is_never_generated(exported, student):
    import ctranslate2

    tokenizer = load_tokenizer(student)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(SENTENCES[1])["input_ids"])
    plain = ctranslate2.Translator(str(exported))  # without options that `ExportedModel` rules out
    (best,) = plain.translate_batch([tokens], sampling_topk=0, num_hypotheses=50, beam_size=1)
    assert not any(tokenizer.pad_token in hypothesis for hypothesis in best.hypotheses)


def test_heads_that_differ_between_stacks_are_refused(tmp_path):
    tokenizer = train_tokenizer((text for pair in PAIRS for text in pair), 500)
    shape = {"encoder_layers": 1, "decoder_layers": 1, "width": 32, "feed_forward": 64}
    new_model(tokenizer, heads=2, decoder_heads=4, **shape).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="2 heads in the encoder and 4 in the decoder"):
        export(tmp_path / "model", tmp_path / "fast")


@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.5},
        {"suppress_tokens": list(range(40, 300))},
        {"bad_words_ids": [[i] for i in range(40, 300)]},
    ],
)
def test_generation_settings_stay(student, tmp_path, settings):
    model = load_model(student)
    plain = translate(model, load_tokenizer(student), SENTENCES, beams=1)
    model.generation_config.update(**settings)
    expected = translate(model, load_tokenizer(student), SENTENCES, beams=1)
    assert expected != plain
    shutil.copytree(student, tmp_path / "model")
    model.generation_config.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "fast")
    translations = ExportedModel(tmp_path / "fast").translate(SENTENCES, beams=1)
    assert sum(a == b for a, b in zip(translations, expected, strict=True)) >= 40


def test_two_vocabularies_are_refused(tmp_path):
    tokenizer = tokenizer_of("opus")
    model_of("opus", tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    shutil.copy(tmp_path / "model/vocab.json", tmp_path / "model/target_vocab.json")
    settings = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    (tmp_path / "model/tokenizer_config.json").write_text(
        json.dumps(settings | {"separate_vocabs": True})
    )
    with pytest.raises(UserError, match="different vocabularies for source and target"):
        export(tmp_path / "model", tmp_path / "fast")
    assert not (tmp_path / "fast").exists()


def test_nothing_in_nothing_out(exported):
    assert ExportedModel(exported).translate([]) == []


def test_int8_is_smaller_and_runs(student, exported, tmp_path):
    small = tmp_path / "new" / "small"
    export(student, small, "int8")
    sizes = [(folder / "model.bin").stat().st_size for folder in (small, exported)]
    assert sizes[0] < 0.5 * sizes[1]
    assert is_exported(small)
    assert not is_exported(student)
    assert len(ExportedModel(small).translate(SENTENCES)) == len(SENTENCES)


@given(
    arrays(
        np.float32, (3, 5), elements=st.floats(-(2.0**66), 2.0**66, width=32, allow_subnormal=False)
    )
)
def test_weights_are_rounded_to_the_nearest_step(weight):
    values, scale = quantise_rows(weight)
    assert np.abs(values.astype(int)).max() <= LARGEST_WEIGHT
    largest = np.abs(weight.astype(float)).max(axis=1, keepdims=True)
    errors = np.abs(values / scale[:, None].astype(float) - weight)
    assert (errors <= 0.5001 * largest / LARGEST_WEIGHT + 1e-30).all()
    assert np.isfinite(scale).all()


def test_sums_of_int8_do_not_overflow(student, tmp_path):
    """Pairs of large weights of equal sign, with large inputs, as CPUs without VNNI add them."""
    model = load_model(student)
    with torch.no_grad():
        for layer in [*model.model.encoder.layers, *model.model.decoder.layers]:
            signs = torch.ones(32).index_fill(0, torch.arange(0, 32, 2), -1)
            layer.fc1.bias.fill_(1.0)
            layer.fc2.weight.copy_(0.05 * signs[:, None].expand_as(layer.fc2.weight))
    model.save_pretrained(tmp_path / "model")
    load_tokenizer(student).save_pretrained(tmp_path / "model")
    scores = []
    for quantization in ("float32", "int8"):
        export(tmp_path / "model", tmp_path / quantization, quantization)
        translator = ctranslate2.Translator(str(tmp_path / quantization), compute_type=quantization)
        tokens = [load_tokenizer(student).tokenize(pair.source) for pair in PAIRS[:20]]
        results = translator.score_batch(tokens, tokens)
        scores.append(np.concatenate([result.log_probs for result in results]))
    assert scores[0].std() > 0.5
    assert np.abs(scores[1] - scores[0]).mean() < 0.05


def test_nothing_is_overwritten(student, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="mine exists already: choose another folder"):
        export(student, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="link exists already: choose another folder"):
        export(student, tmp_path / "link")


def test_an_unknown_quantization_is_refused(student, tmp_path):
    with pytest.raises(UserError, match="unknown quantization 'int3': give one of float32, "):
        export(student, tmp_path / "out", "int3")
    assert not (tmp_path / "out").exists()


def test_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no model at"):
        export(tmp_path, tmp_path / "out")


def test_an_exported_one_is_refused(exported, tmp_path):
    with pytest.raises(UserError, match="fast is already exported: translate with it"):
        export(exported, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pipe_or_device_in_it_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "other")
    (folder / "shared_vocabulary.json").unlink()
    (folder / "shared_vocabulary.json").symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"shared_vocabulary\.json cannot be read \(it is a pipe"):
        ExportedModel(folder)


def test_a_missing_library_is_named(student, exported, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    mend = r"ctranslate2 is not installed: run pip install '\.\[ctranslate2\]'"
    with pytest.raises(UserError, match=mend):
        export(student, tmp_path / "out")
    with pytest.raises(UserError, match=mend):
        ExportedModel(exported).translate(SENTENCES)


def test_folders_of_similar_names_stay(student, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/model.bin").write_text("mine")
    export(student, tmp_path / "out")
    assert (tmp_path / "out.partial/model.bin").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.partial"]
