"""Tokenizers: training, loading, checking, and the language codes of multilingual ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from a2d.errors import UserError, first_line
from a2d.families import FAMILIES
from a2d.models.folders import read_tokenizer, reading
from a2d.suggestions import nearest
from a2d.text.sources import PREFIX, encode_sources
from a2d.text.words import SPACE

END, UNKNOWN, PADDING = "</s>", "<unk>", "<pad>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

MAX_PREFIX = 1000
"""Longest prefix, in characters: every source is encoded with it."""

TEXTS_AT_ONCE = 30
"""Texts that the trainer of a vocabulary reads as one."""

_RESERVED = re.compile("|".join(map(re.escape, (END, UNKNOWN, PADDING, *BYTES))))


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train a byte-pair encoding (Sennrich et al. 2016) shared by source and target.

    Words keep the space before them, as in SentencePiece. Characters outside the vocabulary are
    spelled in bytes, so that any text survives encoding and decoding. The same texts give the same
    vocabulary. Padding comes last, because inference engines expect that of Marian models.

    Args:
        texts: raw sentences of both languages. They are read twice; an iterator, which can be read
            only once, is first read into memory.
        size: number of tokens, including the 256 bytes and 3 special tokens.

    Raises:
        UserError: the texts are too few or too uniform for a vocabulary of that size.
    """
    model = _learn(texts, size - len(BYTES) - 3)
    merges = [tuple(merge) for merge in model["merges"]]
    tokens = [END, UNKNOWN, *BYTES, *sorted(model["vocab"], key=model["vocab"].get), PADDING]
    if len(tokens) < size:
        raise UserError(
            f"the training corpus is too small for a vocabulary of {size} tokens: it yields "
            f"{len(tokens)}. Set vocabulary.size to at most {len(tokens)}."
        )
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (END, UNKNOWN, PADDING)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # "</s>" in a text is not a special token
        model_max_length=512,
    )


