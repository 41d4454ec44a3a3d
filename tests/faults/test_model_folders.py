"""Damaged and malicious model folders are refused in one sentence, or give a model that works."""

import json
import shutil
import struct
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from campaign import FULL
from hostile import outcome_of
from pretrained import released
from safetensors.torch import load_file, save_file

from a2d.families import Geometry
from a2d.method.alignment import FILE_NAME, AttentionAlignment
from a2d.models import decoding
from a2d.models.export import export
from a2d.models.exported import ExportedModel, is_exported
from a2d.models.loading import load_model
from a2d.models.students import student_of
from a2d.models.tokenizer import check_fits, load_tokenizer
from a2d.progress import silence_libraries
from a2d.runs import plots

KIND = "hostile model folders"
FUZZED = 200 if FULL else 6
WEIGHTS = "model.safetensors"
HUGE = 10**12


@cache
def sound_folder(name):
    """Make a sound model folder; `fast` is an exported model."""
    folder = Path(mkdtemp()) / name
    silence_libraries()
    if name == "fast":
        export(sound_folder("opus"), folder)
    else:
        released(name, folder)
    return folder


@pytest.fixture
def copy_of(tmp_path):
    """Function that copies a sound folder."""

    def make_copy(name):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(sound_folder(name), folder))

    return make_copy


def use(folder):
    """Translate a sentence as `a2d translate` does, and make a student as `a2d distill` does."""
    if is_exported(folder):
        ExportedModel(folder).translate(["Datei öffnen", ""])
        return
    network, tokenizer = load_model(folder), load_tokenizer(folder)
    check_fits(tokenizer, network.config, folder)
    decoding.translate(network, tokenizer, ["Datei öffnen", ""])
    student_of(network, decoder_layers=1)


def change(folder, file, **values):
    path = folder / file
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | values))


