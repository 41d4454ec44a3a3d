"""Folders with code, with files elsewhere or without a model are refused; no code runs."""

import ast
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from pretrained import FAMILIES, released
from safetensors.torch import load_file, save_file
from transformers import ByT5Tokenizer

import a2d
from a2d.errors import UserError
from a2d.models import folders
from a2d.models.loading import load_config, load_model
from a2d.models.tokenizer import check_fits, load_tokenizer

EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").write_text("code of the model ran")
from transformers import BartConfig, BartTokenizer
class C(BartConfig): model_type = "evil"
class T(BartTokenizer): pass
"""


def change(folder, name, **values):
    path = folder / name
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | values))


@pytest.fixture
def folder(tmp_path):
    released("bart", tmp_path / "model")
    (tmp_path / "model/evil.py").write_text(EVIL)
    return tmp_path / "model"


def test_a_hub_that_cannot_be_reached_is_called_once(monkeypatch):
    requests = []

    def unreachable(*arguments):
        requests.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr("a2d.models.folders.cached_file", unreachable)
    for load in (load_config, load_model, load_tokenizer):
        with pytest.raises(UserError, match=r"at 'some/model': give .*\(no network\)"):
            load("some/model")
    assert requests == [("some/model", "config.json")] * 3


WANTS_CODE = {
    "configuration": ("config.json", {"auto_map": {"AutoConfig": "evil.C"}, "model_type": "evil"}),
    "beside a known type": ("config.json", {"auto_map": {"AutoConfig": "evil.C"}}),
    "model": ("config.json", {"auto_map": {"AutoModelForSeq2SeqLM": "evil.M"}}),
    "code elsewhere": ("config.json", {"auto_map": {"AutoConfig": "someone/else--evil.C"}}),
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}),
    "old tokenizer": ("tokenizer_config.json", {"auto_map": ["evil.T", None]}),
    "kernels": ("config.json", {"attn_implementation": "someone/kernel"}),
    "kernels within": ("config.json", {"_attn_implementation_internal": "someone/kernel"}),
}


@pytest.mark.parametrize("name", WANTS_CODE)
def test_code_is_refused_and_never_runs(name, folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to trust it"))
    file, settings = WANTS_CODE[name]
    change(folder, file, **settings)
    for load in (load_config, load_model, load_tokenizer):
        with pytest.raises(UserError, match=rf"code .*'\w+' in its {file}"):
            load(folder)
    assert not (folder / "ran").exists()


def test_a_text_of_yes_is_translated_not_obeyed(folder):
    file, settings = WANTS_CODE["configuration"]
    change(folder, file, **settings)
    process = subprocess.run(
        [sys.executable, "-m", "a2d", "translate", str(folder)],
        input="yes\n" * 5,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert "asks to run code that comes with it" in " ".join(process.stderr.split())
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("path", ["../other.safetensors", "/tmp/x.safetensors", "weights.bin", ""])
def test_weights_elsewhere_and_pickles_are_refused(path, folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    torch.save(weights, folder / "weights.bin")
    change(folder, "model.safetensors.index.json", weight_map=dict.fromkeys(weights, path))
    with pytest.raises(UserError, match="a2d reads safetensors files in the model's folder only"):
        load_model(folder)


ELSEWHERE = {
    "a pickle": ("config.json", {"transformers_weights": "adapter_model.bin"}),
    "an index": ("config.json", {"transformers_weights": "x.safetensors.index.json"}),
    "renamed": (
        "config.json",
        {"attribute_map": {"transformers_weights": "x"}, "x": "adapter_model.bin"},
    ),
    "tokenizer": ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.1.0.json"]}),
    "no names": ("tokenizer_config.json", {"fast_tokenizer_files": 5}),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_settings_that_name_other_files_are_refused(name, folder, tmp_path, recwarn):
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "adapter_model.bin")
    save_file(weights, tmp_path / "other.safetensors", metadata={"format": "pt"})
    change(
        folder,
        "x.safetensors.index.json",
        metadata={},
        weight_map=dict.fromkeys(weights, "../other.safetensors"),
    )
    (tmp_path / "tokenizer.1.0.json").write_bytes((folder / "tokenizer.json").read_bytes())
    file, settings = ELSEWHERE[name]
    change(folder, file, **settings)
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match=f"'{next(iter(settings))}' in its {file}"):
            load(folder)


def test_names_without_end_are_refused(folder):
    tokens = {str(number): {"content": f"x{number}"} for number in range(10_001)}
    change(folder, "tokenizer_config.json", added_tokens_decoder=tokens)
    with pytest.raises(UserError, match=r"added_tokens_decoder is 10,001, more than 10,000"):
        load_tokenizer(folder)


@pytest.mark.parametrize("prefix", ["x" * 1001, {"x": 1}])
def test_prefixes_are_short_texts(prefix, folder):
    load_tokenizer(folder)
    change(folder, "tokenizer_config.json", source_prefix=prefix)
    with pytest.raises(UserError, match=r"source_prefix .* not a text of at most 1,000 characters"):
        load_tokenizer(folder)


def test_a_tokenizer_that_cannot_decode_is_refused(folder):
    config = load_config(folder)
    config.vocab_size = len(ByT5Tokenizer())
    check_fits(ByT5Tokenizer(), config, folder)
    config.vocab_size = 1000
    with pytest.raises(UserError, match="cannot decode all of the model's 1,000 tokens"):
        check_fits(ByT5Tokenizer(), config, folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "x.txt"])
def test_pipes_and_devices_are_refused_unread(name, folder):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/dev/null")
    for load in (load_config, load_model, load_tokenizer):
        with pytest.raises(UserError, match=f"{name} is a pipe or a device, not a file: remove it"):
            load(folder)


def test_weights_in_parts_are_read(folder):
    model = load_model(folder)
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    (folder / "model.safetensors").unlink(missing_ok=True)
    again = load_model(folder).state_dict()
    assert all(again[name].equal(weight) for name, weight in model.state_dict().items())


def test_adapters_and_quantised_models_are_refused(folder):
    change(folder, "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(UserError, match="is quantised, and a2d reads models in 16 or 32 bits"):
        load_model(folder)
    change(folder, "config.json", quantization_config=None)
    load_model(folder)
    change(folder, "adapter_config.json", base_model_name_or_path="someone/else")
    with pytest.raises(UserError, match="holds an adapter, not a model"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["opus", "t5"])
def test_weights_that_are_no_numbers_are_refused(name, value, tmp_path):
    released(name, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    first = min(weights)
    weights[first].flatten()[0] = value
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"has 1 tensor with values that are not finite numbers \(\S+\):"
    ):
        load_model(tmp_path)


NO_MODEL = [
    {"encoder_attention_heads": 0},
    {"decoder_attention_heads": 7},
    {"encoder_layers": 10**6},
    {"encoder_layers": -1},
    {"decoder_layers": "2"},
    {"d_model": 24.5},
    {"d_model": None},
    {"vocab_size": 0},
    {"pad_token_id": 10**6},
    {"eos_token_id": [2, -5]},
    {"activation_function": "evil"},
    {"dtype": "float999"},
    {"model_type": None},
    {"model_type": ["bart"]},
]


@pytest.mark.parametrize("settings", NO_MODEL, ids=str)
def test_settings_of_no_model_are_refused(settings, folder):
    change(folder, "config.json", **settings)
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) or "model" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 10**5, '{"model_type": "bart"', "\0", "1"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_broken_files_are_refused_or_not_needed(file, text, folder):
    (folder / file).write_text(text)
    for load in (load_model, load_tokenizer):
        with suppress(UserError):
            load(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_releases_pass(name, tmp_path):
    released(name, tmp_path)
    load_model(tmp_path)
    load_tokenizer(tmp_path)


def test_nothing_else_loads_models():
    """Only `a2d.models.folders` calls functions that may run a model's code."""
    package = Path(a2d.__file__).parent
    calls = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "load"):
                calls.setdefault(path.relative_to(package).as_posix(), []).append(ast.unparse(node))
    loading = {
        name: matches for name, matches in calls.items() if "from_pretrained" in str(matches)
    }
    assert loading.keys() == {"models/folders.py"}
    assert not any("torch.load" in str(matches) for matches in calls.values())


@pytest.mark.parametrize("path", ["./none", "/none/x", "a/b/c", "~/none", "none/"])
def test_a_path_without_a_folder_is_not_looked_up_on_the_hub(path, monkeypatch):
    monkeypatch.setattr(folders, "cached_file", pytest.fail)
    monkeypatch.setattr(folders, "get_session", pytest.fail)
    with pytest.raises(UserError, match=r"no model at .* \(there is no such folder\)"):
        load_config(path)


def test_a_name_is_looked_up_once_without_a_network(monkeypatch):
    class Session:
        calls = 0

        def head(self, url, timeout):
            assert timeout < 10
            Session.calls += 1
            raise ConnectionError("no network")

    monkeypatch.setattr(folders.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(folders, "get_session", Session)
    monkeypatch.setattr(folders, "cached_file", pytest.fail)
    folders._check_hub.cache_clear()
    with pytest.raises(UserError, match=r"no model at 'no-such-model': .* cannot be reached"):
        load_config("no-such-model")
    assert Session.calls == 1
