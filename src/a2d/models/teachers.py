"""Preparation of pretrained teachers for one language pair: languages and trimmed vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2d.models.loading import load_model
from a2d.models.tokenizer import check_fits, check_languages_named, language_id, load_tokenizer
from a2d.models.trimming import trim
from a2d.text.pairs import Pair


def prepare_teacher(
    path: str,
    folder: Path,
    languages: Sequence[str] | None = None,
    prefix: str = "",
    pairs: Sequence[Pair] | None = None,
) -> tuple[int, int]:
    """Save a copy of a teacher for one language pair, with its tokenizer.

    Args:
        path: folder or hub name of the teacher.
        folder: folder to write.
        languages: codes of source and target in a multilingual tokenizer; None for other teachers.
        prefix: text that the teacher expects before every source.
        pairs: corpus to whose tokens the vocabulary is trimmed; None: no trimming.

    Returns:
        Sizes of the vocabulary before and after.

    Raises:
        UserError: there is no such model or language, or the vocabulary cannot be trimmed.
    """
    model = load_model(path)
    tokenizer = load_tokenizer(path, languages, prefix)
    check_fits(tokenizer, model.config, path)
    check_languages_named(tokenizer, path)
    before = model.config.vocab_size
    set_target_language(model, tokenizer)
    if pairs is not None:
        model, tokenizer = trim(model, tokenizer, pairs, folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return before, model.config.vocab_size


def set_target_language(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the target language in a multilingual model's configuration, as its tokenizer marks it.

    M2M100, NLLB and mBART-50 generate the language token first: it becomes `forced_bos_token_id`.
    mBART-25 reads the language token first: it becomes `decoder_start_token_id`.
    """
    code = getattr(tokenizer, "tgt_lang", None)
    if code is None:
        return
    language = language_id(tokenizer, code)
    target = tokenizer(text_target="a")["input_ids"]
    if target[0] == language:
        model.generation_config.forced_bos_token_id = language
    elif target[-1] == language:
        model.config.decoder_start_token_id = language
        model.generation_config.decoder_start_token_id = language
