"""Models with trimmed vocabularies compute the same as full models, for remaining tokens."""

import pytest
import torch
from pretrained import FAMILIES, PAIRS, released
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from a2d.errors import UserError
from a2d.models.decoding import translate
from a2d.models.export import ExportedModel, export
from a2d.models.teachers import set_target_language
from a2d.models.trimming import trim
from a2d.text.pairs import Pair

FEW = PAIRS[:30]
every_release = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory):
    """For a release: model, tokenizer, and both after trimming; each made once."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model, tokenizer = released(name, folder / "whole")
            small, cut = trim(model, tokenizer, FEW, folder / "small")
            small.save_pretrained(folder / "small")
            made[name] = model, tokenizer, small, cut, folder / "small"
        return made[name]

    return make


def feed(tokenizer, pairs):
    batch = tokenizer(
        [pair.source for pair in pairs],
        text_target=[pair.target for pair in pairs],
        padding=True,
        return_tensors="pt",
    )
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]} | {
        "decoder_input_ids": batch["labels"]
    }


def remaining_tokens(tokenizer, cut, small):
    """Return the full vocabulary's id of each token of the trimmed one."""
    names = cut.convert_ids_to_tokens(list(range(small.config.vocab_size)))
    return torch.tensor([tokenizer.convert_tokens_to_ids(name) for name in names])


@every_release
def test_hidden_states_and_remaining_logits_are_equal(trimmed, name):
    model, tokenizer, small, cut, _ = trimmed(name)
    with torch.no_grad():
        full, small_output = model(**feed(tokenizer, FEW)), small(**feed(cut, FEW))
    assert full.encoder_last_hidden_state.equal(small_output.encoder_last_hidden_state)
    tokens = remaining_tokens(tokenizer, cut, small)
    torch.testing.assert_close(small_output.logits, full.logits[..., tokens])
    # The distribution over remaining tokens is the full model's, renormalised.
    probabilities = full.logits.softmax(-1)[..., tokens]
    expected = probabilities / probabilities.sum(-1, keepdim=True)
    torch.testing.assert_close(small_output.logits.softmax(-1), expected)


@every_release
def test_embeddings_shrink_to_the_tokens_of_the_corpus(trimmed, name):
    model, tokenizer, small, cut, _ = trimmed(name)
    size = small.config.vocab_size
    assert size == small.get_input_embeddings().num_embeddings == small.lm_head.out_features
    assert size < 0.95 * model.config.vocab_size
    tokens = {t for p in FEW for t in tokenizer(p.source)["input_ids"]}
    tokens |= {t for p in FEW for t in tokenizer(text_target=p.target)["input_ids"]}
    assert len(tokens) <= size
    for special in ("pad", "eos", "unk"):
        old, new = (getattr(t, f"{special}_token") for t in (tokenizer, cut))
        assert old == new


@every_release
def test_translations_are_equal_with_remaining_tokens(trimmed, name):
    model, tokenizer, small, cut, _ = trimmed(name)
    tokens = set(remaining_tokens(tokenizer, cut, small).tolist())
    model.generation_config.suppress_tokens = [
        token for token in range(model.config.vocab_size) if token not in tokens
    ]
    sources = [pair.source for pair in FEW[:8]]
    expected = translate(model, tokenizer, sources, beams=1)
    model.generation_config.suppress_tokens = None
    assert translate(small, cut, sources, beams=1) == expected
    assert len(set(expected)) > 1


@every_release
def test_is_read_by_transformers(trimmed, name):
    _, _, small, cut, folder = trimmed(name)
    read, again = (
        AutoModelForSeq2SeqLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert type(again) is type(cut)
    with torch.no_grad():
        logits = [m.eval()(**feed(t, FEW)).logits for m, t in ((small, cut), (read, again))]
    assert logits[0].equal(logits[1])


@every_release
def test_other_words_are_spelled_or_unknown(trimmed, name):
    _, _, small, cut, _ = trimmed(name)
    text = FEW[0].source[::-1]
    ids = cut(text)["input_ids"]
    assert max(ids) < small.config.vocab_size
    if name not in ("opus", "m2m100"):
        assert cut.unk_token_id not in ids
        assert cut.decode(ids, skip_special_tokens=True).strip() == text.strip()


def test_configured_tokens_stay_and_are_renumbered(tmp_path):
    model, tokenizer = released("opus", tmp_path / "whole")
    word = 300
    name = tokenizer.convert_ids_to_tokens(word)
    model.generation_config.bad_words_ids = [[tokenizer.pad_token_id], [word, 3]]
    small, cut = trim(model, tokenizer, [Pair("ja", "jo")], tmp_path / "small")
    new = cut.convert_tokens_to_ids(name)
    assert small.generation_config.bad_words_ids[0] == [cut.pad_token_id]
    assert small.generation_config.bad_words_ids[1][0] == new < word
    assert small.config.pad_token_id == small.config.decoder_start_token_id == cut.pad_token_id
    assert cut.pad_token_id == small.config.vocab_size - 1


def test_two_vocabularies_are_refused(tmp_path):
    model, tokenizer = released("opus", tmp_path / "whole")
    (tmp_path / "small").mkdir()
    (tmp_path / "small/target_vocab.json").write_text("{}")
    with pytest.raises(UserError, match="MarianTokenizer cannot be trimmed"):
        trim(model, tokenizer, FEW, tmp_path / "small")


@pytest.mark.parametrize("name", ["m2m100", "nllb"])
def test_trimmed_models_are_exported(name, tmp_path):
    model, tokenizer = released(name, tmp_path / "whole")
    set_target_language(model, tokenizer)
    small, cut = trim(model, tokenizer, FEW, tmp_path / "small")
    small.save_pretrained(tmp_path / "small")
    export(tmp_path / "small", tmp_path / "fast")
    sources = [pair.source for pair in FEW]
    expected = translate(small, cut, sources, beams=1)
    assert ExportedModel(tmp_path / "fast").translate(sources, beams=1) == expected