def load_tokenizer(
    path: str | Path, languages: Sequence[str] | None = None, prefix: str = ""
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer from a folder or the hub.

    Args:
        path: folder or hub name of the model.
        languages: codes of source and target, for a multilingual tokenizer.
        prefix: text that the model expects before every source; it is saved with the tokenizer.

    Raises:
        UserError: there is no tokenizer, it does not work, or it lacks one of the languages.
    """
    codes = dict(zip(("src_lang", "tgt_lang"), languages, strict=True)) if languages else {}
    settings = {PREFIX: prefix} if prefix else {}
    problem = f"no tokenizer at {str(path)!r}: give a folder that holds the model's tokenizer files"
    with reading(path, problem):
        try:
            tokenizer = read_tokenizer(path, **codes, **settings)
        except KeyError as error:
            if not codes:
                raise
            raise UserError(f"the tokenizer at {str(path)!r} knows no language {error}.") from error
        # Without files, transformers makes a tokenizer of special tokens and perhaps a space.
        if len(tokenizer) <= len(tokenizer.all_special_tokens) + 1:
            raise UserError(f"{problem} (its vocabulary is missing).")
        saved_prefix = tokenizer.init_kwargs.get(PREFIX, "")
        if not isinstance(saved_prefix, str) or len(saved_prefix) > MAX_PREFIX:
            raise UserError(
                f"the {PREFIX} of the tokenizer at {str(path)!r} is not a text of at most "
                f"{MAX_PREFIX:,} characters: correct its tokenizer_config.json."
            )
        if codes and not hasattr(tokenizer, "src_lang"):
            raise UserError(
                f"the tokenizer at {str(path)!r} knows one language pair only: remove "
                "teacher.languages (--teacher-languages)."
            )
        for code in codes.values():
            language_id(tokenizer, code)
        mark_languages(tokenizer)
        _check_works(tokenizer)
    return tokenizer


def _check_works(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer can encode and decode.

    Raises:
        Exception: any error of the tokenizer.
        ValueError: a result that later steps could not use.
    """
    for token, number in tokenizer.get_vocab().items():
        if type(number) is not int or number < 0:
            raise ValueError(f"the token {token!r} has the number {number!r}")
    texts = ["a1 Ü", "a ☃\t" * 1000]
    encoded = encode_sources(tokenizer, texts, 100)
    # M2M100's tokenizer encodes targets only if it is set to their language.
    if getattr(tokenizer, "tgt_lang", "") is not None:
        encoded += tokenizer(text_target=texts, verbose=False)["input_ids"]
    if not all(encoded) or min(map(min, encoded)) < 0:
        raise ValueError("it encodes a text as no tokens, or as negative numbers")
    batch = tokenizer.pad({"input_ids": encoded[:2]}, return_tensors="np")
    decoded = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    if not all(isinstance(text, str) for text in decoded):
        raise ValueError("it does not decode tokens to text")


def mark_languages(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make language codes special tokens, in place, so that decoding removes them from texts.

    Some tokenizers of M2M100 and NLLB have language codes as ordinary tokens. The change is saved
    with the tokenizer, so that plain transformers removes the codes too.

    Raises:
        UserError: the codes cannot be marked.
    """
    special = set(tokenizer.all_special_tokens)
    ordinary = [token for token in language_tokens(tokenizer) if token not in special]
    if not ordinary:
        return
    ids = tokenizer.convert_tokens_to_ids(ordinary)
    tokenizer.add_special_tokens(
        {"extra_special_tokens": ordinary}, replace_extra_special_tokens=False
    )
    left = tokenizer.decode(ids, skip_special_tokens=True).strip()
    if left or tokenizer.convert_tokens_to_ids(ordinary) != ids:
        raise UserError(
            f"language codes of this {type(tokenizer).__name__}, such as {ordinary[0]!r}, are "
            "ordinary tokens, which would appear in every translation: add them to the "
            "tokenizer's extra_special_tokens and save it again."
        )


def language_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tokens of a tokenizer that stand for languages.

    For a tokenizer of one language pair, which has no such tokens, these are the tokens that it
    adds to an empty text, because these tokens stand for no text either.
    """
    table = _language_table(tokenizer)
    if table is not None:
        return list(table.values())
    if hasattr(tokenizer, "src_lang"):
        current = (tokenizer.src_lang, tokenizer.tgt_lang)
        added = (*tokenizer.added_tokens_encoder, *tokenizer.all_special_tokens)
        tokens = {code for code in current if code is not None and _has_token(tokenizer, code)}
        tokens |= set(filter(_is_code, added))
    else:
        full, bare = (tokenizer("", add_special_tokens=add)["input_ids"] for add in (True, False))
        tokens = set(tokenizer.convert_ids_to_tokens([i for i in full if i not in bare]))
    return sorted(tokens, key=tokenizer.convert_tokens_to_ids)


def _language_table(tokenizer: PreTrainedTokenizerBase) -> dict[str, str] | None:
    """Map language codes to tokens; None for a tokenizer whose codes are tokens, or without codes.

    A tokenizer does not name the family of its model. The tables of all families are tried.
    """
    names = [family.language_table for family in FAMILIES.values() if family.language_table]
    tables = (getattr(tokenizer, name, None) for name in names)
    return next((table for table in tables if table is not None), None)


def _is_code(token: str) -> bool:
    patterns = {family.language_codes for family in FAMILIES.values() if family.language_codes}
    return any(re.fullmatch(pattern, token) for pattern in patterns)


def _has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    return tokenizer.convert_tokens_to_ids(token) not in (None, tokenizer.unk_token_id)


def language_id(tokenizer: PreTrainedTokenizerBase, code: str) -> int:
    """Id of the token that stands for a language.

    Raises:
        UserError: the tokenizer has no such language.
    """
    table = _language_table(tokenizer)
    if table is None:
        table = {token: token for token in filter(_is_code, language_tokens(tokenizer))}
    if code not in table:
        raise UserError(f"the tokenizer knows no language {code!r}{nearest(code, table)}")
    return int(tokenizer.convert_tokens_to_ids(table[code]))


def check_fits(tokenizer: PreTrainedTokenizerBase, config: Any, path: str | Path) -> None:
    """Check that a model has an embedding for every token.

    Raises:
        UserError: a token has no embedding, or the tokenizer cannot decode every token.
    """
    needed = max(len(tokenizer), *(number + 1 for number in tokenizer.get_vocab().values()))
    if needed > config.vocab_size:
        raise UserError(
            f"the tokenizer at {str(path)!r} has {needed:,} tokens, and the model has embeddings "
            f"for {config.vocab_size:,}: call resize_token_embeddings() on the model, or use the "
            "tokenizer that it was trained with."
        )
    try:
        tokenizer.decode(list(range(config.vocab_size)), skip_special_tokens=True)
    except Exception as error:  # tokenizers raise various errors for unknown ids
        raise UserError(
            f"the tokenizer at {str(path)!r} cannot decode all of the model's "
            f"{config.vocab_size:,} tokens ({first_line(error)}): use the tokenizer that the "
            "model was trained with."
        ) from error


def check_languages_named(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Check that a multilingual tokenizer is set to a source and a target language.

    Raises:
        UserError: the tokenizer has many languages, and none is set.
    """
    if hasattr(tokenizer, "src_lang") and not tokenizer.init_kwargs.get("tgt_lang"):
        raise UserError(
            f"{path} knows many languages: name two with teacher.languages (--teacher-languages), "
            "in the model's codes, such as [deu_Latn, hsb_Latn]."
        )


def check_same_vocabulary(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase
) -> None:
    """Check that teacher and student have the same tokens with the same ids.

    Attention maps and distributions can only be compared over the same tokens.

    Raises:
        UserError: a token's ids differ, or the special tokens differ.
    """
    remedy = "Build the student with the teacher's tokenizer."
    student_ids, teacher_ids = student.get_vocab(), teacher.get_vocab()
    if student_ids != teacher_ids:
        tokens = sorted(student_ids.keys() | teacher_ids.keys())
        token = next(t for t in tokens if student_ids.get(t) != teacher_ids.get(t))
        raise UserError(
            f"teacher and student vocabularies differ: {len(teacher_ids)} and {len(student_ids)} "
            f"tokens, and {token!r} is {teacher_ids.get(token)} in the teacher's, "
            f"{student_ids.get(token)} in the student's. {remedy}"
        )
    for name in ("pad_token_id", "eos_token_id"):
        if getattr(teacher, name) != getattr(student, name):
            raise UserError(f"teacher and student tokenizers differ in {name}. {remedy}")


def _learn(texts: Iterable[str], size: int) -> dict[str, Any]:
    """Learn a byte-pair encoding of `size` tokens; return the model of its tokenizer.json."""
    rereadable = list(texts) if isinstance(texts, Iterator) else texts

    def plain() -> Iterator[str]:
        """The texts without names of reserved tokens, because no token may be learned twice.

        Many are joined, because the trainer needs as long for a text as for some words.
        """
        return (_RESERVED.sub(" ", " ".join(lot)) for lot in _lots(rereadable, TEXTS_AT_ONCE))

    counts = _count_characters(plain())
    # Rare characters are left to the byte fallback. The alphabet is chosen here, because the
    # trainer breaks ties by the order of a hash table, which differs from run to run.
    limit = max(min(size, 500), 1)
    alphabet = sorted(counts, key=lambda character: (-counts[character], character))[:limit]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=max(size, 1),
        initial_alphabet=alphabet,
        limit_alphabet=limit,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lots(plain(), 300), trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _lots(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(texts)
    while lot := list(islice(remaining, size)):
        yield lot


def _count_characters(texts: Iterable[str]) -> dict[str, int]:
    """Count the characters of texts, in which `SPACE` stands for a space; it occurs at least once.

    `Counter` would take a third of a vocabulary's time.
    """
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    for text in texts:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        found = np.bincount(codes)
        counts[: len(found)] += found
    counts[ord(SPACE)] += 1 + counts[ord(" ")]
    counts[ord(" ")] = 0
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}
