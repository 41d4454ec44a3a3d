"""Uploads to the Hugging Face hub: checked before the training, done after it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from a2d.errors import UserError, first_line


def check_hub(name: str) -> str:
    """Check before a training that its upload can succeed.

    Args:
        name: name of a repository on the hub.

    Returns:
        The address and the user, in words.

    Raises:
        UserError: the name is invalid, nobody is logged in, or the hub cannot be reached.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name!r} is not the name of a repository: {first_line(error)}") from error
    if get_token() is None:
        raise UserError("--push-to-hub needs a token of the hub: log in by `hf auth login` first.")
    try:
        user = HfApi().whoami()["name"]
    except Exception as error:  # the network and the hub raise errors of many kinds
        raise UserError(
            f"the hub does not answer, or refuses the token ({first_line(error)}): fix that, or "
            "leave out --push-to-hub and upload later by `hf upload`."
        ) from error
    return f"to https://huggingface.co/{name}, as {user}"


def push(folder: Path, name: str) -> None:
    """Upload a folder to a repository on the hub; create the repository if it does not exist.

    Raises:
        UserError: the upload failed; the folder is complete.
    """
    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # the network and the hub raise errors of many kinds
        raise UserError(
            f"{folder} could not be uploaded to {name!r} ({first_line(error)}): it is "
            "complete, upload it with `hf upload`."
        ) from error
