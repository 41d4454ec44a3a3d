"""Reduction of a model's vocabulary to the tokens that a language pair needs.

Most parameters of a small multilingual model are embeddings. For text that consists of kept tokens,
the trimmed model computes the same hidden states and the same logits of kept tokens. Its
distribution is thus the whole model's, renormalised over the kept tokens.
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
from a2d.models.decoding import token_ids, token_settings
from a2d.models.folders import read_tokenizer
from a2d.models.tokenizer import language_tokens
from a2d.text.batching import encode_sources
from a2d.text.pairs import Pair

_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
_SPACES = ("▁", "Ġ")
_PROBES = 1000
"""Number of sentence pairs on which a trimmed tokenizer is compared with the whole one."""


def trim(
    model: PreTrainedModel, tokenizer: Tokenizer, pairs: Sequence[Pair], folder: Path
) -> tuple[PreTrainedModel, Tokenizer]:
    """Reduce a model and its tokenizer to the tokens of a corpus.

    These tokens are kept, in their order: those of the corpus, special tokens, language codes, and
    single characters that occur in the corpus. Most tokenizers can spell other words with single
    characters. Tokenizers of Marian and M2M100 cannot: a word whose piece is missing is unknown.

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
    used = _used(tokenizer, pairs) | _named(model)
    kept = sorted(token for token in used if token < size)
    tokenizer.save_pretrained(folder)
    _trim_files(folder, tokenizer, kept)
    _trim_settings(folder / "tokenizer_config.json", kept)
    trimmed = read_tokenizer(folder)
    _compare(tokenizer, trimmed, kept, pairs)
    return _trim_model(model, kept), trimmed


def _used(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> set[int]:
    """Ids of the tokens to keep for a corpus."""
    used = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    # M2M100's language tokens are neither special nor added.
    used |= set(tokenizer.convert_tokens_to_ids(language_tokens(tokenizer)))
    for start in range(0, len(pairs), 1000):
        part = pairs[start : start + 1000]
        sources = encode_sources(tokenizer, [pair.source for pair in part])
        targets = tokenizer(text_target=[pair.target for pair in part])["input_ids"]
        used.update(token for ids in (*sources, *targets) for token in ids)
    characters = {c for pair in pairs for text in pair for c in text}
    spelled = _BYTES | characters | {s + c for s in _SPACES for c in characters} | set(_SPACES)
    vocabulary = tokenizer.get_vocab()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {}
    byte_level = "ByteLevel" in json.dumps(content.get("pre_tokenizer"))
    used.update(
        index
        for token, index in vocabulary.items()
        if token in spelled or (byte_level and len(token) == 1)
    )
    if content.get("model", {}).get("type") == "BPE":
        names = {name for name, index in vocabulary.items() if index in used}
        used |= {vocabulary[name] for name in _merged_from(names, _merges(content["model"]))}
    return used


def _merges(model: dict[str, Any]) -> list[list[str]]:
    return [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]


def _merged_from(names: set[str], merges: list[list[str]]) -> set[str]:
    """Tokens that byte-pair encoding merges on its way to the tokens `names`."""
    parts: dict[str, list[list[str]]] = {}
    for merge in merges:
        parts.setdefault("".join(merge), []).append(merge)
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        for merge in parts.get(waiting.pop(), []):
            new = set(merge) - found
            found |= new
            waiting += new
    return found


def _named(model: PreTrainedModel) -> set[int]:
    """Token ids in a model's configurations."""
    return token_ids(model.config) | token_ids(model.generation_config)


# Files of tokenizers


def _trim_files(folder: Path, tokenizer: Tokenizer, kept: list[int]) -> None:
    names = tokenizer.convert_ids_to_tokens(kept)
    whole, pieces = folder / "tokenizer.json", folder / "vocab.json"
    if whole.is_file():
        content = json.loads(whole.read_text("utf-8"))
        content = _trim_backend(content, dict(zip(names, range(len(kept)), strict=True)))
        write_text(whole, json.dumps(content, ensure_ascii=False))
    elif pieces.is_file() and not (folder / "target_vocab.json").exists():
        own = json.loads(pieces.read_text("utf-8"))
        own = {name: index for name, index in own.items() if name in set(names)}
        order = sorted(own, key=own.__getitem__)
        write_text(
            pieces, json.dumps({name: i for i, name in enumerate(order)}, ensure_ascii=False)
        )
    else:
        raise UserError(
            f"the vocabulary of a {type(tokenizer).__name__} cannot be trimmed: leave it whole."
        )


def _trim_settings(path: Path, kept: list[int]) -> None:
    """Adapt a tokenizer's configuration: new ids of added tokens, and no filler tokens."""
    config = json.loads(path.read_text("utf-8"))
    new = {str(old): str(index) for index, old in enumerate(kept)}
    if added := config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {new[old]: token for old, token in added.items()}
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
        raise UserError(f"a vocabulary of the kind {model['type']} cannot be trimmed.")
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]
    for special in (content["post_processor"] or {}).get("special_tokens", {}).values():
        special["ids"] = [ids[name] for name in special["tokens"]]
    return content


def _trim_merges(model: dict[str, Any], ids: dict[str, int]) -> None:
    model["merges"] = [[a, b] for a, b in _merges(model) if a in ids and b in ids and a + b in ids]
    model["vocab"] = {name: ids[name] for name in model["vocab"] if name in ids}


def _compare(
    tokenizer: Tokenizer, trimmed: Tokenizer, kept: list[int], pairs: Sequence[Pair]
) -> None:
    new = {old: index for index, old in enumerate(kept)}
    for token in tokenizer.all_special_tokens:
        if trimmed.convert_tokens_to_ids(token) != new[tokenizer.convert_tokens_to_ids(token)]:
            raise UserError(
                f"the vocabulary of a {type(tokenizer).__name__} cannot be trimmed ({token!r} gets "
                "another place): leave it whole."
            )
    for pair in pairs[:: max(1, len(pairs) // _PROBES)]:
        expected, found = (
            [*encode_sources(t, [pair.source]), t(text_target=pair.target)["input_ids"]]
            for t in (tokenizer, trimmed)
        )
        for text, before, after in zip(pair, expected, found, strict=True):
            if after != [new[token] for token in before]:
                raise UserError(
                    f"the vocabulary of a {type(tokenizer).__name__} cannot be trimmed (it then "
                    f"reads {text!r} otherwise): leave it whole."
                )


# Models


def _trim_model(model: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    config = copy.deepcopy(model.config)
    generation = copy.deepcopy(model.generation_config)
    new = {old: index for index, old in enumerate(kept)}

    def renumber(value: Any) -> Any:
        return new[value] if isinstance(value, int) else [renumber(part) for part in value]

    for settings in (config, generation):
        for key, value in token_settings(settings).items():
            setattr(settings, key, renumber(value))
    before = config.vocab_size
    for name in family_of(config).vocabulary_sizes:
        if getattr(config, name, None) == before:
            setattr(config, name, len(kept))
    trimmed = AutoModelForSeq2SeqLM.from_config(config, dtype=model.dtype)
    rows = torch.tensor(kept)

    def cut(weight: Tensor, expected: torch.Size) -> Tensor:
        for dimension, (old, count) in enumerate(zip(weight.shape, expected, strict=True)):
            if old != count:
                weight = weight.index_select(dimension, rows.to(weight.device))
        return weight

    state, whole = trimmed.state_dict(), model.state_dict()
    trimmed.load_state_dict({name: cut(whole[name], own.shape) for name, own in state.items()})
    trimmed.generation_config = generation
    return trimmed.train(model.training)
