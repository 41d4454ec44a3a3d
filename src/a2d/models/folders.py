"""Safe reading of models from folders and the hub: settings and tensors, never code.

All configurations, tokenizers and weights that a2d loads are read by this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, get_session, try_to_load_from_cache
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from a2d.errors import UserError, disk_is_full, first_line, memory_is_full
from a2d.families import FAMILIES
from a2d.teachers import model_path

# Models' classes take seconds to import, and exports do not need them.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

GENERATION = "generation_config.json"
CONFIG = "config.json"
SETTINGS = (CONFIG, "tokenizer_config.json", GENERATION)
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER = "adapter_config.json"

_MAX_NAMES = 10_000
"""Largest number of names that a setting may make libraries build."""
_MAX_JSON = 100_000_000
"""Largest file of settings, in bytes."""
_HUB_NAME = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*")
"""Names of models on the hub; those of other folders have more slashes, or begin otherwise."""
_HUB_PATIENCE = 5.0
"""Seconds to wait for the hub's first answer."""
_FORMATS = (".json", ".jinja", ".model", ".safetensors", ".spm", ".txt")
"""Suffixes of the files that libraries open in a model's folder."""


@contextmanager
def reading(place: str | Path, problem: str) -> Iterator[None]:
    """Turn every error of a library that reads a model into a `UserError`.

    Errors from a full disk or from full memory pass unchanged.

    Args:
        place: folder or hub name of the model.
        problem: the message. The damaged file and the library's message follow in brackets.
    """
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except BaseException as error:
        panic = type(error).__module__ == "pyo3_runtime"  # of a Rust library; not an `Exception`
        if not (panic or isinstance(error, Exception)) or lacks_resources(error):
            raise
        reason = _damage(model_path(place)) or first_line(error)
        raise UserError(f"{problem} ({reason}).") from error


def lacks_resources(error: BaseException) -> bool:
    """Check for an error from a full disk or from full memory."""
    return disk_is_full(error) or memory_is_full(error)


def _damage(path: str) -> str | None:
    """Name the first file in a model's folder that does not parse, with the error."""
    for file in sorted(Path(path).glob("*")):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text("utf-8"))
            elif file.suffix == ".safetensors":
                safe_open(file, "pt")
        except Exception as error:  # of any parser
            return f"{file.name}: {first_line(error)}"
    return None


def read_tokenizer(place: str | Path, **settings: Any) -> PreTrainedTokenizerBase:
    """Read a tokenizer.

    Raises:
        UserError: as `refuse_code`.
        Exception: any error of transformers for a missing or invalid file.
    """
    path = safe_place(place)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path, trust_remote_code=False, **settings
    )
    return tokenizer


def read_model(place: str | Path, config: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Read an encoder-decoder in float32 from safetensors. Errors are those of `read_tokenizer`.

    Args:
        place: folder or hub name.
        config: its configuration.

    Returns:
        The model, and transformers' loading info, such as `missing_keys`.
    """
    from transformers import AutoModelForSeq2SeqLM

    model, info = AutoModelForSeq2SeqLM.from_pretrained(
        safe_place(place),
        config=config,
        trust_remote_code=False,
        use_safetensors=True,
        dtype="float32",
        output_loading_info=True,
    )
    return model, info


def read_checkpoint(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """Read a model of the class `kind` from safetensors."""
    return kind.from_pretrained(safe_place(folder), trust_remote_code=False, use_safetensors=True)


def tensor_shapes(place: str | Path) -> list[tuple[int, ...]]:
    """Shapes of all tensors in a model's safetensors files; empty if it has no such files.

    Raises:
        UserError: as `refuse_code`.
        Exception: any error of safetensors for a damaged file.
    """
    path = safe_place(place)
    weights = read_json(path, INDEX).get("weight_map", {})
    names = sorted(set(weights.values())) if find_file(path, WEIGHTS) is None else [WEIGHTS]
    shapes = []
    for name in names:
        local = find_file(path, name)
        if local is not None:
            with safe_open(local, "pt") as file:
                tensors = file.keys()
                shapes += [tuple(file.get_slice(name).get_shape()) for name in tensors]
    return shapes


def safe_place(place: str | Path) -> str:
    """Resolve the place of a model, and check it with `refuse_code`.

    Raises:
        UserError: as `refuse_code`.
        OSError: the place is neither a folder nor a hub name, or the hub cannot be reached.
    """
    path = model_path(place)
    if Path(path).is_dir():
        refuse_code(path)
    elif not _HUB_NAME.fullmatch(path):
        raise OSError("there is no such folder")
    else:
        if not isinstance(try_to_load_from_cache(path, CONFIG), str):
            _check_hub()
        _refuse_code_once(path)
    return path


@cache
def _check_hub() -> None:
    """Check once that the hub answers. Its client would try again for half a minute.

    Raises:
        OSError: it does not.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_PATIENCE)
    except Exception as error:  # of the client or of the network
        raise OSError(
            f"there is no such folder, and {constants.ENDPOINT} cannot be reached"
        ) from error


