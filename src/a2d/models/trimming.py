"""Reduction of a model's vocabulary to the tokens that a language pair needs.

Most parameters of a small multilingual model are embeddings. On text of the remaining tokens, the
trimmed model computes the same hidden states and the same logits of these tokens. Its distribution
is therefore the full model's, renormalised over the remaining tokens.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from a2d.errors import UserError
from a2d.families import FAMILIES, family_of
from a2d.files import write_text
from a2d.models.folders import read_tokenizer
from a2d.models.search_settings import token_ids, token_settings
from a2d.models.tokenizer import language_tokens
from a2d.text.pairs import Pair
from a2d.text.sources import encode_sources

_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
_SPACES = ("▁", "Ġ")
_PROBES = 1000
"""Number of sentence pairs on which a trimmed tokenizer is compared with the full one."""


def trim(
    model: PreTrainedModel, tokenizer: Tokenizer, pairs: Sequence[Pair], folder: Path
) -> tuple[PreTrainedModel, Tokenizer]:
    """Reduce a model and its tokenizer to the tokens of a corpus.

    The trimmed vocabulary has, in the old order, the tokens of the corpus, special tokens, language
    codes, and the single characters of the corpus. Most tokenizers can spell other words with
    single characters. Tokenizers of Marian and M2M100 cannot: a word whose piece is missing is
    unknown.

    Args:
        model: an encoder-decoder, which is not changed.
        tokenizer: its tokenizer, set to the languages of the corpus.
        pairs: the corpus.
        folder: folder for the tokenizer's files.

    Returns:
        The trimmed model, and the tokenizer read from `folder`.

    Raises:
        UserError: this kind of tokenizer cannot be trimmed.
    """
    size = model.config.vocab_size
    tokens = _corpus_tokens(tokenizer, pairs) | _configured_tokens(model)
    ids = sorted(token for token in tokens if token < size)
    tokenizer.save_pretrained(folder)
    _trim_files(folder, tokenizer, ids)
    _trim_settings(folder / "tokenizer_config.json", ids)
    trimmed = read_tokenizer(folder)
    _compare(tokenizer, trimmed, ids, pairs)
    return _trim_model(model, ids), trimmed


def _corpus_tokens(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> set[int]:
    """Ids of the tokens that a corpus needs."""
    ids = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    # M2M100's language tokens are neither special nor added.
    ids |= set(tokenizer.convert_tokens_to_ids(language_tokens(tokenizer)))
    for start in range(0, len(pairs), 1000):
        part = pairs[start : start + 1000]
        sources = encode_sources(tokenizer, [pair.source for pair in part])
        targets = tokenizer(text_target=[pair.target for pair in part])["input_ids"]
        ids.update(token for sentence in (*sources, *targets) for token in sentence)
    characters = {c for pair in pairs for text in pair for c in text}
    spelling = _BYTES | characters | {s + c for s in _SPACES for c in characters} | set(_SPACES)
    vocabulary = tokenizer.get_vocab()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {}
    byte_level = "ByteLevel" in json.dumps(content.get("pre_tokenizer"))
    ids.update(
        index
        for token, index in vocabulary.items()
        if token in spelling or (byte_level and len(token) == 1)
    )
    if content.get("model", {}).get("type") == "BPE":
        names = {name for name, index in vocabulary.items() if index in ids}
        ids |= {vocabulary[name] for name in _merge_parts(names, _merges(content["model"]))}
    return ids


def _merges(model: dict[str, Any]) -> list[list[str]]:
    return [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]


def _merge_parts(names: set[str], merges: list[list[str]]) -> set[str]:
    """Tokens that byte-pair encoding merges, directly or indirectly, into the tokens `names`."""
    merges_into: dict[str, list[list[str]]] = {}
    for merge in merges:
        merges_into.setdefault("".join(merge), []).append(merge)
    parts: set[str] = set()
    waiting = list(names)
    while waiting:
        for merge in merges_into.get(waiting.pop(), []):
            new = set(merge) - parts
            parts |= new
            waiting += new
    return parts


def _configured_tokens(model: PreTrainedModel) -> set[int]:
    """Token ids in a model's configuration and generation settings."""
    return token_ids(model.config) | token_ids(model.generation_config)


# Files of tokenizers


def _trim_files(folder: Path, tokenizer: Tokenizer, ids: list[int]) -> None:
    """Reduce a saved tokenizer to the tokens `ids`, sorted; new ids are positions in this list."""
    names = tokenizer.convert_ids_to_tokens(ids)
    backend, pieces = folder / "tokenizer.json", folder / "vocab.json"
    if backend.is_file():
        content = json.loads(backend.read_text("utf-8"))
        content = _trim_backend(content, dict(zip(names, range(len(ids)), strict=True)))
        write_text(backend, json.dumps(content, ensure_ascii=False))
    elif pieces.is_file() and not (folder / "target_vocab.json").exists():
        vocabulary = json.loads(pieces.read_text("utf-8"))
        order = sorted(vocabulary.keys() & set(names), key=vocabulary.__getitem__)
        vocabulary = {name: index for index, name in enumerate(order)}
        write_text(pieces, json.dumps(vocabulary, ensure_ascii=False))
    else:
        raise _cannot_trim(tokenizer)


