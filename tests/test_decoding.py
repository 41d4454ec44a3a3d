"""Translation in batches gives what one sentence at a time gives."""

import pytest
import torch

from a2d.models.decoding import generation_limit, translate
from a2d.models.loading import new_model
from a2d.models.tokenizer import train_tokenizer
from a2d.text.corpus import read_corpus

TEXTS = [pair.source for pair in read_corpus("builtin:de-dsb/valid")[:300]]
SENTENCES = [*TEXTS[:9], "", *TEXTS[9:14], "  "]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module")
def random_model(tokenizer):
    """Untrained, with weights so large that what it says depends on what it reads."""
    torch.manual_seed(0)
    model = new_model(
        tokenizer, encoder_layers=1, decoder_layers=1, heads=2, width=16, feed_forward=16
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.eval()


@pytest.fixture
def endless(random_model, tokenizer):
    """Never ends a translation by itself."""
    random_model.generation_config.suppress_tokens = [tokenizer.eos_token_id]
    yield random_model
    random_model.generation_config.suppress_tokens = None


@pytest.fixture
def ending(random_model):
    """Ends translations after a few tokens, some sooner than others."""
    random_model.generation_config.exponential_decay_length_penalty = (1, 2.0)
    yield random_model
    random_model.generation_config.exponential_decay_length_penalty = None


def one_at_a_time(model, tokenizer, sentences, beams):
    """Plain `generate`, without padding; also, how many translations were cut at their limit."""
    translations, cut = [], 0
    for sentence in sentences:
        inputs = tokenizer(sentence, return_tensors="pt")
        limit = generation_limit(inputs["input_ids"].shape[1])
        with torch.inference_mode():
            output = model.generate(**inputs, num_beams=beams, max_new_tokens=limit)
        cut += output.shape[1] > limit
        text = tokenizer.decode(output[0], skip_special_tokens=True).strip()
        translations.append(text if sentence.strip() else "")
    return translations, cut


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("max_tokens", [1, 90, 4096])
def test_batches_change_nothing(ending, tokenizer, beams, max_tokens):
    want, cut = one_at_a_time(ending, tokenizer, SENTENCES, beams)
    assert cut == 0
    assert len(set(want)) > 10, "translations must differ, or their order could not be seen"
    got = translate(ending, tokenizer, SENTENCES, beams=beams, max_tokens=max_tokens)
    assert got == want


@pytest.mark.parametrize("beams", [1, 4])
def test_how_long_it_may_get_does_not_depend_on_the_batch(endless, tokenizer, beams):
    want, cut = one_at_a_time(endless, tokenizer, SENTENCES[:5], beams)
    assert cut == 5
    assert translate(endless, tokenizer, SENTENCES[:5], beams=beams) == want


@pytest.mark.parametrize(
    "release",
    [
        {"forced_eos_token_id": 0},  # transformers would force it at the batch's limit
        {"do_sample": True, "temperature": 1.5, "top_k": 20},
        {"num_beam_groups": 2, "diversity_penalty": 1.0},
    ],
)
def test_a_release_s_own_settings_make_it_no_other_search(
    random_model, tokenizer, release, monkeypatch
):
    want = translate(random_model, tokenizer, SENTENCES, beams=4)
    for name, value in release.items():
        monkeypatch.setattr(random_model.generation_config, name, value, raising=False)
    assert translate(random_model, tokenizer, SENTENCES, beams=4) == want
    assert translate(random_model, tokenizer, SENTENCES, beams=4, max_tokens=1) == want


def test_order_is_kept(ending, tokenizer):
    backwards = translate(ending, tokenizer, SENTENCES[::-1], beams=1, max_tokens=60)
    assert backwards[::-1] == translate(ending, tokenizer, SENTENCES, beams=1, max_tokens=60)


def test_empty_sentences_stay_empty(endless, tokenizer):
    got = translate(endless, tokenizer, ["", "Datei", " \t"], beams=1)
    assert (got[0], got[2]) == ("", "")
    assert got[1]


def test_no_sentences(endless, tokenizer):
    assert translate(endless, tokenizer, []) == []


def test_evaluation_mode(endless, tokenizer):
    endless.train()
    first, second = (translate(endless, tokenizer, SENTENCES[:3], beams=1) for _ in range(2))
    assert first == second
    assert not endless.training


def test_progress_rises_to_the_number_of_sentences(ending, tokenizer):
    seen = []
    translate(ending, tokenizer, SENTENCES, beams=1, max_tokens=60, progress=seen.append)
    assert len(seen) > 2
    assert seen == sorted(set(seen))
    assert seen[-1] == len(SENTENCES)


def test_no_more_is_read_or_written_than_the_model_has_positions_for(tokenizer):
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "heads": 2, "width": 16, "feed_forward": 16}
    model = new_model(tokenizer, **sizes, max_positions=12)
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id]
    cut = tokenizer(" ".join(SENTENCES), truncation=True, max_length=12, return_tensors="pt")
    with pytest.raises(IndexError):
        model.generate(**cut, max_new_tokens=13)
    assert all(translate(model, tokenizer, [" ".join(SENTENCES), "a"], beams=2))
    assert generation_limit(10, 12) == 12


@pytest.mark.parametrize(("source", "limit"), [(1, 11), (5, 16), (10, 22), (100, 130)])
def test_limit_is_the_papers(source, limit):
    assert generation_limit(source) == limit
