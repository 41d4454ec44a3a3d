"""Model folders that lack weights are refused in a sentence, unless they can be computed."""

import json

import pytest
from pretrained import released
from safetensors.torch import load_file, save_file

from a2d.errors import UserError
from a2d.models.loading import load_model
from a2d.models.tokenizer import check_fits, load_tokenizer

WEIGHTS = "model.safetensors"


def without(folder, *names):
    """Remove weights from a saved model."""
    remaining = {k: w for k, w in load_file(folder / WEIGHTS).items() if not k.endswith(names)}
    save_file(remaining, folder / WEIGHTS, metadata={"format": "pt"})


def test_positions_that_releases_of_pegasus_lack_are_computed(tmp_path):
    model, _ = released("pegasus", tmp_path)
    without(tmp_path, "embed_positions.weight", "final_logits_bias")
    loaded = load_model(tmp_path).state_dict()
    assert all(loaded[name].equal(weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("name", ["opus", "pegasus", "bart", "t5"])
def test_loaded_models_train_the_same_weights_as_new_ones(name, tmp_path):
    """transformers would train the computed positions of loaded models."""
    model, _ = released(name, tmp_path)
    new, loaded = (
        {name: parameter.requires_grad for name, parameter in each.named_parameters()}
        for each in (type(model)(model.config), load_model(tmp_path))
    )
    assert loaded == new


@pytest.mark.parametrize("name", ["opus", "bart", "t5"])
def test_missing_weights_are_refused(name, tmp_path):
    released(name, tmp_path)
    name_of_weight = "layer.0.SelfAttention.q.weight" if name == "t5" else "self_attn.q_proj.weight"
    without(tmp_path, f"0.{name_of_weight}")
    with pytest.raises(
        UserError, match=rf"lacks 2 of its model's weights \(.*0\.{name_of_weight}, …\)"
    ):
        load_model(tmp_path)


def test_missing_learned_positions_are_refused(tmp_path):
    released("bart", tmp_path)
    without(tmp_path, "embed_positions.weight")
    with pytest.raises(UserError, match="lacks 2 of its model's weights"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    released("bart", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_ffn_dim": 48}))
    with pytest.raises(UserError, match=r"the weights in .* do not fit its config\.json"):
        load_model(tmp_path)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    released("bart", tmp_path)
    for path in [*tmp_path.glob("*token*"), *tmp_path.glob("vocab*"), *tmp_path.glob("merges*")]:
        path.unlink()
    with pytest.raises(UserError, match="no tokenizer at"):
        load_tokenizer(tmp_path)


def test_more_tokens_than_embeddings_are_refused(tmp_path):
    model, tokenizer = released("bart", tmp_path)
    check_fits(tokenizer, model.config, tmp_path)
    tokenizer.add_tokens(["one", "two"])
    with pytest.raises(UserError, match=r"\d+ tokens, and the model has embeddings for \d+: call"):
        check_fits(tokenizer, model.config, tmp_path)