CONFIG = [
    {"encoder_attention_heads": 0}, {"encoder_attention_heads": 7},
    {"decoder_attention_heads": -2}, {"encoder_attention_heads": "2"}, {"encoder_layers": [3]},
    {"encoder_layers": 10**6}, {"decoder_layers": 900}, {"d_model": "24"}, {"d_model": HUGE},
    {"d_model": 10**6}, {"vocab_size": 10**9}, {"vocab_size": HUGE}, {"vocab_size": 400},
    {"encoder_ffn_dim": HUGE}, {"decoder_ffn_dim": 10**8}, {"encoder_ffn_dim": 10**30},
    {"encoder_ffn_dim": -1}, {"encoder_ffn_dim": 0}, {"max_position_embeddings": 10**9},
    {"max_position_embeddings": 30_000}, {"max_position_embeddings": 1},
    {"max_position_embeddings": "x"}, {"max_position_embeddings": -1},
    {"max_position_embeddings": None}, {"activation_function": "evil"}, {"activation_function": 5},
    {"activation_function": ["relu"]}, {"dtype": "float999"}, {"dtype": 5}, {"dtype": "int8"},
    {"dtype": "complex64"}, {"torch_dtype": "load"}, {"pad_token_id": 10**6}, {"pad_token_id": -1},
    {"pad_token_id": None}, {"eos_token_id": None}, {"eos_token_id": [[2]]}, {"eos_token_id": "2"},
    {"decoder_start_token_id": None}, {"decoder_start_token_id": HUGE},
    {"decoder_start_token_id": "x"}, {"bos_token_id": 10**6}, {"forced_eos_token_id": 10**6},
    {"architectures": ["Evil"]}, {"architectures": "x"}, {"architectures": []},
    {"architectures": [5]}, {"model_type": "evil"}, {"model_type": "t5"}, {"model_type": 5},
    {"model_type": "gpt2"}, {"dropout": 2}, {"dropout": "x"}, {"attention_dropout": -1},
    {"dropout": [0]}, {"activation_dropout": 1e400}, {"encoder_layerdrop": "x"},
    {"scale_embedding": "no"}, {"init_std": -1}, {"init_std": "x"}, {"num_labels": HUGE},
    {"num_labels": -1}, {"id2label": 5}, {"id2label": {"x": 1}}, {"return_dict": False},
    {"output_attentions": True}, {"output_hidden_states": True}, {"use_cache": "x"},
    {"tie_word_embeddings": False}, {"tie_word_embeddings": "x"}, {"is_encoder_decoder": False},
    {"transformers_version": 5}, {"transformers_version": "junk"}, {"attn_implementation": "evil"},
    {"_attn_implementation": 5}, {"quantization_config": 5}, {"encoder": {"model_type": "evil"}},
    {"problem_type": "x"}, {"chunk_size_feed_forward": HUGE}, {"name_or_path": "\x1b[31m"},
    {"share_encoder_decoder_embeddings": False}, {"decoder_vocab_size": 10**9},
    {"layer_norm_eps": float("nan")},
]  # fmt: skip
T5 = [
    {"d_kv": HUGE}, {"d_kv": 0}, {"d_kv": "x"}, {"d_ff": -4}, {"num_heads": 0},
    {"num_layers": "x"}, {"relative_attention_num_buckets": HUGE},
    {"relative_attention_num_buckets": 0}, {"relative_attention_max_distance": 0},
    {"relative_attention_max_distance": "x"}, {"dropout_rate": 7}, {"layer_norm_epsilon": "x"},
    {"layer_norm_epsilon": -1e9}, {"feed_forward_proj": "evil"},
    {"feed_forward_proj": "gated-gated-relu"}, {"feed_forward_proj": 5},
    {"initializer_factor": -1},
]  # fmt: skip
GENERATION = [
    {"num_beams": -1}, {"num_beams": 0}, {"num_beams": 10**9}, {"num_beams": "x"},
    {"num_beams": 2.5}, {"max_length": HUGE}, {"max_length": -1}, {"max_length": 0},
    {"max_length": 1}, {"max_length": "x"}, {"max_length": [5]}, {"min_length": HUGE},
    {"min_length": -1}, {"min_length": "x"}, {"min_new_tokens": HUGE},
    {"forced_bos_token_id": 10**6}, {"forced_bos_token_id": -1}, {"forced_bos_token_id": "x"},
    {"forced_eos_token_id": HUGE}, {"decoder_start_token_id": HUGE},
    {"decoder_start_token_id": [1, 2]}, {"eos_token_id": []}, {"eos_token_id": "x"},
    {"eos_token_id": 2.5}, {"pad_token_id": -1}, {"pad_token_id": [1]},
    {"bad_words_ids": [[HUGE]]}, {"bad_words_ids": [[]]}, {"bad_words_ids": []},
    {"bad_words_ids": 5}, {"bad_words_ids": [["x"]]}, {"suppress_tokens": [HUGE]},
    {"suppress_tokens": "x"}, {"begin_suppress_tokens": [-1]}, {"repetition_penalty": 0},
    {"repetition_penalty": -1}, {"repetition_penalty": "x"}, {"repetition_penalty": 1e308},
    {"no_repeat_ngram_size": HUGE}, {"no_repeat_ngram_size": -1}, {"no_repeat_ngram_size": "x"},
    {"encoder_no_repeat_ngram_size": 5}, {"length_penalty": float("nan")},
    {"length_penalty": 1e308}, {"length_penalty": -1e308}, {"length_penalty": "x"},
    {"early_stopping": "x"}, {"early_stopping": 5}, {"early_stopping": "never"},
    {"num_return_sequences": HUGE}, {"num_return_sequences": -1}, {"do_sample": "x"},
    {"temperature": -1, "do_sample": True}, {"top_k": HUGE}, {"num_beam_groups": 3},
    {"constraints": [1]}, {"force_words_ids": [[1]]}, {"guidance_scale": 3},
    {"watermarking_config": {"x": 1}}, {"cache_implementation": "static"},
    {"cache_implementation": "evil"}, {"cache_config": {"x": 1}}, {"compile_config": {"x": 1}},
    {"stop_strings": ["a"]}, {"max_time": -1}, {"token_healing": True},
    {"prompt_lookup_num_tokens": 5}, {"sequence_bias": [[[HUGE], 1.0]]},
    {"exponential_decay_length_penalty": [1, 1e308]}, {"renormalize_logits": True},
    {"dola_layers": "low"}, {"penalty_alpha": 0.6, "top_k": 4}, {"assistant_early_exit": 1},
    {"low_memory": True}, {"use_cache": False},
    {"return_dict_in_generate": True, "output_scores": True}, {"output_attentions": True},
    {"custom_generate": "someone/evil"}, {"remove_invalid_values": "x"}, {"max_new_tokens": -5},
]  # fmt: skip
TOKENIZER = [
    {"tokenizer_class": "Evil"}, {"tokenizer_class": 5}, {"tokenizer_class": "T5Tokenizer"},
    {"tokenizer_class": None}, {"model_max_length": "x"}, {"model_max_length": -1},
    {"model_max_length": 0}, {"model_max_length": 1}, {"model_max_length": 2.5},
    {"model_max_length": 10**30}, {"model_max_length": None}, {"eos_token": 5},
    {"eos_token": None}, {"pad_token": None}, {"pad_token": ["x"]}, {"unk_token": None},
    {"eos_token": {"content": 5}}, {"extra_special_tokens": 5}, {"extra_special_tokens": [5]},
    {"extra_special_tokens": ["x"] * 3}, {"extra_special_tokens": ["neu"]},
    {"additional_special_tokens": "x"}, {"added_tokens_decoder": {"x": 1}},
    {"added_tokens_decoder": {"5": {"content": "y"}}},
    {"added_tokens_decoder": {"999999999999": {"content": "y", "special": True}}},
    {"added_tokens_decoder": 5}, {"extra_ids": 10**9}, {"num_madeup_words": 10**9},
    {"offset": 10**9}, {"extra_ids": -1}, {"source_prefix": 5}, {"source_prefix": ["x"]},
    {"src_lang": "x"}, {"src_lang": 5}, {"tgt_lang": "evil"}, {"padding_side": "up"},
    {"truncation_side": 5}, {"model_input_names": 5}, {"model_input_names": ["x"]},
    {"separate_vocabs": "x"}, {"clean_up_tokenization_spaces": "x"}, {"source_lang": [1]},
    {"backend": "evil"}, {"is_local": "x"}, {"split_special_tokens": "x"}, {"auto_map": 5},
    {"chat_template": "{% for"}, {"add_prefix_space": "x"},
]  # fmt: skip
SAMPLE = slice(None) if FULL else slice(0, None, 15)
TEXTS = {
    "empty": b"", "a list": b"[]", "half": b'{"a": [1', "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000, "NUL": b"\0" * 10, "bytes": bytes(range(256)),
    "a number": b"5", "an object": b"{}", "null": b"null",
}  # fmt: skip


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "file", "cases"),
        [
            ("bart", "config.json", CONFIG[SAMPLE]),
            ("opus", "config.json", CONFIG[1:][SAMPLE]),
            ("t5", "config.json", T5[SAMPLE]),
            ("bart", "generation_config.json", GENERATION[SAMPLE]),
            ("fast", "generation_config.json", GENERATION[SAMPLE]),
            ("opus", "tokenizer_config.json", TOKENIZER[SAMPLE]),
            ("bart", "tokenizer_config.json", TOKENIZER[1:][SAMPLE]),
            ("m2m100", "tokenizer_config.json", TOKENIZER[2:][SAMPLE]),
        ],
    )
    def test_one(self, name, file, cases, copy_of, ledger):
        with ledger.collect():
            for settings in cases:
                folder = copy_of(name)
                change(folder, file, **settings)
                outcome, message = outcome_of(lambda: use(folder))  # noqa: B023
                ledger.record(KIND, outcome, f"{name}, {file}: {settings}: {message}")


