"""Reading of a model's configuration and generation settings, with errors that name the setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig
from transformers.utils.logging import get_verbosity, set_verbosity, set_verbosity_error

from a2d.errors import UserError
from a2d.models.folders import (
    CONFIG,
    GENERATION,
    find_file,
    lacks_resources,
    read_json,
    reading,
    safe_place,
)
from a2d.quoting import quoted

# Models' classes take seconds to import, and exports do not need them.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_config(place: str | Path) -> Any:
    """Read a model's configuration.

    Raises:
        UserError: as `folders.refuse_code`, or transformers cannot use a setting.
        OSError: there is no model, or the hub cannot be reached.
    """
    from transformers import CONFIG_MAPPING

    path = safe_place(place)
    if find_file(path, CONFIG) is None:
        raise OSError(f"it has no {CONFIG}")
    settings = read_json(path, CONFIG)
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        problem = "is missing" if kind is None else f"is {quoted(kind)}, and transformers has none"
        raise UserError(
            f"the {CONFIG} of {place} is not valid: its model_type {problem}; correct it, or "
            "download the model again."
        )

    def use(settings: dict[str, Any]) -> Any:
        return CONFIG_MAPPING[kind].from_dict(settings, name_or_path=path)

    with _using(place, CONFIG, settings, use):
        config = use(settings)
    # These do not describe the model: its caller chooses them.
    config.return_dict, config.dtype, config._attn_implementation = True, None, None
    config.output_attentions = config.output_hidden_states = False
    return config


def empty_model(config: Any, place: str | Path) -> PreTrainedModel:
    """Build a model without memory for its weights.

    Args:
        config: the model's configuration.
        place: folder or hub name of the model, for error messages.

    Raises:
        UserError: transformers cannot use a setting of the configuration.
    """

    from transformers import AutoModelForSeq2SeqLM

    def use(settings: dict[str, Any]) -> PreTrainedModel:
        with torch.device("meta"):
            return AutoModelForSeq2SeqLM.from_config(type(config).from_dict(settings))

    settings = config.to_dict()
    with _using(place, CONFIG, settings, use):
        return use(settings)


def read_generation_config(place: str | Path) -> GenerationConfig:
    """Read a model's generation settings. Older models have them in their config.json.

    Raises:
        UserError: the file is damaged, or transformers cannot use a setting.
    """
    name, settings = _generation_settings(place)
    with _using(place, name, settings, GenerationConfig.from_dict):
        return GenerationConfig.from_dict(settings)


def naming_generation_setting(
    place: str | Path, use: Callable[[GenerationConfig], Any]
) -> AbstractContextManager[None]:
    """Turn an error that a generation setting causes into a `UserError` that names the setting.

    Args:
        place: folder or hub name of the model.
        use: does with some settings what the block does with the model's.
    """
    name, settings = _generation_settings(place)
    return naming_setting(place, name, settings, lambda s: use(GenerationConfig.from_dict(s)))


def generation_file(place: str | Path) -> str:
    """Return the name of the file that holds a model's generation settings."""
    return CONFIG if find_file(safe_place(place), GENERATION) is None else GENERATION


def _generation_settings(place: str | Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the file with a model's generation settings, and the settings."""
    name = generation_file(place)
    if name == CONFIG:
        known = vars(GenerationConfig())
        settings = read_config(place).to_dict()
        return CONFIG, {name: value for name, value in settings.items() if name in known}
    return name, read_json(safe_place(place), name)


@contextmanager
def _using(
    place: str | Path, name: str, settings: Mapping[str, Any], use: Callable[[dict[str, Any]], Any]
) -> Iterator[None]:
    """Turn every error into a `UserError` about the file, and the setting if one is at fault."""
    problem = f"the {name} of {place} is not valid: download or save it again"
    with reading(place, problem), naming_setting(place, name, settings, use):
        yield


@contextmanager
def naming_setting(
    place: str | Path, name: str, settings: Mapping[str, Any], use: Callable[[dict[str, Any]], Any]
) -> Iterator[None]:
    """Turn an error that a setting of a model causes into a `UserError` that names the setting.

    Args:
        place: folder or hub name of the model.
        name: name of the file with the settings.
        settings: the settings.
        use: does with some settings what the block does. The setting without which it works is at
            fault.

    Raises:
        UserError: a setting is at fault. Other errors pass unchanged, as do those from full memory
            or a full disk.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = None if lacks_resources(error) else _problem(settings, use)
        if problem is None:
            raise
        raise UserError(
            f"the {name} of {place} is not valid: transformers cannot use {problem}; correct or "
            "delete it."
        ) from error


def _problem(settings: Mapping[str, Any], use: Callable[[dict[str, Any]], Any]) -> str | None:
    """Describe the setting without which `use` works; None if it never works."""
    # Tokens come last: without an end-of-sentence token, minimum lengths are not read.
    tokens = {name: value for name, value in settings.items() if name.endswith("_token_id")}
    with _silence():
        for name in sorted(settings, key=lambda name: name in tokens):
            if _works(use, {other: value for other, value in settings.items() if other != name}):
                return f"its {name}, {quoted(settings[name])}"
        return "several of its settings" if _works(use, tokens) else None


def _works(use: Callable[[dict[str, Any]], Any], settings: dict[str, Any]) -> bool:
    try:
        use(settings)
    except Exception:  # of any library
        return False
    return True


@contextmanager
def _silence() -> Iterator[None]:
    """Switch off transformers' warnings."""
    before = get_verbosity()
    set_verbosity_error()
    try:
        yield
    finally:
        set_verbosity(before)
