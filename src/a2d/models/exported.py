"""Translation with exports to CTranslate2.

Models' classes are not imported here, nor in the modules that this one imports: that takes as long
as many translations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from a2d.defaults import BATCH_TOKENS
from a2d.errors import UserError, missing_library
from a2d.files import MANIFEST, damage
from a2d.models.folders import reading
from a2d.models.hypotheses import Hypothesis
from a2d.models.model_settings import naming_generation_setting, read_generation_config
from a2d.models.search_settings import (
    BEAMS,
    check_search,
    generation_limit,
    max_length_limit,
    search_settings,
)
from a2d.models.tokenizer import load_tokenizer
from a2d.text.sources import encode_sources

WEIGHTS = "model.bin"
POSITIONS = "positions"
"""Tokenizer setting for the model's number of positions, which CTranslate2 does not save."""


def is_exported(folder: Path) -> bool:
    """Check whether a folder holds a model that `a2d.models.export.export` wrote."""
    return (folder / WEIGHTS).is_file()


class ExportedModel:
    """Translator from a folder that `a2d.models.export.export` wrote.

    Args:
        folder: the folder.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N" for the GPU of number N.
        threads: number of CPU threads; None: PyTorch's number.

    Attributes:
        tokenizer: the model's tokenizer.
        positions: largest number of source tokens; None: unlimited.
        settings: the model's generation settings, as `search_settings` copies them.

    Raises:
        UserError: CTranslate2 is missing, or the folder is damaged.
    """

    def __init__(self, folder: Path, device: str = "auto", threads: int | None = None) -> None:
        ctranslate2 = require_ctranslate2()
        kind, _, number = device.partition(":")
        problem = f"the exported model in {folder} is damaged: export it again"
        if (folder / MANIFEST).exists() and (damaged := damage(folder)) is not None:
            raise UserError(f"{problem} ({damaged}).")
        with reading(folder, problem):
            self.tokenizer = load_tokenizer(folder)  # first, because it refuses other folders
            self._translator = ctranslate2.Translator(
                str(folder),
                device=kind,
                device_index=int(number or 0),
                intra_threads=threads or torch.get_num_threads(),
            )
            self.positions: int | None = self.tokenizer.init_kwargs.get(POSITIONS)
            settings = read_generation_config(folder)
            check_search(settings, None, folder)
            with naming_generation_setting(folder, self._try):
                self._try(settings)

    def _try(self, settings: GenerationConfig) -> None:
        """Take generation settings, and translate with them."""
        self.settings = search_settings(settings)
        self.translate(["a"])

    def translate(self, sentences: Sequence[str], *, beams: int | None = None) -> list[str]:
        """Translate sentences; `n_best` describes the arguments."""
        return [hypotheses[0] for hypotheses in self.n_best(sentences, 1, beams=beams)]

    def n_best(
        self,
        sentences: Sequence[str],
        count: int,
        *,
        beams: int | None = None,
        cut: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[str]]:
        """Translate sentences into n-best lists, by the rules of `a2d.models.decoding.n_best`.

        Args:
            sentences: plain text, one sentence each. The translation of an empty sentence is empty.
            count, beams, cut: as in `search`.
            progress: called with the number of translated sentences after each group of sentences
                with the same limit.

        Returns:
            Hypotheses of each sentence, the best first, as plain detokenised text.
        """
        encoded = encode_sources(self.tokenizer, sentences, self.positions)
        nonempty = [index for index, sentence in enumerate(sentences) if sentence.strip()]
        empty = len(sentences) - len(nonempty)
        lists = self.search(
            [encoded[index] for index in nonempty],
            count,
            beams=beams,
            cut=cut,
            progress=None if progress is None else lambda done: progress(empty + done),
        )
        translations = [[""] * count for _ in sentences]
        for index, hypotheses in zip(nonempty, lists, strict=True):
            translations[index] = [hypothesis.text for hypothesis in hypotheses]
        return translations

    def search(
        self,
        encoded: Sequence[list[int]],
        count: int,
        *,
        beams: int | None = None,
        max_tokens: int = BATCH_TOKENS,
        cut: bool = False,
        scored: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Find the best translations by the rules of `a2d.models.decoding.search`.

        Args:
            encoded: token ids of each sentence, no more than the model has positions.
            count: number of hypotheses per sentence, at most `beams`.
            beams: beam width; 1 is greedy search; None: the model's setting, or `BEAMS`.
            max_tokens: padded source tokens per batch.
            cut: end translations at `generation_limit` even if the model has a `max_length`.
            scored: return log-probabilities.
            progress: called with the number of translated sentences after each group of sentences
                with the same limit.

        Returns:
            Hypotheses of each sentence, the best first.
        """
        translations: dict[int, list[Hypothesis]] = {}
        first = self.settings.forced_bos_token_id
        prefix = None if first is None else [self.tokenizer.convert_ids_to_tokens(first)]
        options = _options(self.settings, self.tokenizer)
        max_limit = None if cut else max_length_limit(self.settings, self.positions)

        def limit(index: int) -> int:
            return max_limit or generation_limit(len(encoded[index]), self.positions)

        for length, group in groupby(sorted(range(len(encoded)), key=limit), key=limit):
            indices = list(group)
            results = self._translator.translate_batch(
                [self.tokenizer.convert_ids_to_tokens(encoded[index]) for index in indices],
                target_prefix=None if prefix is None else [prefix] * len(indices),
                beam_size=beams or self.settings.num_beams or BEAMS,
                num_hypotheses=count,
                max_input_length=0,
                max_decoding_length=length,
                max_batch_size=max_tokens,
                batch_type="tokens",
                return_end_token=True,  # does not change the search, but tells if one was found
                return_scores=scored,
                **options,
            )
            for index, result in zip(indices, results, strict=True):
                scores = result.scores or [math.nan] * count
                translations[index] = [
                    self._hypothesis(tokens, score, prefix is not None)
                    for tokens, score in zip(result.hypotheses, scores, strict=True)
                ]
            if progress is not None:
                progress(len(translations))
        return [translations[index] for index in range(len(encoded))]

    def _hypothesis(self, tokens: list[str], score: float, forced_first: bool) -> Hypothesis:
        """Decode a hypothesis, and undo CTranslate2's normalisation of its score."""
        ids = self.tokenizer.convert_tokens_to_ids(tokens)
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        penalty = self.settings.length_penalty
        log_probability = score * len(tokens) ** (1.0 if penalty is None else penalty)
        return Hypothesis(text.strip(), len(tokens) - forced_first, log_probability)


def _options(settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Translate generation settings to CTranslate2's options, as far as it has them."""
    names = ("length_penalty", "repetition_penalty", "no_repeat_ngram_size")
    options = {name: value for name in names if (value := getattr(settings, name)) is not None}
    # These options are the closest to the rules by which transformers ends a beam.
    options |= {"min_decoding_length": 0, "patience": 1 if settings.early_stopping is True else 2}
    banned = [*(settings.bad_words_ids or []), *([i] for i in settings.suppress_tokens or [])]
    padding = [tokenizer.pad_token_id]  # its logit excludes it, or CTranslate2 lacks the token
    texts = [tokenizer.convert_ids_to_tokens(ids) for ids in banned if ids != padding]
    return options | {"suppress_sequences": texts or None}


def require_ctranslate2() -> Any:
    """Import CTranslate2.

    Raises:
        UserError: CTranslate2 is not installed.
    """
    try:
        import ctranslate2
    except ImportError as error:
        raise missing_library("ctranslate2", error) from error
    return ctranslate2
