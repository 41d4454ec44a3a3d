"""Models with trimmed vocabularies equal full models on the remaining tokens."""

import pytest
import torch
from pretrained import FAMILIES, PAIRS, released
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from a2d.errors import UserError
from a2d.models.decoding import translate
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.models.teachers import set_target_language
from a2d.models.trimming import trim
from a2d.text.pairs import Pair

SAMPLE = PAIRS[:30]
every_release = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory):
    """Function that returns a release's model and tokenizer, before and after trimming."""
    releases = {}

    def make(name):
        if name not in releases:
            folder = tmp_path_factory.mktemp(name)
            model, tokenizer = released(name, folder / "whole")
            small, small_tokenizer = trim(model, tokenizer, SAMPLE, folder / "small")
            small.save_pretrained(folder / "small")
            releases[name] = model, tokenizer, small, small_tokenizer, folder / "small"
        return releases[name]

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


def remaining_tokens(tokenizer, small_tokenizer, small):
    """Ids in the full vocabulary of the trimmed vocabulary's tokens."""
    names = small_tokenizer.convert_ids_to_tokens(list(range(small.config.vocab_size)))
    return torch.tensor([tokenizer.convert_tokens_to_ids(name) for name in names])


@every_release
def test_hidden_states_and_remaining_logits_are_equal(trimmed, name):
    model, tokenizer, small, small_tokenizer, _ = trimmed(name)
    with torch.no_grad():
        full = model(**feed(tokenizer, SAMPLE))
        small_output = small(**feed(small_tokenizer, SAMPLE))
    assert full.encoder_last_hidden_state.equal(small_output.encoder_last_hidden_state)
    tokens = remaining_tokens(tokenizer, small_tokenizer, small)
    torch.testing.assert_close(small_output.logits, full.logits[..., tokens])
    # The distribution over remaining tokens is the full model's, renormalised.
    probabilities = full.logits.softmax(-1)[..., tokens]
    expected = probabilities / probabilities.sum(-1, keepdim=True)
    torch.testing.assert_close(small_output.logits.softmax(-1), expected)


@every_release
def test_embeddings_shrink_to_the_tokens_of_the_corpus(trimmed, name):
    model, tokenizer, small, small_tokenizer, _ = trimmed(name)
    size = small.config.vocab_size
    assert size == small.get_input_embeddings().num_embeddings == small.lm_head.out_features
    assert size < 0.95 * model.config.vocab_size
    tokens = {t for p in SAMPLE for t in tokenizer(p.source)["input_ids"]}
    tokens |= {t for p in SAMPLE for t in tokenizer(text_target=p.target)["input_ids"]}
    assert len(tokens) <= size
    for special in ("pad", "eos", "unk"):
        old, new = (getattr(t, f"{special}_token") for t in (tokenizer, small_tokenizer))
        assert old == new


@every_release
def test_translations_are_equal_with_remaining_tokens(trimmed, name):
    model, tokenizer, small, small_tokenizer, _ = trimmed(name)
    tokens = set(remaining_tokens(tokenizer, small_tokenizer, small).tolist())
    model.generation_config.suppress_tokens = [
        token for token in range(model.config.vocab_size) if token not in tokens
    ]
    sources = [pair.source for pair in SAMPLE[:8]]
    expected = translate(model, tokenizer, sources, beams=1)
    model.generation_config.suppress_tokens = None
    assert translate(small, small_tokenizer, sources, beams=1) == expected
    assert len(set(expected)) > 1


@every_release
def test_is_read_by_transformers(trimmed, name):
    _, _, small, small_tokenizer, folder = trimmed(name)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(folder)
    loaded_tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(loaded_tokenizer) is type(small_tokenizer)
    with torch.no_grad():
        logits = [
            m.eval()(**feed(t, SAMPLE)).logits
            for m, t in ((small, small_tokenizer), (loaded, loaded_tokenizer))
        ]
    assert logits[0].equal(logits[1])


@every_release
def test_other_words_are_spelled_or_unknown(trimmed, name):
    _, _, small, small_tokenizer, _ = trimmed(name)
    text = SAMPLE[0].source[::-1]
    ids = small_tokenizer(text)["input_ids"]
    assert max(ids) < small.config.vocab_size
    if name not in ("opus", "m2m100"):
        assert small_tokenizer.unk_token_id not in ids
        assert small_tokenizer.decode(ids, skip_special_tokens=True).strip() == text.strip()


def test_configured_tokens_stay_and_are_renumbered(tmp_path):
    model, tokenizer = released("opus", tmp_path / "whole")
    word = 300
    name = tokenizer.convert_ids_to_tokens(word)
    model.generation_config.bad_words_ids = [[tokenizer.pad_token_id], [word, 3]]
    small, small_tokenizer = trim(model, tokenizer, [Pair("ja", "jo")], tmp_path / "small")
    new = small_tokenizer.convert_tokens_to_ids(name)
    assert small.generation_config.bad_words_ids[0] == [small_tokenizer.pad_token_id]
    assert small.generation_config.bad_words_ids[1][0] == new < word
    assert (
        small.config.pad_token_id
        == small.config.decoder_start_token_id
        == small_tokenizer.pad_token_id
    )
    assert small_tokenizer.pad_token_id == small.config.vocab_size - 1


def test_two_vocabularies_are_refused(tmp_path):
    model, tokenizer = released("opus", tmp_path / "whole")
    (tmp_path / "small").mkdir()
    (tmp_path / "small/target_vocab.json").write_text("{}")
    with pytest.raises(UserError, match="MarianTokenizer cannot be trimmed"):
        trim(model, tokenizer, SAMPLE, tmp_path / "small")


@pytest.mark.parametrize("name", ["m2m100", "nllb"])
def test_trimmed_models_are_exported(name, tmp_path):
    model, tokenizer = released(name, tmp_path / "whole")
    set_target_language(model, tokenizer)
    small, small_tokenizer = trim(model, tokenizer, SAMPLE, tmp_path / "small")
    small.save_pretrained(tmp_path / "small")
    export(tmp_path / "small", tmp_path / "fast")
    sources = [pair.source for pair in SAMPLE]
    expected = translate(small, small_tokenizer, sources, beams=1)
    assert ExportedModel(tmp_path / "fast").translate(sources, beams=1) == expected
