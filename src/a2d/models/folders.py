"""What is read from a model's folder or its page on the hub: settings and tensors, never code.

Every configuration, tokenizer and weight that `a2d` loads passes through here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from a2d.errors import UserError
from a2d.teachers import model_path

SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json")
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"


def read_config(place: str | Path) -> Any:
    """Read a model's configuration.

    Raises:
        UserError: as `refuse_code` says.
        Exception: whatever transformers makes of a file that is missing or wrong.
    """
    return AutoConfig.from_pretrained(_safe(place), trust_remote_code=False)


def read_tokenizer(place: str | Path, **settings: Any) -> PreTrainedTokenizerBase:
    """Read a tokenizer; raises as `read_config` does."""
    path = _safe(place)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path, trust_remote_code=False, **settings
    )
    return tokenizer


def read_model(place: str | Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Read an encoder-decoder in float32, from safetensors, and what transformers says of it.

    Raises as `read_config` does.
    """
    model, info = AutoModelForSeq2SeqLM.from_pretrained(
        _safe(place),
        trust_remote_code=False,
        use_safetensors=True,
        dtype="float32",
        output_loading_info=True,
    )
    return model, info


def read_checkpoint(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """Read a model of a class that is known, as `read_model` reads others."""
    return kind.from_pretrained(_safe(folder), trust_remote_code=False, use_safetensors=True)


def read_generation_config(place: str | Path) -> GenerationConfig:
    """Read how a model generates; raises as `read_config` does."""
    return GenerationConfig.from_pretrained(_safe(place))


def _safe(place: str | Path) -> str:
    path = model_path(place)
    if Path(path).is_dir():
        refuse_code(path)
    else:
        _refuse_code_once(path)
    return path


def refuse_code(path: str) -> None:
    """Refuse a model that asks for code of its own, or for files elsewhere.

    Args:
        path: a folder or a hub name.

    Raises:
        UserError: the file and the setting that ask for it.
    """
    for name in SETTINGS:
        for setting, problem in _suspects(_json(path, name)):
            raise UserError(
                f"the model {path!r} {problem} ({setting!r} in its {name}): take one without it"
            )
    if _file(path, ADAPTER):
        raise UserError(
            f"{path!r} holds an adapter, not a model ({ADAPTER}): merge it into its base model by "
            "peft's merge_and_unload(), and save that."
        )
    weights = _json(path, INDEX).get("weight_map", {})
    for name in sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else ():
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise UserError(
                f"the model {path!r} takes weights from {name[:100]!r} ({INDEX}): only safetensors "
                "files beside it are read."
            )


_refuse_code_once = cache(refuse_code)


def _suspects(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings that make transformers import code which the model brings or names."""
    if settings.get("auto_map"):
        yield "auto_map", "wants to run code that comes with it, which a2d never does"
    if settings.get("quantization_config"):
        yield "quantization_config", "is quantised: a2d reads models in 16 or 32 bits"
    for key in ("attn_implementation", "_attn_implementation"):
        if "/" in str(settings.get(key)):
            yield key, "wants to fetch code from the hub, which a2d never does"


def _json(path: str, name: str) -> dict[str, Any]:
    """A JSON object of a model; empty where it is missing or none: its reader says so."""
    file = _file(path, name)
    try:
        value = json.loads(Path(file).read_text("utf-8")) if file else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _file(path: str, name: str) -> str | None:
    """A local copy of one of a model's files; None if it has no such file."""
    try:
        file: str | None = cached_file(path, name)
    except OSError:
        return None
    return file
