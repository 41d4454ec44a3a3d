"""Settings that depend on the machine: a run fixes them when it begins."""

import os
import sys

import pytest
import yaml
from pretrained import released

from a2d.errors import UserError
from a2d.runs import environment
from a2d.runs.environment import resolve
from a2d.runs.recipe import load_recipe


def recipe(*overrides):
    return load_recipe("methods", ["methods=[seqkd]", *overrides])


def pretrained(folder):
    sizes = "encoder_layers: 1, decoder_layers: 1, heads: 2, width: 16, feed_forward: 16"
    return recipe(f"teacher={{path: {folder}}}", f"students=[{{{sizes}}}]")


def begin(resolved, folder):
    """Write the resolved recipe, as a run does at its begin."""
    folder.mkdir()
    text = yaml.safe_dump(resolved.model_dump(), sort_keys=False)
    (folder / environment.RECIPE).write_text(text, "utf-8")


@pytest.fixture
def bare(monkeypatch):
    """A machine without CTranslate2."""
    monkeypatch.setitem(sys.modules, "ctranslate2", None)


class TestEngine:
    @pytest.mark.parametrize(
        ("name", "settings", "expected"),
        [
            ("opus", {}, "ctranslate2"),
            ("opus", {"no_repeat_ngram_size": 3}, "transformers"),
            ("opus", {"repetition_penalty": 1.2}, "transformers"),
            ("bart", {}, "ctranslate2"),
        ],
    )
    def test_is_the_fast_one_if_translations_are_the_same(self, name, settings, expected, tmp_path):
        model, _ = released(name, tmp_path / "teacher")
        model.generation_config.update(**settings)
        model.generation_config.save_pretrained(tmp_path / "teacher")
        unresolved = pretrained(tmp_path / "teacher")
        assert resolve(unresolved, tmp_path / "run").sequences.engine == expected

    def test_of_a_model_without_generation_config(self, tmp_path):
        released("opus", tmp_path / "teacher")
        (tmp_path / "teacher/generation_config.json").unlink()
        unresolved = pretrained(tmp_path / "teacher")
        assert resolve(unresolved, tmp_path / "run").sequences.engine == "ctranslate2"

    def test_of_teachers_that_are_trained(self, tmp_path):
        assert resolve(recipe(), tmp_path).sequences.engine == "ctranslate2"
        unequal = recipe("teacher.shape.decoder_heads=2")
        assert resolve(unequal, tmp_path).sequences.engine == "transformers"

    def test_without_ctranslate2(self, tmp_path, bare):
        assert resolve(recipe(), tmp_path).sequences.engine == "transformers"
        with pytest.raises(UserError, match="ctranslate2 is not installed"):
            resolve(recipe("sequences.engine=ctranslate2"), tmp_path)

    def test_teachers_in_8_bits_need_bitsandbytes(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(UserError, match="bitsandbytes is not installed"):
            resolve(recipe("teacher.precision=int8"), tmp_path)
        assert resolve(recipe("teacher.precision=bfloat16"), tmp_path).teacher.precision

    def test_does_not_change(self, tmp_path, monkeypatch):
        begin(resolve(recipe(), tmp_path / "run"), tmp_path / "run")
        monkeypatch.setitem(sys.modules, "ctranslate2", None)
        with pytest.raises(UserError, match="ctranslate2 is not installed"):
            resolve(recipe(), tmp_path / "run")
        (tmp_path / "run/distilled").mkdir()  # all translations exist
        assert resolve(recipe(), tmp_path / "run").sequences.engine == "ctranslate2"
        begin(resolve(recipe(), tmp_path / "bare"), tmp_path / "bare")
        monkeypatch.delitem(sys.modules, "ctranslate2")
        assert resolve(recipe(), tmp_path / "bare").sequences.engine == "transformers"
        assert resolve(recipe(), tmp_path / "new").sequences.engine == "ctranslate2"

    def test_is_not_resolved_without_need(self, tmp_path, bare):
        assert resolve(load_recipe("methods", []), tmp_path).sequences.engine == "auto"


@pytest.mark.parametrize("pays", [True, False])
def test_precision_does_not_change(pays, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "bf16_is_fast", lambda: pays)
    resolved = resolve(recipe(), tmp_path / "run")
    assert (resolved.training.bf16, resolved.teacher.training.bf16) == (pays, pays)
    begin(resolved, tmp_path / "run")
    monkeypatch.setattr(environment, "bf16_is_fast", lambda: not pays)
    assert resolve(recipe(), tmp_path / "run") == resolved
    assert resolve(recipe("training.bf16=true"), tmp_path / "run").training.bf16 is True


@pytest.mark.parametrize("text", ["", "{", "name: 3", "\0"])
def test_a_damaged_recipe_is_resolved_again(text, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / environment.RECIPE).write_text(text)
    assert resolve(recipe(), tmp_path / "run") == resolve(recipe(), tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_the_place_of_the_recipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / environment.RECIPE)
    assert resolve(recipe("training.bf16=null"), tmp_path).training.bf16 in (True, False)
