"""Students as CTranslate2 models: the same translations, faster, and smaller if quantised."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from a2d.decoding import generation_limit
from a2d.errors import UserError
from a2d.models import load_model
from a2d.tokenizer import load_tokenizer

WEIGHTS = "model.bin"
QUANTIZATIONS = ("float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int16")


def export(model: Path, output: Path, quantization: str = "float32") -> None:
    """Convert a student to a CTranslate2 model with its tokenizer beside it.

    Args:
        model: the student's folder.
        output: the folder to write; it must not exist yet.
        quantization: how weights are kept, one of `QUANTIZATIONS`.

    Raises:
        UserError: CTranslate2 is missing, `output` exists, or `model` is no model.
    """
    converter = _ctranslate2().converters.TransformersConverter
    if quantization not in QUANTIZATIONS:
        raise UserError(
            f"unknown quantization {quantization!r}: give one of {', '.join(QUANTIZATIONS)}."
        )
    if output.exists():
        raise UserError(f"{output} exists already: choose another folder, or move it away.")
    load_model(model)  # says what is wrong with it, if anything is
    tokenizer = load_tokenizer(model)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    converter(str(model)).convert(str(partial), quantization=quantization)
    tokenizer.save_pretrained(partial)
    os.replace(partial, output)


def is_exported(folder: Path) -> bool:
    """Whether `export` wrote that folder."""
    return (folder / WEIGHTS).is_file()


def translate_exported(folder: Path, sentences: Sequence[str], *, beams: int = 5) -> list[str]:
    """Translate with an exported student, by `a2d.decoding.translate`'s rules.

    Args:
        folder: what `export` wrote.
        sentences: plain text, one sentence each; an empty one is translated as empty.
        beams: width of the beam; 1 is greedy search.

    Raises:
        UserError: CTranslate2 is missing.
    """
    library = _ctranslate2()
    translator = library.Translator(str(folder))
    tokenizer = load_tokenizer(folder)
    encoded = tokenizer(list(sentences), truncation=True)["input_ids"] if sentences else []
    translations = [""] * len(sentences)

    def limit(index: int) -> int:
        return generation_limit(len(encoded[index]))

    wanted = [index for index, sentence in enumerate(sentences) if sentence.strip()]
    for length, group in groupby(sorted(wanted, key=limit), key=limit):
        indices = list(group)
        results = translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(encoded[index]) for index in indices],
            beam_size=beams,
            max_decoding_length=length,
            max_batch_size=4096,
            batch_type="tokens",
        )
        for index, result in zip(indices, results, strict=True):
            translations[index] = _text(tokenizer, result.hypotheses[0])
    return translations


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> str:
    ids = tokenizer.convert_tokens_to_ids(tokens)
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip()


def _ctranslate2() -> Any:
    try:
        import ctranslate2
    except ImportError as error:
        raise UserError(
            "CTranslate2 is not installed: pip install 'align-to-distill[ctranslate2]'."
        ) from error
    return ctranslate2