def _cannot_trim(tokenizer: Tokenizer, reason: str = "") -> UserError:
    kind = type(tokenizer).__name__
    return UserError(
        f"the vocabulary of a {kind} cannot be trimmed{reason}: turn trimming off (teacher.trim, "
        "--trim)."
    )


def _trim_settings(path: Path, ids: list[int]) -> None:
    """Adapt a tokenizer's configuration: new ids of added tokens, and no filler tokens."""
    config = json.loads(path.read_text("utf-8"))
    new_ids = {str(old): str(new) for new, old in enumerate(ids)}
    if added := config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {new_ids[old]: token for old, token in added.items()}
    for setting in {name for family in FAMILIES.values() for name in family.filler_tokens}:
        if setting in config:
            config[setting] = 0
    write_text(path, json.dumps(config, indent=2, ensure_ascii=False))


def _trim_backend(content: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """Reduce the content of a tokenizer.json to the tokens in `ids` (token → new id)."""
    model = content["model"]
    if model["type"] == "Unigram":
        unknown = model["vocab"][model["unk_id"]][0]
        model["vocab"] = [piece for piece in model["vocab"] if piece[0] in ids]
        model["unk_id"] = [piece[0] for piece in model["vocab"]].index(unknown)
    elif model["type"] == "BPE":
        _trim_merges(model, ids)
    else:
        raise UserError(
            f"a vocabulary of type {model['type']} cannot be trimmed: turn trimming off "
            "(teacher.trim, --trim)."
        )
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]
    for special in (content["post_processor"] or {}).get("special_tokens", {}).values():
        special["ids"] = [ids[name] for name in special["tokens"]]
    return content


def _trim_merges(model: dict[str, Any], ids: dict[str, int]) -> None:
    model["merges"] = [[a, b] for a, b in _merges(model) if a in ids and b in ids and a + b in ids]
    model["vocab"] = {name: ids[name] for name in model["vocab"] if name in ids}


def _compare(
    tokenizer: Tokenizer, trimmed: Tokenizer, ids: list[int], pairs: Sequence[Pair]
) -> None:
    """Check that a trimmed tokenizer encodes special tokens and pairs like the full one."""
    new_ids = {old: new for new, old in enumerate(ids)}
    for token in tokenizer.all_special_tokens:
        if trimmed.convert_tokens_to_ids(token) != new_ids[tokenizer.convert_tokens_to_ids(token)]:
            raise _cannot_trim(tokenizer, f" ({token!r} would get a wrong id)")
    for pair in pairs[:: max(1, len(pairs) // _PROBES)]:
        full_ids, trimmed_ids = (
            [*encode_sources(t, [pair.source]), t(text_target=pair.target)["input_ids"]]
            for t in (tokenizer, trimmed)
        )
        for text, before, after in zip(pair, full_ids, trimmed_ids, strict=True):
            if after != [new_ids[token] for token in before]:
                raise _cannot_trim(tokenizer, f" (it would then split {text!r} differently)")


# Models


def _trim_model(model: PreTrainedModel, ids: list[int]) -> PreTrainedModel:
    """Copy a model with the embeddings and output weights of the tokens `ids` only."""
    config = copy.deepcopy(model.config)
    generation = copy.deepcopy(model.generation_config)
    new_ids = {old: new for new, old in enumerate(ids)}

    def renumber(value: Any) -> Any:
        return new_ids[value] if isinstance(value, int) else [renumber(part) for part in value]

    for settings in (config, generation):
        for key, value in token_settings(settings).items():
            setattr(settings, key, renumber(value))
    before = config.vocab_size
    for name in family_of(config).vocabulary_sizes:
        if getattr(config, name, None) == before:
            setattr(config, name, len(ids))
    trimmed = AutoModelForSeq2SeqLM.from_config(config, dtype=model.dtype)
    rows = torch.tensor(ids)

    def cut(weight: Tensor, shape: torch.Size) -> Tensor:
        for dimension, (old, count) in enumerate(zip(weight.shape, shape, strict=True)):
            if old != count:
                weight = weight.index_select(dimension, rows.to(weight.device))
        return weight

    state, full_state = trimmed.state_dict(), model.state_dict()
    trimmed.load_state_dict({name: cut(full_state[name], w.shape) for name, w in state.items()})
    trimmed.generation_config = generation
    return trimmed.train(model.training)
