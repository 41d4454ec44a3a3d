"""Encoding of large corpora word by word, for tokenizers that encode every word by itself.

A part of a corpus has far fewer different words than words. Encoding only these is many times
as fast as encoding every sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.compute
from transformers import PreTrainedTokenizerBase

from a2d.text.pairs import Pair
from a2d.text.sources import with_prefix

MAX_WORDS = 500_000
"""Most words in a table, to limit its memory; further ones are encoded whenever they occur."""

SPACE = "▁"
"""Symbol for a space in tokens, as in SentencePiece. In a text it is read as a space."""

_SPLITS_AT_SPACES = {
    "type": "Metaspace",
    "replacement": SPACE,
    "prepend_scheme": "always",
    "split": True,
}
"""State of a pre-tokenizer that splits before every space, and puts a space before the text."""

_IDS = pyarrow.list_(pyarrow.int32())
TOKENS = pyarrow.schema([("input_ids", _IDS), ("labels", _IDS)])
"""Columns of encoded pairs."""


Encode = Callable[[Sequence[str]], pyarrow.ListArray]
"""Function that returns the token ids of each text (int32)."""


def text_encoder(
    tokenizer: PreTrainedTokenizerBase, side: Literal["text", "text_target"]
) -> Encode:
    """Build a function that encodes many texts exactly as the tokenizer does.

    Args:
        tokenizer: any tokenizer. Texts longer than its `model_max_length` are cut.
        side: `text` for sources, `text_target` for targets.
    """

    def encode(texts: Sequence[str]) -> pyarrow.ListArray:
        encoded = tokenizer(**{side: list(texts)}, truncation=True) if texts else {"input_ids": []}
        return list_array(encoded["input_ids"])

    return WordEncoder(tokenizer, encode) if encodes_words(tokenizer) else encode


def list_array(rows: Sequence[Sequence[int]]) -> pyarrow.ListArray:
    """Return lists of token ids as a column."""
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    ids = np.fromiter(chain.from_iterable(rows), np.int32, ends[-1])
    return pyarrow.ListArray.from_arrays(ends, ids)


def encodes_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer changes no character, splits at spaces and encodes each word.

    The tokenizers that `a2d.models.tokenizer.train_tokenizer` makes do so.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None or backend.normalizer is not None:
        return False
    if getattr(backend.model, "dropout", None):
        return False
    return bool(json.loads(backend.pre_tokenizer.__getstate__()) == _SPLITS_AT_SPACES)


class WordEncoder:
    """Function that encodes texts by their words.

    Args:
        tokenizer: a tokenizer that `encodes_words`.
        encode: encodes what cannot be looked up: texts that are cut, and unusual ones, in which
            two spaces follow each other or an added token occurs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encode: Encode) -> None:
        self._table, self._encode = WordTable(tokenizer), encode
        probe = "a"
        core, (whole,) = list(self._table[probe] or ()), encode([probe]).to_pylist()
        start = next(i for i in range(len(whole)) if whole[i : i + len(core)] == core)
        self._before, self._after = whole[:start], whole[start + len(core) :]
        self._room = tokenizer.model_max_length - len(self._before) - len(self._after)

    def __call__(self, texts: Sequence[str]) -> pyarrow.ListArray:
        """Return the token ids of each text (int32)."""
        if not texts:
            return self._encode(texts)
        words = pyarrow.compute.split_pattern(pyarrow.array(texts, pyarrow.string()), " ")
        column = words.values.dictionary_encode()
        rows = [self._table[word] for word in column.dictionary.to_pylist()]
        kinds = column.indices.to_numpy()  # number of each word in `rows`
        firsts = words.offsets.to_numpy()[:-1]  # number of each text's first word
        usual = np.array([row is not None for row in rows])
        sizes = np.array([len(row or ()) for row in rows])
        lengths = np.add.reduceat(sizes[kinds], firsts)
        fits = np.logical_and.reduceat(usual[kinds], firsts) & (lengths <= self._room)
        encoded = self._join(rows, sizes, kinds, lengths)
        if fits.all():
            return encoded
        others = self._encode([text for text, fit in zip(texts, fits, strict=True) if not fit])
        places = np.arange(len(texts))
        places[~fits] = len(texts) + np.arange(len(others))
        return pyarrow.concat_arrays([encoded, others]).take(pyarrow.array(places))

    def _join(
        self,
        rows: Sequence[tuple[int, ...] | None],
        sizes: np.ndarray,
        kinds: np.ndarray,
        lengths: np.ndarray,
    ) -> pyarrow.ListArray:
        """Join the token ids of words to those of texts, and add special tokens.

        Args:
            rows: token ids of the different words.
            sizes: their numbers.
            kinds: number of each word in `rows`, text by text (W,).
            lengths: number of tokens of each text (N,).
        """
        ids = np.fromiter(chain.from_iterable(row or () for row in rows), np.int32)
        counts, frame = sizes[kinds], len(self._before) + len(self._after)
        framed = lengths + frame
        ends = np.cumsum(framed)
        whole = np.empty(ends[-1], np.int32)
        tokens = np.arange(lengths.sum())  # number of each token among those of all words
        origins = (np.cumsum(sizes) - sizes)[kinds] - (np.cumsum(counts) - counts)
        shifts = np.arange(len(lengths)) * frame + len(self._before)
        whole[tokens + np.repeat(shifts, lengths)] = ids[tokens + np.repeat(origins, counts)]
        for place, token in enumerate(self._before):
            whole[ends - framed + place] = token
        for place, token in enumerate(reversed(self._after), start=1):
            whole[ends - place] = token
        return pyarrow.ListArray.from_arrays(np.concatenate([[0], ends]).astype(np.int32), whole)


class WordTable(dict[str, "tuple[int, ...] | None"]):
    """Token ids of words, without special tokens; None for a word that cannot be looked up.

    Args:
        tokenizer: a tokenizer that `encodes_words`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._model = backend.model
        self._added = [token.content for token in backend.get_added_tokens_decoder().values()]

    def __missing__(self, word: str) -> tuple[int, ...] | None:
        """Encode a word, and add it to the table."""
        ids = None
        if word and SPACE not in word and not any(token in word for token in self._added):
            ids = tuple(token.id for token in self._model.tokenize(SPACE + word))
        if len(self) < MAX_WORDS:
            self[word] = ids
        return ids


class Encoder:
    """Function that encodes a part of a corpus, in any process.

    Args:
        tokenizer: tokenizer of both languages.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, pairs: Sequence[Pair]) -> pyarrow.RecordBatch:
        """Encode pairs into a batch with the columns `TOKENS`."""
        sides = [
            self._sources(with_prefix(self.tokenizer, [pair.source for pair in pairs])),
            self._targets([pair.target for pair in pairs]),
        ]
        return pyarrow.record_batch(sides, schema=TOKENS)

    @cached_property
    def _sources(self) -> Encode:
        return text_encoder(self.tokenizer, "text")

    @cached_property
    def _targets(self) -> Encode:
        return text_encoder(self.tokenizer, "text_target")
