"""Settings of a model that are wrong are named with their file; those of callers change nothing."""

import json
import re
import shutil
from itertools import zip_longest

import pytest
from pretrained import released

from a2d.errors import UserError
from a2d.models.decoding import translate
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.models.loading import load_model
from a2d.models.search_settings import set_generation_defaults
from a2d.models.students import student_of
from a2d.models.tokenizer import load_tokenizer

SENTENCES = ["Datei öffnen", "", "Es gibt keine Datei mit diesem Namen"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with sound models: `bart`, and `fast`, the same one exported."""
    folder = tmp_path_factory.mktemp("sound")
    released("bart", folder / "bart")
    return folder


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound / "bart", tmp_path / "model")


def change(folder, name, settings):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


CONFIG = [
    {"dtype": "x"}, {"id2label": 5}, {"num_labels": None}, {"dropout": "x"}, {"init_std": "x"},
    {"encoder_ffn_dim": -1}, {"decoder_layers": "2"}, {"model_type": "evil"}, {"model_type": [1]},
    {"scale_embedding": "no"}, {"max_position_embeddings": -1}, {"bos_token_id": 10**6},
    {"pad_token_id": [1]}, {"activation_function": "x"}, {"is_encoder_decoder": False},
]  # fmt: skip
GENERATION = [
    {"force_words_ids": [[1]]}, {"constraints": [1]}, {"stop_strings": ["a"]},
    {"token_healing": True}, {"compile_config": 5}, {"watermarking_config": 5},
    {"no_repeat_ngram_size": "x"}, {"length_penalty": [1]}, {"length_penalty": 10**12},
    {"encoder_no_repeat_ngram_size": 10**12}, {"repetition_penalty": 0}, {"min_length": 2.5},
    {"bad_words_ids": [["x"]]}, {"suppress_tokens": [10**6]}, {"eos_token_id": 2.5},
    {"max_length": True}, {"num_beams": "x"}, {"sequence_bias": {}}, {"early_stopping": 5},
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "settings"),
    [("config.json", case) for case in CONFIG]
    + [("generation_config.json", case) for case in GENERATION],
)
def test_a_wrong_setting_is_named_with_its_file(file, settings, copy):
    change(copy, file, settings)
    (name,) = settings
    with pytest.raises(UserError, match=rf"\b{re.escape(file)} of \S+/model is .*\b{name}\b|"
                       rf"the {name} in the {file} of ") as caught:  # fmt: skip
        load_model(copy)
    assert "trust_remote_code" not in str(caught.value)


def test_several_wrong_settings_are_not_mistaken_for_one(copy):
    change(copy, "generation_config.json", {"force_words_ids": [[1]], "no_repeat_ngram_size": "x"})
    with pytest.raises(UserError, match=r"generation_config.json of .* several of its settings"):
        load_model(copy)


def test_old_releases_have_generation_settings_in_their_configuration(copy):
    (copy / "generation_config.json").unlink()
    assert load_model(copy).generation_config.eos_token_id == load_model(copy).config.eos_token_id
    change(copy, "config.json", {"bad_words_ids": [[10**6]]})
    with pytest.raises(UserError, match=r"the config.json of \S+ is not valid: its bad_words_ids"):
        load_model(copy)


def test_an_exported_model_too(sound, tmp_path):
    folder = tmp_path / "fast"
    export(sound / "bart", folder)
    change(folder, "generation_config.json", {"length_penalty": "x"})
    with pytest.raises(UserError, match=r"generation_config.json of \S+ is .* its length_penalty"):
        ExportedModel(folder)


def outputs(folder):
    """Translations, and those of a student that was saved and loaded again."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    student = student_of(model, decoder_layers=1)
    set_generation_defaults(student, 10, 10)
    student.save_pretrained(folder.parent / "student")
    return [
        translate(network, tokenizer, SENTENCES)
        for network in (model, load_model(folder.parent / "student"))
    ]


CALLERS = {
    "config.json": [
        {"return_dict": False}, {"output_attentions": True}, {"output_hidden_states": True},
        {"dtype": "float16"}, {"attn_implementation": "eager"},
    ],
    "generation_config.json": [
        {"return_dict": False}, {"output_attentions": True, "return_dict_in_generate": True},
        {"output_scores": True}, {"use_cache": False}, {"low_memory": True}, {"min_p": 0.1},
        {"typical_p": 0.5, "do_sample": True}, {"cache_implementation": "static"},
        {"num_return_sequences": 3, "num_beams": 5}, {"prompt_lookup_num_tokens": 5},
        {"penalty_alpha": 0.6},
    ],
}  # fmt: skip


def test_settings_of_callers_change_nothing(sound, tmp_path):
    expected = outputs(shutil.copytree(sound / "bart", tmp_path / "sound"))
    for number, changes in enumerate(zip_longest(*CALLERS.values())):
        folder = shutil.copytree(sound / "bart", tmp_path / str(number))
        for file, settings in zip(CALLERS, changes, strict=True):
            if settings is not None:
                change(folder, file, settings)
        assert outputs(folder) == expected, changes