def refuse_code(path: str) -> None:
    """Refuse a model that would run its own code, or read files outside its folder.

    Args:
        path: a folder or a hub name.

    Raises:
        UserError: a setting asks for code or for files elsewhere, a file of settings is damaged or
            too large, or the folder holds an adapter, a pipe or a device.
    """
    _refuse_devices(Path(path))
    for name in SETTINGS:
        settings = read_json(path, name)
        for setting, problem in _suspects(settings):
            raise UserError(
                f"the model {path!r} {problem} ({setting!r} in its {name}): use a model without "
                "this setting"
            )
        for setting in _counts(name):
            count = settings.get(setting)
            count = len(count) if isinstance(count, dict) else count
            if isinstance(count, int | float) and count > _MAX_NAMES:
                raise UserError(
                    f"the {name} of {path} is not valid: its {setting} is {count:,}, more than "
                    f"{_MAX_NAMES:,}."
                )
    if find_file(path, ADAPTER):
        raise UserError(
            f"{path!r} holds an adapter, not a model ({ADAPTER}): merge it into its base model "
            "with peft's merge_and_unload(), and save the merged model."
        )
    weights = read_json(path, INDEX).get("weight_map", {})
    for name in sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else ():
        if not _is_name(name) or not name.endswith(".safetensors"):
            raise UserError(
                f"the model {path!r} names weights in {name[:100]!r} ({INDEX}): a2d reads "
                "safetensors files in the model's folder only."
            )


def _is_name(name: object) -> bool:
    """Check for the name of a file without a folder."""
    return isinstance(name, str) and PurePosixPath(name).name == name and "\\" not in name


def _counts(name: str) -> tuple[str, ...]:
    """Settings in the file `name` from which libraries build names before any other check.

    The value of such a setting is a number of names, or a dictionary of names.
    """
    if name == "tokenizer_config.json":
        families = FAMILIES.values()
        settings = (s for each in families for s in (*each.named_tokens, *each.filler_tokens))
        return ("added_tokens_decoder", *settings)
    return ("num_labels", "id2label") if name == CONFIG else ()


_refuse_code_once = cache(refuse_code)


def _refuse_devices(folder: Path) -> None:
    """Refuse a folder with a pipe or a device, whose reading may never end."""
    for place in sorted(folder.glob("*")):
        if place.suffix in _FORMATS and place.exists() and not (place.is_file() or place.is_dir()):
            raise UserError(f"{place} is a pipe or a device, not a file: remove it.")


def _suspects(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield settings that a2d refuses, each with the problem as a predicate.

    Most of them make transformers import code that the model brings or names.
    """
    if settings.get("auto_map"):
        yield "auto_map", "asks to run code that comes with it, which a2d never does"
    if settings.get("attribute_map"):
        yield "attribute_map", "renames its settings, so that a2d cannot check them"
    if settings.get("transformers_weights"):
        yield "transformers_weights", f"names files of weights, and a2d reads {WEIGHTS} only"
    names = settings.get("fast_tokenizer_files") or []
    if not isinstance(names, list) or not all(_is_name(name) for name in names):
        yield "fast_tokenizer_files", "names tokenizer files outside its folder"
    if settings.get("quantization_config"):
        yield "quantization_config", "is quantised, and a2d reads models in 16 or 32 bits"
    for key, value in settings.items():
        if "_implementation" in key and "/" in str(value):
            yield key, "asks to download code from the hub, which a2d never does"


def read_json(path: str, name: str) -> dict[str, Any]:
    """Read a JSON object of a model; empty if the file is missing.

    Raises:
        UserError: the file is damaged.
    """
    place = find_file(path, name)
    if place is None:
        return {}
    file = Path(place)
    try:
        if file.stat().st_size > _MAX_JSON:
            raise ValueError(f"it is larger than {_MAX_JSON:,} bytes")
        value = json.loads(file.read_text("utf-8"), parse_constant=_refuse_constant)
        if not isinstance(value, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"the {name} of {path} is damaged: download or save it again ({first_line(error)})."
        ) from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a finite number")


def find_file(path: str, name: str) -> str | None:
    """Local path of one of a model's files, downloaded if needed; None if there is no such file.

    Raises:
        OSError: there is no such model, or the hub cannot be reached. Only `CONFIG`, which is read
            first, raises it: the hub is asked again for half a minute for every file.
    """
    try:
        file: str | None = cached_file(path, name)
    except OSError:
        if name == CONFIG:
            raise
        return None
    return file