class TestFiles:
    @pytest.mark.parametrize("name", ["bart", "opus", "fast"])
    def test_broken(self, name, copy_of, rng, ledger):
        with ledger.collect():
            files = sorted(path.name for path in sound_folder(name).iterdir())
            for file in files:
                for kind in TEXTS if FULL else [rng.choice(sorted(TEXTS))]:
                    folder = copy_of(name)
                    (folder / file).write_bytes(TEXTS[kind])
                    outcome, message = outcome_of(lambda: use(folder))  # noqa: B023
                    ledger.record(KIND, outcome, f"{name}, {file}: {kind}: {message}")

    def test_weights(self, copy_of, ledger):
        sound = (sound_folder("bart") / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", sound[:8])[0]
        header = json.loads(sound[8 : 8 + size])
        first, second = sorted(name for name in header if name != "__metadata__")[:2]

        def encode(**changes):
            text = json.dumps(header | changes).encode()
            return struct.pack("<Q", len(text)) + text + sound[8 + size :]

        for content in (
            sound[:-100], sound[: size // 2], sound[:4], struct.pack("<Q", 2**63) + sound[8:],
            sound + b"x" * 9, struct.pack("<Q", size - 9) + sound[8:],
            encode(**{first: header[second]}), encode(**{first: {}}),
            encode(**{first: header[first] | {"shape": [HUGE, HUGE]}}),
            encode(**{first: header[first] | {"dtype": "I64"}}),
            encode(**{first: header[first] | {"data_offsets": [0, 2**62]}}),
            encode(**{first: header[first] | {"shape": []}}), encode(__metadata__={"format": "tf"}),
            encode(__metadata__={}), encode(__metadata__=5),
        ):  # fmt: skip
            folder = copy_of("bart")
            (folder / WEIGHTS).write_bytes(content)
            outcome, message = outcome_of(lambda: use(folder))  # noqa: B023
            ledger.record(KIND, outcome, f"{content[:80]}: {message}")

    @pytest.mark.parametrize(
        "dtype", [torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64]
    )
    def test_weights_of_another_type(self, dtype, copy_of, ledger):
        folder = copy_of("bart")
        weights = {name: weight.to(dtype) for name, weight in load_file(folder / WEIGHTS).items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        outcome, message = outcome_of(lambda: use(folder))
        ledger.record(KIND, outcome, f"{dtype}: {message}")

    def test_alignment(self, tmp_path, ledger):
        shape = Geometry(1, 1, 2, 2)
        path = tmp_path / FILE_NAME
        AttentionAlignment(shape, shape).save(path)
        weights = load_file(path)
        sizes = {"student": shape._asdict(), "teacher": shape._asdict()}

        def draw():
            plots.alignment(AttentionAlignment.load(path), tmp_path / "x.png")

        def resize(**values):
            return json.dumps(sizes | {"student": shape._asdict() | values})

        for text in (
            resize(encoder_layers=HUGE), resize(encoder_layers=10**5), resize(encoder_layers=0),
            resize(encoder_heads="2"), resize(encoder_heads=2.0), resize(encoder_heads=-2),
            resize(evil=1), resize(encoder_layers=None),
            resize(encoder_layers=2, encoder_heads=1), "[" * 100_000, "[]", "5", "{}", "",
            json.dumps(sizes | {"student": []}),
        ):  # fmt: skip
            save_file(weights, path, metadata={"geometries": text})
            outcome, message = outcome_of(draw)
            ledger.record(KIND, outcome, f"{text[:100]}: {message}")
        for value in (float("nan"), float("inf"), *((1e38, -1e38, 0.0) if FULL else ())):
            filled = {name: torch.full_like(weight, value) for name, weight in weights.items()}
            save_file(filled, path, metadata={"geometries": json.dumps(sizes)})
            outcome, message = outcome_of(draw)
            ledger.record(KIND, outcome, f"{value}: {message}")


class TestFuzzed:
    VALUES = (
        None, True, False, 0, 1, -1, 2, 3, 7, 24, 100, 2**31, 2**63, 1e30, 0.5, -0.5, float("nan"),
        "", "x", "relu", "\0", "\x1b[1m", "é\n", [], [1], ["x"], [[1]], {}, {"x": 1},
        {"content": "x"},
    )  # fmt: skip

    def test_settings(self, rng, copy_of, ledger):
        with ledger.collect():
            for _ in range(FUZZED):
                folder = copy_of(rng.choice(["bart", "opus", "t5"]))
                names = (
                    "config.json",
                    "generation_config.json",
                    "tokenizer_config.json",
                    "tokenizer.json",
                    "vocab.json",
                )
                file = folder / rng.choice([name for name in names if (folder / name).exists()])
                settings = content = json.loads(file.read_text("utf-8"))
                changes = []
                for _ in range(rng.randrange(1, 3)):
                    content = settings
                    while isinstance(content, dict | list) and content:
                        inside = (
                            list(content)
                            if isinstance(content, dict)
                            else list(range(min(len(content), 9)))
                        )
                        key = rng.choice(inside[:60])
                        if (
                            isinstance(content[key], dict | list)
                            and content[key]
                            and rng.random() < 0.8
                        ):
                            content = content[key]
                            continue
                        content[key] = rng.choice(self.VALUES)
                        changes.append((key, content[key]))
                        break
                file.write_text(json.dumps(settings))
                outcome, message = outcome_of(lambda: use(folder))  # noqa: B023
                ledger.record(KIND, outcome, f"{file.name}: {changes}: {message}")

    def test_bytes(self, rng, copy_of, ledger):
        with ledger.collect():
            for _ in range(FUZZED):
                folder = copy_of(rng.choice(["bart", "opus", "t5", "fast"]))
                file = rng.choice([path for path in folder.iterdir() if path.name != "model.bin"])
                content = bytearray(file.read_bytes())
                if rng.random() < 0.3:
                    del content[rng.randrange(len(content)) :]
                else:
                    for _ in range(rng.randrange(1, 4)):
                        content[rng.randrange(min(len(content), 3000))] ^= 1 << rng.randrange(8)
                file.write_bytes(content)
                outcome, message = outcome_of(lambda: use(folder))  # noqa: B023
                ledger.record(KIND, outcome, f"{folder}, {file.name}: {message}")
