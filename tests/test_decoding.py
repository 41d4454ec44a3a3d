"""Batched translation equals translation of single sentences."""

import pytest
import torch
from transformers import GenerationConfig

from a2d.models.decoding import n_best, translate
from a2d.models.loading import new_model
from a2d.models.search_settings import generation_limit, set_generation_defaults
from a2d.models.tokenizer import train_tokenizer
from a2d.text.corpus import read_corpus

TEXTS = [pair.source for pair in read_corpus("builtin:de-dsb/valid")[:300]]
SENTENCES = [*TEXTS[:9], "", *TEXTS[9:14], "  "]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module")
def random_model(tokenizer):
    """An untrained model; large weights make translations depend on the source."""
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
    """A model that never ends a translation by itself."""
    random_model.generation_config.suppress_tokens = [tokenizer.eos_token_id]
    yield random_model
    random_model.generation_config.suppress_tokens = None


@pytest.fixture
def ending(random_model):
    """A model that ends translations after different small numbers of tokens."""
    random_model.generation_config.exponential_decay_length_penalty = (1, 2.0)
    yield random_model
    random_model.generation_config.exponential_decay_length_penalty = None


def one_at_a_time(model, tokenizer, sentences, beams):
    """Translate by plain `generate` without padding; also count translations cut at their limit."""
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
    expected, cut = one_at_a_time(ending, tokenizer, SENTENCES, beams)
    assert cut == 0
    assert len(set(expected)) > 10, (
        "translations must differ, or a wrong order would not be noticed"
    )
    translations = translate(ending, tokenizer, SENTENCES, beams=beams, max_tokens=max_tokens)
    assert translations == expected


def test_batches_are_small_on_cpu(ending, tokenizer, monkeypatch):
    """The product of a batch's tokens, beams and the model's width is limited."""
    sizes = []
    ending.get_encoder().register_forward_pre_hook(
        lambda module, inputs, named: sizes.append(named["input_ids"].numel()), with_kwargs=True
    )
    expected = translate(ending, tokenizer, SENTENCES, beams=4)
    monkeypatch.setattr("a2d.models.decoding._CPU_FLOATS", 200 * 4 * ending.config.d_model)
    monkeypatch.setattr("a2d.models.decoding._LEAST_TOKENS", 1)
    for limit, largest in ((4096, 200), (100, 100)):
        sizes.clear()
        found = translate(ending, tokenizer, SENTENCES, beams=4, max_tokens=limit)
        assert found == expected
        assert largest / 2 < max(sizes) <= largest


@pytest.mark.parametrize("beams", [1, 4])
def test_how_long_it_may_get_does_not_depend_on_the_batch(endless, tokenizer, beams):
    expected, cut = one_at_a_time(endless, tokenizer, SENTENCES[:5], beams)
    assert cut == 5
    assert translate(endless, tokenizer, SENTENCES[:5], beams=beams) == expected


class TestLimitsOfTheModel:
    """A model whose settings have a `max_length` is decoded as plain `generate` decodes it."""

    LIMIT = 24
    TEXTS = [" ".join(text.split()[: 1 + i % 5]) for i, text in enumerate(TEXTS[:24])]  # noqa: RUF012

    @pytest.fixture
    def endless(self, random_model, monkeypatch):
        """A model that ends some translations before the usual limit, some later, some never."""
        settings = random_model.generation_config
        monkeypatch.setattr(settings, "exponential_decay_length_penalty", (5, 1.05))
        monkeypatch.setattr(settings, "max_length", self.LIMIT)
        random_model.final_logits_bias[0, settings.eos_token_id] = 5.2
        yield random_model
        random_model.final_logits_bias.zero_()

    def plain(self, model, tokenizer, beams):
        """Return translation, number of tokens and usual limit of each sentence, by `generate`."""
        results = []
        for text in self.TEXTS:
            inputs = tokenizer(text, return_tensors="pt")
            output = model.generate(**inputs, num_beams=beams)[0]
            translation = tokenizer.decode(output, skip_special_tokens=True).strip()
            results.append(
                (translation, len(output) - 1, generation_limit(inputs["input_ids"].shape[1]))
            )
        return results

    @pytest.mark.parametrize("rule", [False, True, "never"])
    @pytest.mark.parametrize("beams", [1, 4])
    def test_counts(self, endless, tokenizer, beams, rule, monkeypatch):
        monkeypatch.setattr(endless.generation_config, "early_stopping", rule)
        expected = self.plain(endless, tokenizer, beams)
        assert any(n < usual for _, n, usual in expected)
        assert any(usual < n for _, n, usual in expected)
        assert rule or any(n == self.LIMIT - 1 for _, n, _ in expected)
        for max_tokens in (50, 4096):
            progress_values = []
            translations = translate(
                endless,
                tokenizer,
                self.TEXTS,
                beams=beams,
                max_tokens=max_tokens,
                progress=progress_values.append,
            )
            assert translations == [text for text, _, _ in expected]
            assert progress_values == sorted(set(progress_values))
            assert progress_values[-1] == 24

    def test_can_be_cut(self, endless, tokenizer, monkeypatch):
        cut = n_best(endless, tokenizer, self.TEXTS, 2, beams=2, cut=True)
        assert [hypotheses[0] for hypotheses in cut] != translate(
            endless, tokenizer, self.TEXTS, beams=2
        )
        monkeypatch.setattr(endless.generation_config, "max_length", None)
        assert cut == n_best(endless, tokenizer, self.TEXTS, 2, beams=2)

    def test_beams_of_the_model_are_the_default(self, ending, tokenizer, monkeypatch):
        translations = {n: translate(ending, tokenizer, SENTENCES, beams=n) for n in (1, 3, 5)}
        assert translations[1] != translations[3] != translations[5]
        assert translate(ending, tokenizer, SENTENCES) == translations[5]
        for beams in (1, 3):
            monkeypatch.setattr(ending.generation_config, "num_beams", beams)
            assert translate(ending, tokenizer, SENTENCES) == translations[beams]


