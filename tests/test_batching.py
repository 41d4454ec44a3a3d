"""Token-budget batches: contents, order and padding of an epoch; tokenised corpora."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2d.models.tokenizer import train_tokenizer
from a2d.text.batching import TokenBatchSampler, lengths, tokenise
from a2d.text.corpus import read_corpus
from a2d.text.pairs import Pair

LONGEST = 40
SIZES = st.lists(st.tuples(*[st.integers(1, LONGEST)] * 2), min_size=1, max_size=80).map(np.array)
BUDGETS = st.integers(LONGEST, 5 * LONGEST)
EPOCHS = st.integers(0, 2**31)

anything = settings(deadline=None)  # the machine may be busy


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


class TestEpoch:
    @anything
    @given(SIZES, BUDGETS, EPOCHS)
    def test_holds_every_sentence_once(self, sizes, budget, number):
        batches = epoch(TokenBatchSampler(sizes, budget), number)
        assert sorted(chain(*batches)) == list(range(len(sizes)))

    @anything
    @given(SIZES, BUDGETS, EPOCHS)
    def test_batches_fit_the_budget_on_both_sides(self, sizes, budget, number):
        for batch in epoch(TokenBatchSampler(sizes, budget), number):
            assert (len(batch) * sizes[batch].max(axis=0) <= budget).all()

    @anything
    @given(SIZES, BUDGETS, st.integers(1, 9), st.lists(EPOCHS, min_size=1, max_size=3))
    def test_counts_are_fixed_and_divisible(self, sizes, budget, multiple, numbers):
        plain = TokenBatchSampler(sizes, budget)
        if -(-len(plain) // multiple) * multiple > len(sizes):
            with pytest.raises(ValueError, match="too few for"):
                list(TokenBatchSampler(sizes, budget, multiple_of=multiple))
            return
        split = TokenBatchSampler(sizes, budget, multiple_of=multiple)
        for number in numbers:
            batches = epoch(split, number)
            assert len(batches) == len(split)
            assert len(batches) % multiple == 0
            assert 0 <= len(batches) - len(plain) < multiple
            assert all(batches)
            assert sorted(chain(*batches)) == list(range(len(sizes)))

    def test_batches_are_filled(self):
        sizes = np.array([(5, 5)] * 20)
        assert [len(batch) for batch in TokenBatchSampler(sizes, 24)] == [4] * 5

    def test_sentences_of_like_length_are_together(self):
        sizes = np.array([(3, 3), (30, 30)] * 50)
        for batch in epoch(TokenBatchSampler(sizes, 150), 1):
            assert len({tuple(sizes[index]) for index in batch}) == 1


class TestOrder:
    @anything
    @given(SIZES, BUDGETS, st.integers(0, 2**31), EPOCHS, st.integers(0, 3))
    def test_depends_on_seed_and_epoch_alone(self, sizes, budget, seed, number, count):
        new_sampler, old_sampler = (TokenBatchSampler(sizes, budget, seed=seed) for _ in range(2))
        for index in range(count):
            epoch(old_sampler, index)
            np.random.default_rng().random()
        assert epoch(new_sampler, number) == epoch(old_sampler, number) == list(old_sampler)

    def test_differs_between_epochs_and_seeds(self):
        sizes = np.array([(length, length) for length in range(1, 31)] * 4)
        orders = [
            epoch(TokenBatchSampler(sizes, 60, seed=seed), number)
            for seed in range(3)
            for number in range(3)
        ]
        assert len({str(order) for order in orders}) == 9
        assert len({str(sorted(map(sorted, order))) for order in orders}) == 9, "batches are mixed"

    def test_long_and_short_batches_take_turns(self):
        sizes = np.array([(length, length) for length in range(1, 31)] * 4)
        longest = [max(sizes[batch, 1]) for batch in epoch(TokenBatchSampler(sizes, 60), 0)]
        assert longest not in (sorted(longest), sorted(longest, reverse=True))

    @anything
    @given(SIZES, BUDGETS, EPOCHS)
    def test_without_shuffling_is_the_same_always_longest_first(self, sizes, budget, number):
        sampler = TokenBatchSampler(sizes, budget, shuffle=False)
        batches = list(sampler)
        assert epoch(sampler, number) == batches
        longer = sizes[list(chain(*batches))].max(axis=1)
        assert (np.diff(longer) <= 0).all()


class TestPadding:
    @anything
    @given(SIZES, BUDGETS)
    def test_share_equals_a_count(self, sizes, budget):
        sampler = TokenBatchSampler(sizes, budget)
        positions = padding = 0
        for batch in sampler:
            for side in (0, 1):
                widest = max(sizes[index][side] for index in batch)
                positions += widest * len(batch)
                padding += sum(widest - sizes[index][side] for index in batch)
        assert sampler.padding_share() == pytest.approx(padding / positions)

    @pytest.mark.parametrize("budget", [512, 1024])
    def test_padding_of_a_corpus_is_below_five_percent(self, budget):
        pairs = read_corpus("builtin:de-dsb/train")
        sizes = np.array([[len(text) for text in pair] for pair in pairs]) // 4 + 1
        assert TokenBatchSampler(sizes, budget).padding_share() < 0.05

    def test_no_padding_among_equal_lengths(self):
        assert TokenBatchSampler(np.array([(7, 9)] * 10), 30).padding_share() == 0


@pytest.mark.parametrize("sentence", [(11, 1), (1, 11)])
def test_refuses_a_sentence_beyond_the_budget(sentence):
    sizes = np.array([(2, 2), sentence])
    with pytest.raises(ValueError, match=r"11 tokens does not fit max_tokens=10: raise max_tokens"):
        TokenBatchSampler(sizes, 10)
    assert len(TokenBatchSampler(sizes, 11)) == 2


PAIRS = read_corpus("builtin:de-dsb/valid")[:50]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((text for pair in PAIRS for text in pair), 400)


class TestTokenise:
    def test_columns_hold_the_sentences_and_their_end(self, tokenizer):
        data = tokenise(PAIRS, tokenizer)
        assert set(data.column_names) == {"input_ids", "labels"}
        for row, pair in zip(data, PAIRS, strict=True):
            for ids, text in zip((row["input_ids"], row["labels"]), pair, strict=True):
                assert ids.count(tokenizer.eos_token_id) == 1
                assert ids[-1] == tokenizer.eos_token_id
                assert tokenizer.decode(ids, skip_special_tokens=True) == text

    def test_cuts_long_sentences_and_keeps_their_end(self, tokenizer):
        data = tokenise([Pair("ab " * 2000, "kurz")], tokenizer)
        source = data[0]["input_ids"]
        assert len(source) == tokenizer.model_max_length == 512
        assert source[-1] == tokenizer.eos_token_id
        assert len(data[0]["labels"]) < 10

    def test_lengths_count_both_sides(self, tokenizer):
        data = tokenise([Pair("", "ab ab ab"), Pair("ab", "")], tokenizer)
        want = [[len(row["input_ids"]), len(row["labels"])] for row in data]
        assert lengths(data).tolist() == want
        assert want[0][0] == want[1][1] == 1
