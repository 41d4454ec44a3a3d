"""One interface to translation with transformers and with CTranslate2."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from a2d.defaults import BATCH_TOKENS
from a2d.errors import UserError
from a2d.families import positions_of
from a2d.models.exported import ExportedModel, is_exported, require_ctranslate2
from a2d.models.hypotheses import EMPTY, Hypothesis, join
from a2d.models.search_settings import BEAMS, check_beams
from a2d.models.tokenizer import check_fits, load_tokenizer
from a2d.text.sources import encode_sources

# Models' classes take seconds to import, and exports do not need them.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_SOURCE = 512
"""Longest source, in tokens, for models without a limit: longer ones were not in their training."""

_SENTENCE_END = re.compile(r"""[.!?…]["'”’»)\]]*\s+(?=(\S))|[。！？][”’」』）]*\s*(?=(\S))""")
"""End of a sentence, and the character after it."""

Search = Callable[..., list[list[Hypothesis]]]
"""`a2d.models.decoding.search` without model and tokenizer, or `ExportedModel.search`."""


class LongSentence(UserError):
    """A sentence is longer than the model can read.

    Attributes:
        index: number of its text, counted from 0.
        problem: description, which follows the name of the text.
    """

    def __init__(self, index: int, tokens: int, limit: int) -> None:
        self.index = index
        self.problem = (
            f"has a sentence of {tokens:,} tokens, and the model reads at most {limit:,}: split it "
            "into shorter ones."
        )
        super().__init__(f"text {index + 1:,} {self.problem}")
        self._arguments = index, tokens, limit

    def __reduce__(self) -> tuple[type[LongSentence], tuple[int, int, int]]:
        """Pickle the arguments, because processes pass this exception on."""
        return LongSentence, self._arguments


class Translator:
    """A model that translates, with transformers or with CTranslate2 (`open_translator`).

    Args:
        search: finds the hypotheses of encoded sentences.
        tokenizer: the model's tokenizer.
        positions: largest number of source tokens; None: unlimited.
        settings: the model's generation settings.
        beams: beam width; None: the model's setting, or `a2d.models.search_settings.BEAMS`.
        batch_tokens: largest number of padded source tokens per batch.
        engine: name of the library.
        network: the model, if it is in transformers.

    Attributes:
        beams: width of the beam.
        engine: name of the library, "transformers" or "CTranslate2".
        tokenizer, network: as given.
    """

    def __init__(
        self,
        search: Search,
        tokenizer: PreTrainedTokenizerBase,
        positions: int | None,
        settings: GenerationConfig,
        beams: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        engine: str = "transformers",
        network: PreTrainedModel | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.network = engine, tokenizer, network
        self.beams = beams or settings.num_beams or BEAMS
        self._search = partial(search, beams=self.beams, max_tokens=batch_tokens)
        self._limit = min(positions or MAX_SOURCE, tokenizer.model_max_length)

    def n_best(
        self,
        texts: Sequence[str],
        count: int = 1,
        *,
        scored: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Translate texts into n-best lists.

        A text that is longer than the model can read is split at the ends of its sentences; its
        k-th hypothesis joins the k-th ones of the sentences. Empty texts have empty translations.

        Args:
            texts: plain text, usually one sentence each.
            count: number of hypotheses of each text, at most `beams`.
            scored: compute log-probabilities. This takes additional time.
            progress: called with the approximate number of translated texts.

        Returns:
            `count` hypotheses of each text, the best first.

        Raises:
            LongSentence: a sentence is longer than the model can read.
        """
        parts = self._encode(texts)
        encoded = list(chain.from_iterable(parts))

        def show(done: int) -> None:
            if progress is not None:
                progress(done * len(texts) // len(encoded))

        found = iter(self._search(encoded, count, scored=scored, progress=show))
        translations = []
        for part in parts:
            lists = [next(found) for _ in part]
            if len(lists) > 1:
                lists = [[join(ranked) for ranked in zip(*lists, strict=True)]]
            translations.append(lists[0] if lists else [EMPTY] * count)
        return translations

    def _encode(self, texts: Sequence[str]) -> list[list[list[int]]]:
        """Encode texts as token ids of no, one or several sentences each."""
        encoded = encode_sources(self.tokenizer, texts, whole=True)
        parts = [[ids] if text.strip() else [] for text, ids in zip(texts, encoded, strict=True)]
        for index, (text, part) in enumerate(zip(texts, parts, strict=True)):
            if part and len(part[0]) > self._limit:
                part[:] = encode_sources(self.tokenizer, split_sentences(text), whole=True)
                longest = max(map(len, part))
                if longest > self._limit:
                    raise LongSentence(index, longest, self._limit)
        return parts


def split_sentences(text: str) -> list[str]:
    """Split a text at the ends of sentences.

    Punctuation ends a sentence if white space and no lower-case letter follows. Abbreviations
    before a capital letter are not recognised.

    Example:
        >>> split_sentences('He said: "No!" Then, at 3.30 p.m. or so, he left… Why?')
        ['He said: "No!"', 'Then, at 3.30 p.m. or so, he left…', 'Why?']
    """
    sentences, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if not (end[1] or end[2]).islower():
            sentences.append(text[start : end.end()].strip())
            start = end.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def open_translator(
    model: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    beams: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Translator:
    """Load a model to translate with.

    Args:
        model: folder of a model or of its export to CTranslate2, or a hub name.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N" for the GPU of number N.
        threads: number of CPU threads; None: PyTorch's number, which `OMP_NUM_THREADS` sets.
        beams, batch_tokens: as in `Translator`.

    Raises:
        UserError: there is no such model or device, or the model is damaged.
    """
    exported = is_exported(Path(model))
    check_device(device, exported)
    if beams is not None:
        check_beams(beams, "the number of beams")
    options: dict[str, Any] = {"beams": beams, "batch_tokens": batch_tokens}
    if exported:
        fast = ExportedModel(Path(model), device, threads)
        options["engine"] = "CTranslate2"
        return Translator(fast.search, fast.tokenizer, fast.positions, fast.settings, **options)
    from a2d.models.decoding import search
    from a2d.models.loading import load_to_run

    if threads is not None:
        torch.set_num_threads(threads)
    network, tokenizer = load_to_run(model, device), load_tokenizer(model)
    check_fits(tokenizer, network.config, model)
    return Translator(
        partial(search, network, tokenizer),
        tokenizer,
        positions_of(network.config),
        network.generation_config,
        network=network,
        **options,
    )


def check_device(device: str, exported: bool) -> None:
    """Check that a device exists.

    Args:
        device: as in `open_translator`.
        exported: True for CTranslate2, False for PyTorch, which may not see the same GPUs.

    Raises:
        UserError: it does not exist.
    """
    if device in ("auto", "cpu"):
        return
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise UserError(f"unknown device {device!r}: give auto, cpu, cuda, or cuda:1 for GPU 1.")
    if exported:
        library, count = "CTranslate2", require_ctranslate2().get_cuda_device_count()
    else:
        library, count = "PyTorch", torch.cuda.device_count()
    if int(match[1] or 0) >= count:
        raise UserError(
            f"there is no device {device!r}: {library} sees {count} GPUs. Give another device, or "
            "cpu."
        )
