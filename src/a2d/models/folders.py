"""What is read from a model's folder or its page on the hub: settings and tensors, never code.

Every configuration, tokenizer and weight that `a2d` loads passes through here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from a2d.errors import UserError, disk_is_full, first_line, memory_is_full
from a2d.families import FAMILIES
from a2d.teachers import model_path

GENERATION = "generation_config.json"
SETTINGS = ("config.json", "tokenizer_config.json", GENERATION)
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER = "adapter_config.json"

_MOST_NAMES = 10_000
_LONGEST_JSON = 100_000_000
"""Bytes of a file of settings."""
_FORMATS = (".json", ".jinja", ".model", ".safetensors", ".spm", ".txt")
"""Endings of what libraries open in a model's folder."""


@contextmanager
def reading(place: str | Path, problem: str) -> Iterator[None]:
    """Turn whatever libraries raise on the files of a model into one `UserError`.

    Args:
        place: folder or hub name of the model.
        problem: the sentence; the damaged file and the library's words follow in brackets.
    """
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except BaseException as error:
        panic = type(error).__module__ == "pyo3_runtime"  # a Rust library's, which is no Exception
        if not (panic or isinstance(error, Exception)) or _is_of_the_machine(error):
            raise
        why = _damage(model_path(place)) or first_line(error)
        raise UserError(f"{problem} ({why}).") from error


def _is_of_the_machine(error: BaseException) -> bool:
    return disk_is_full(error) or memory_is_full(error)


def _damage(path: str) -> str | None:
    """The first file in a model's folder that is not what its name says, and why."""
    for file in sorted(Path(path).glob("*")):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text("utf-8"))
            elif file.suffix == ".safetensors":
                safe_open(file, "pt")
        except Exception as error:  # whatever is wrong with it
            return f"{file.name}: {first_line(error)}"
    return None


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
    """Read how a model generates; older ones have that among their other settings.

    Raises:
        UserError: the file is damaged.
    """
    with reading(place, f"the {GENERATION} of {place} cannot be read: fetch or save it anew"):
        path = _safe(place)
        if _file(path, GENERATION) is None:
            return GenerationConfig.from_model_config(read_config(place))
        return GenerationConfig.from_pretrained(path)


def tensor_shapes(place: str | Path) -> list[tuple[int, ...]]:
    """Shapes of all tensors in a model's safetensors files; empty if it has none.

    Raises:
        UserError: as `refuse_code` says.
        Exception: whatever safetensors makes of a damaged file.
    """
    path = _safe(place)
    weights = _json(path, INDEX).get("weight_map", {})
    names = sorted(set(weights.values())) if _file(path, WEIGHTS) is None else [WEIGHTS]
    shapes = []
    for name in names:
        found = _file(path, name)
        if found is not None:
            with safe_open(found, "pt") as file:
                tensors = file.keys()
                shapes += [tuple(file.get_slice(name).get_shape()) for name in tensors]
    return shapes


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
        UserError: the file and the setting that ask for it, or a file of settings that is damaged.
    """
    _refuse_devices(Path(path))
    for name in SETTINGS:
        settings = _json(path, name)
        for setting, problem in _suspects(settings):
            raise UserError(
                f"the model {path!r} {problem} ({setting!r} in its {name}): take one without it"
            )
        for setting in _counts(name):
            count = settings.get(setting)
            count = len(count) if isinstance(count, dict) else count
            if isinstance(count, int | float) and count > _MOST_NAMES:
                raise UserError(
                    f"the {name} of {path} is no model's: its {setting} is {count:,}, and "
                    f"{_MOST_NAMES:,} is a lot."
                )
    if _file(path, ADAPTER):
        raise UserError(
            f"{path!r} holds an adapter, not a model ({ADAPTER}): merge it into its base model by "
            "peft's merge_and_unload(), and save that."
        )
    weights = _json(path, INDEX).get("weight_map", {})
    for name in sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else ():
        if not _is_name(name) or not name.endswith(".safetensors"):
            raise UserError(
                f"the model {path!r} takes weights from {name[:100]!r} ({INDEX}): only safetensors "
                "files beside it are read."
            )


def _is_name(name: object) -> bool:
    """Whether it is the name of a file, without a folder."""
    return isinstance(name, str) and PurePosixPath(name).name == name and "\\" not in name


def _counts(name: str) -> tuple[str, ...]:
    """Settings of a file by which libraries make names, one by one, before any other check.

    Their value is a number of names, or a dictionary of them.
    """
    if name == "tokenizer_config.json":
        families = FAMILIES.values()
        own = (n for each in families for n in (*each.named_tokens, *each.filler_tokens))
        return ("added_tokens_decoder", *own)
    return ("num_labels", "id2label") if name == "config.json" else ()


_refuse_code_once = cache(refuse_code)


def _refuse_devices(folder: Path) -> None:
    """Refuse a folder with a pipe or a device among its files: reading one may have no end."""
    for place in sorted(folder.glob("*")):
        if place.suffix in _FORMATS and place.exists() and not (place.is_file() or place.is_dir()):
            raise UserError(f"{place} is a pipe or a device, not a file: remove it.")


def _suspects(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings that make transformers import code which the model brings or names."""
    if settings.get("auto_map"):
        yield "auto_map", "wants to run code that comes with it, which a2d never does"
    if settings.get("attribute_map"):
        yield "attribute_map", "renames its settings, so that they cannot be checked"
    if settings.get("transformers_weights"):
        yield "transformers_weights", f"names files of weights, and a2d reads {WEIGHTS} only"
    names = settings.get("fast_tokenizer_files") or []
    if not isinstance(names, list) or not all(_is_name(name) for name in names):
        yield "fast_tokenizer_files", "takes its tokenizer from files that are not beside it"
    if settings.get("quantization_config"):
        yield "quantization_config", "is quantised: a2d reads models in 16 or 32 bits"
    for key, value in settings.items():
        if "_implementation" in key and "/" in str(value):
            yield key, "wants to fetch code from the hub, which a2d never does"


def _json(path: str, name: str) -> dict[str, Any]:
    """A JSON object of a model; empty where the file is missing.

    Raises:
        UserError: the file is damaged.
    """
    place = _file(path, name)
    if place is None:
        return {}
    file = Path(place)
    try:
        if file.stat().st_size > _LONGEST_JSON:
            raise ValueError(f"it is larger than {_LONGEST_JSON:,} bytes")
        value = json.loads(file.read_text("utf-8"), parse_constant=_refuse_constant)
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"the {name} of {path} is damaged: fetch or save it anew ({first_line(error)})."
        ) from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _file(path: str, name: str) -> str | None:
    """A local copy of one of a model's files; None if it has no such file."""
    try:
        file: str | None = cached_file(path, name)
    except OSError:
        return None
    return file
