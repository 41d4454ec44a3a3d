"""Token-budget batches: sentences of similar length, as many as fit the budget."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow
from datasets import Dataset, concatenate_datasets, load_from_disk
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from a2d.errors import UserError
from a2d.text.pairs import Pair
from a2d.text.parts import map_parts
from a2d.text.storage import StoredPairs, store
from a2d.text.words import TOKENS, Encoder

Item = TypeVar("Item")

IGNORE_INDEX = -100
"""Label of padding, as everywhere in transformers."""


def tokenise(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, processes: int = 1
) -> Dataset:
    """Encode sentence pairs.

    Args:
        pairs: sentence pairs.
        tokenizer: tokenizer of both languages.
        processes: processes that encode a large `StoredPairs`, as in `a2d.text.parts.map_parts`.

    Returns:
        Dataset with columns ``input_ids`` and ``labels``, both ending in the end token. Sentences
        longer than the tokenizer's ``model_max_length`` are cut. The tokens of a `StoredPairs` are
        in a temporary file, which is deleted with the dataset.
    """
    batches = map_parts(Encoder(tokenizer), pairs, processes)
    if not isinstance(pairs, StoredPairs):
        return Dataset(pyarrow.Table.from_batches(batches, TOKENS))
    folder, dataset = store(batches, TOKENS)
    weakref.finalize(dataset, folder.cleanup)
    return dataset


def load_tokens(folders: Sequence[Path]) -> Dataset:
    """Load datasets that `tokenise` made and that were saved, and concatenate them in order."""
    parts = [load_from_disk(str(folder)) for folder in folders]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def sample_rows(dataset: Dataset, count: int) -> Dataset:
    """Return evenly spaced rows, as many as `count`; all rows if there are not more."""
    return dataset.select(evenly_spaced(range(len(dataset)), count))


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """Return evenly spaced items, as many as `count`; all items if there are not more.

    Example:
        >>> evenly_spaced("abcdefg", 3)
        ['a', 'c', 'e']
    """
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def lengths(dataset: Dataset) -> np.ndarray:
    """Count the tokens of each sentence.

    Returns:
        Integer array (N, 2): tokens of source and target.
    """
    counts = [
        [part[column].combine_chunks().value_lengths() for column in ("input_ids", "labels")]
        for part in dataset.with_format("arrow").iter(10_000)
    ]
    return np.concatenate([np.zeros((0, 2), int), *(np.array(part, int).T for part in counts)])


def checked_lengths(dataset: Dataset, name: str) -> np.ndarray:
    """Count the tokens of each sentence (`lengths`) of a dataset that a caller gave.

    Raises:
        UserError: the dataset, which the message calls `name`, is not tokenised, or is empty.
    """
    absent = {"input_ids", "labels"} - set(dataset.column_names)
    if absent:
        raise UserError(
            f"{name} lacks the column {min(absent)!r}: tokenise it first, for example with "
            "a2d.text.batching.tokenise."
        )
    if len(dataset) == 0:
        raise UserError(f"{name} has no sentence pairs.")
    return lengths(dataset)


class TokenBatchSampler(Sampler[list[int]]):
    """Yield batches of indices whose padded sources and padded targets each fit a token budget.

    Sentences are sorted by their longer side, with ties broken at random, and cut into batches; the
    batches are shuffled. The batches of an epoch depend on `seed` and the epoch only, and their
    number depends on the lengths only. An interrupted training therefore resumes with identical
    batches.

    Args:
        lengths: tokens per sentence (N, 2), source and target.
        max_tokens: budget of padded tokens per batch, for each side.
        seed: seed of the order.
        multiple_of: make the number of batches a multiple of this by splitting the fullest ones, so
            that every update has equally many, and every process of a distributed training.
        shuffle: False yields the same batches every time, longest first, for evaluation.

    Raises:
        ValueError: a sentence is longer than the budget, or there are too few sentences for a
            multiple of `multiple_of`.

    Example:
        >>> sampler = TokenBatchSampler(np.array([[3, 3], [9, 9], [3, 3]]), 10, shuffle=False)
        >>> list(sampler)
        [[1], [0, 2]]
    """

    def __init__(
        self,
        lengths: np.ndarray,
        max_tokens: int,
        *,
        seed: int = 0,
        multiple_of: int = 1,
        shuffle: bool = True,
    ) -> None:
        longest = int(lengths.max(initial=0))
        if longest > max_tokens:
            raise ValueError(
                f"a sentence of {longest} tokens does not fit max_tokens={max_tokens}: raise "
                "max_tokens, or drop long sentences"
            )
        self.lengths = lengths
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self._ends = self._cut(lengths[self._by_length(None)], max_tokens)
        self._split(multiple_of)
        # The Trainer reads `batch_size` of a batch sampler; here, sizes differ.
        self.batch_size = None
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of every epoch."""
        return len(self._ends)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this epoch."""
        generator = np.random.default_rng((self.seed, self.epoch)) if self.shuffle else None
        order = self._by_length(generator)
        batches = np.split(order, self._ends[:-1])
        if generator is not None:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        for batch in batches:
            yield batch.tolist()

    def padding_share(self) -> float:
        """Return the share of padding among all source and target positions of an epoch."""
        batches = np.split(self.lengths[self._by_length(None)], self._ends[:-1])
        padded = sum(len(batch) * batch.max(axis=0).sum() for batch in batches)
        return float(1 - self.lengths.sum() / padded)

    def _by_length(self, generator: np.random.Generator | None) -> np.ndarray:
        count = len(self.lengths)
        ties = np.arange(count) if generator is None else generator.permutation(count)
        longer = self.lengths.max(axis=1)
        # Pairs of one length are sorted by source minus target, ascending and descending in turn
        # from length to length, so that a batch which spans two lengths holds similar pairs.
        alternating = np.where(longer % 2, 1, -1) * (self.lengths[:, 0] - self.lengths[:, 1])
        # lexsort sorts by its last key first; longest first shows a lack of memory at once.
        return np.lexsort((ties, alternating, -longer))

    def _split(self, multiple_of: int) -> None:
        while len(self._ends) % multiple_of:
            sizes = np.diff([0, *self._ends])
            fullest = int(sizes.argmax())
            if sizes[fullest] < 2:
                raise ValueError(
                    f"{len(self.lengths)} sentences are too few for {multiple_of} batches per "
                    "update: use fewer processes, or lower gradient_accumulation_steps"
                )
            self._ends.insert(fullest, self._ends[fullest] - int(sizes[fullest]) // 2)

    @staticmethod
    def _cut(ordered: np.ndarray, max_tokens: int) -> list[int]:
        ends: list[int] = []
        start, widest = 0, 0
        for index, pair in enumerate(ordered.max(axis=1)):
            widest = max(widest, int(pair))
            if widest * (index - start + 1) > max_tokens:
                ends.append(index)
                start, widest = index, int(pair)
        return [*ends, len(ordered)]