class TestGenerationDefaults:
    def completed_settings(self, tokenizer, folder, source, target, **settings):
        shape = {"encoder_layers": 1, "decoder_layers": 1, "heads": 2, "width": 16}
        model = new_model(tokenizer, **shape, feed_forward=16, max_positions=300)
        model.generation_config.update(**settings)
        set_generation_defaults(model, source, target)
        model.save_pretrained(folder)
        config = GenerationConfig.from_pretrained(folder)
        assert config.bad_words_ids == [[tokenizer.pad_token_id]]
        return config.num_beams, config.max_length, config.early_stopping

    @pytest.mark.parametrize(
        ("source", "target", "limit"),
        [(9, 9, 128), (100, 90, 130), (100, 140, 140), (200, 9, 250), (400, 9, 300)],
    )
    def test_by_the_longest_sentences(self, tokenizer, tmp_path, source, target, limit):
        assert self.completed_settings(tokenizer, tmp_path, source, target) == (5, limit, None)

    def test_settings_of_the_model_stay(self, tokenizer, tmp_path):
        settings = {"num_beams": 3, "max_length": 70, "early_stopping": True}
        assert self.completed_settings(tokenizer, tmp_path, 200, 9, **settings) == (3, 70, True)

    def test_greedy_search_has_no_settings_of_beams(self, tokenizer, tmp_path):
        """transformers refuses to save them."""
        settings = {"num_beams": 1, "early_stopping": True, "length_penalty": 2.0}
        assert self.completed_settings(tokenizer, tmp_path, 9, 9, **settings) == (1, 128, None)

    def test_sampling_and_other_limits_are_dropped(self, tokenizer, tmp_path):
        odd = {
            "do_sample": True,
            "temperature": 0.5,
            "max_new_tokens": 9,
            "num_return_sequences": 2,
        }
        self.completed_settings(tokenizer, tmp_path, 9, 9, num_beams=3, **odd)
        config = GenerationConfig.from_pretrained(tmp_path).to_dict()
        assert not any(config[name] for name in odd)


@pytest.mark.parametrize(
    "release",
    [
        {"forced_eos_token_id": 0},  # transformers would force it at the batch's limit
        {"do_sample": True, "temperature": 1.5, "top_k": 20},
        {"num_beam_groups": 2, "diversity_penalty": 1.0},
    ],
)
def test_sampling_settings_do_not_change_the_search(random_model, tokenizer, release, monkeypatch):
    expected = translate(random_model, tokenizer, SENTENCES, beams=4)
    for name, value in release.items():
        monkeypatch.setattr(random_model.generation_config, name, value, raising=False)
    assert translate(random_model, tokenizer, SENTENCES, beams=4) == expected
    assert translate(random_model, tokenizer, SENTENCES, beams=4, max_tokens=1) == expected


def test_order_stays(ending, tokenizer):
    backwards = translate(ending, tokenizer, SENTENCES[::-1], beams=1, max_tokens=60)
    assert backwards[::-1] == translate(ending, tokenizer, SENTENCES, beams=1, max_tokens=60)


def test_empty_sentences_stay_empty(endless, tokenizer):
    translations = translate(endless, tokenizer, ["", "Datei", " \t"], beams=1)
    assert (translations[0], translations[2]) == ("", "")
    assert translations[1]


def test_no_sentences(endless, tokenizer):
    assert translate(endless, tokenizer, []) == []


def test_evaluation_mode(endless, tokenizer):
    endless.train()
    first, second = (translate(endless, tokenizer, SENTENCES[:3], beams=1) for _ in range(2))
    assert first == second
    assert not endless.training


def test_progress_rises_to_the_number_of_sentences(ending, tokenizer):
    counts = []
    translate(ending, tokenizer, SENTENCES, beams=1, max_tokens=60, progress=counts.append)
    assert len(counts) > 2
    assert counts == sorted(set(counts))
    assert counts[-1] == len(SENTENCES)


def test_sources_and_translations_fit_the_positions(tokenizer):
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
