"""Export of students to CTranslate2, which translates faster and can quantise weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from os.path import lexists
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from a2d.errors import UserError, first_line, missing_library
from a2d.families import Geometry, family_of, positions_of
from a2d.files import MANIFEST, atomic_folder, damage, seal
from a2d.models.decoding import (
    BEAMS,
    check_search,
    generation_limit,
    max_length_limit,
    search_settings,
)
from a2d.models.folders import reading
from a2d.models.hypotheses import Hypothesis
from a2d.models.loading import load_config, load_model
from a2d.models.model_settings import naming_generation_setting, read_generation_config
from a2d.models.tokenizer import check_fits, load_tokenizer
from a2d.text.batching import encode_sources

WEIGHTS = "model.bin"
_POSITIONS = "positions"
"""Tokenizer setting for the model's number of positions, which CTranslate2 does not save."""

Quantization = Literal[
    "float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int16"
]
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
"""Data types of the weights of an export."""


def export(
    model: str | Path,
    output: Path,
    quantization: str = "float32",
    check: Callable[[Path], None] | None = None,
) -> None:
    """Convert a student to a CTranslate2 model, saved with its tokenizer.

    Args:
        model: folder or hub name of the student.
        output: folder to write, which must not exist.
        quantization: data type of the weights, one of `QUANTIZATIONS`.
        check: called with the folder of the new model; an exception from it leaves no `output`.

    Raises:
        UserError: CTranslate2 is missing or cannot convert the model, `output` exists, or `model`
            is not a model or is already exported.
    """
    if is_exported(Path(model)):
        raise UserError(
            f"{model} is already exported: translate with it (`a2d translate`), or give the folder "
            "that it was exported from."
        )
    require_ctranslate2()
    from a2d.models.conversion import LoadedConverter

    if quantization not in QUANTIZATIONS:
        raise UserError(
            f"unknown quantization {quantization!r}: give one of {', '.join(QUANTIZATIONS)}."
        )
    if lexists(output):  # includes broken links
        raise UserError(f"{output} exists already: choose another folder, or move this one away.")
    network = load_model(model)
    tokenizer = load_tokenizer(model)
    check_fits(tokenizer, network.config, model)
    reason = _obstacle(network.config, tokenizer)
    if reason is not None:
        raise UserError(f"{model} {reason}: translate with PyTorch.")
    with atomic_folder(output) as partial:
        try:
            LoadedConverter(network, tokenizer).convert(str(partial), quantization=quantization)
        except (KeyError, ValueError, RuntimeError) as error:  # e.g. for unknown activations
            raise UserError(
                f"CTranslate2 cannot convert {model}, a model of type "
                f"{network.config.model_type!r} with a {type(tokenizer).__name__} "
                f"({first_line(error)}): translate with PyTorch."
            ) from error
        tokenizer.init_kwargs[_POSITIONS] = positions_of(network.config)
        tokenizer.save_pretrained(partial)
        network.generation_config.save_pretrained(partial)
        seal(partial, without=(GENERATION_CONFIG_NAME,))  # which users may change
        if check is not None:
            check(partial)


def is_exported(folder: Path) -> bool:
    """Check whether a folder holds a model that `export` wrote."""
    return (folder / WEIGHTS).is_file()


def can_replace_transformers(model: str | None) -> bool:
    """Check whether CTranslate2 is installed, converts a model, and searches as transformers does.

    CTranslate2 searches differently for models with repetition penalties, because it computes these
    differently.

    Args:
        model: folder or hub name; None for a model of `a2d.models.loading.new_model`.
    """
    if export_obstacle(model) is not None:
        return False
    if model is None:
        return True
    settings = search_settings(read_generation_config(model))
    return settings.repetition_penalty in (None, 1) and not settings.no_repeat_ngram_size


def export_obstacle(model: str | None) -> str | None:
    """Describe why a model cannot be exported; None if it can.

    Args:
        model: folder or hub name; None for a model of `a2d.models.loading.new_model`.
    """
    try:
        require_ctranslate2()
    except UserError as error:
        return str(error).rstrip(".")
    if model is None:
        return None
    reason = _obstacle(load_config(model), load_tokenizer(model))
    return None if reason is None else f"{model} {reason}"


def _obstacle(config: Any, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Reason why CTranslate2 cannot convert a model, as a predicate; None if it can."""
    if family_of(config).ctranslate2_loader is None:
        return f"is a model of type {config.model_type!r}, which CTranslate2 does not support"
    if getattr(tokenizer, "separate_vocabs", False):
        return "has different vocabularies for source and target, which cannot be exported"
    shape = Geometry.of(config)
    if shape.encoder_heads != shape.decoder_heads:
        return (
            f"has {shape.encoder_heads} heads in the encoder and {shape.decoder_heads} in the "
            "decoder, and CTranslate2 supports only one number"
        )
    return None


class ExportedModel:
    """Translator from a folder that `export` wrote.

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
            self.positions: int | None = self.tokenizer.init_kwargs.get(_POSITIONS)
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
        max_tokens: int = 4096,
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
