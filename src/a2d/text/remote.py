"""Files of corpora by path, pattern or address (object stores, web servers, the Hub)."""

from __future__ import annotations

import functools
import glob
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import fsspec
from huggingface_hub.constants import HF_HOME

from a2d.errors import UserError, first_line
from a2d.quoting import quoted
from a2d.text.files import expand_path

logger = logging.getLogger(__name__)

_VERSION = ".version"
"""File beside a copy: what the store said of the file's version."""


def input_path(name: object) -> Path:
    """Return the path of a file to read; a file at an address is downloaded first.

    Args:
        name: a path, or an address that fsspec knows, such as `s3://bucket/train.tsv.gz`,
            `https://example.org/train.tmx` or `hf://datasets/NAME/train.parquet`.

    Raises:
        UserError: no file can have this name, or the file cannot be downloaded.
    """
    if is_address(name):
        return _copy(str(name))
    return expand_path(name)


def matching(name: str | Path) -> list[str]:
    """List the files that a pattern such as `train-*.parquet` stands for, in order.

    Args:
        name: a path or an address. Without `*`, or if a file has this very name, it stands for
            itself.

    Raises:
        UserError: no file matches, or the store cannot be asked.
    """
    pattern = str(name)
    if "*" not in pattern or (not is_address(pattern) and expand_path(pattern).exists()):
        return [pattern]
    names = existing(pattern)
    if not names:
        raise UserError(f"no file matches {quoted(pattern)}: check the pattern")
    return names


def is_address(name: object) -> bool:
    """Return whether a name is an address, and not a path."""
    return "://" in str(name)


def existing(pattern: str) -> list[str]:
    """List the files whose names match a pattern, a path or address with `*`, in order.

    Raises:
        UserError: the store cannot be asked.
    """
    if not is_address(pattern):
        return sorted(glob.glob(_only_stars(str(expand_path(pattern))), recursive=True))
    with _asking(pattern, "read"):
        store, place = fsspec.url_to_fs(pattern)
        found = sorted(store.glob(_only_stars(place)))
        return list(map(store.unstrip_protocol, found))


def _only_stars(pattern: str) -> str:
    """Let `*` be the only character of a pattern that stands for others."""
    return glob.escape(pattern).replace("[*]", "*")


def upload(path: Path, address: str) -> str:
    """Copy a file to an address; return the name by which `existing` lists it.

    Raises:
        UserError: the store refuses it.
    """
    with _asking(address, "written"):
        store, place = fsspec.url_to_fs(address)
        store.put_file(str(path), place)
        return str(store.unstrip_protocol(place))


def remove(name: str) -> None:
    """Delete a file by the name that `existing` lists it by.

    Raises:
        UserError: the store refuses it.
    """
    if not is_address(name):
        Path(name).unlink()
        return
    with _asking(name, "deleted"):
        store, place = fsspec.url_to_fs(name)
        store.rm_file(place)


@functools.cache
def _copy(address: str) -> Path:
    """Download a file, unless a copy of its present version is in the cache.

    Raises:
        UserError: the file cannot be downloaded.
    """
    folder = Path(HF_HOME) / "a2d" / hashlib.sha256(address.encode()).hexdigest()[:16]
    version_file = folder / _VERSION
    with _asking(address, "downloaded"):
        store, place = fsspec.url_to_fs(address)
        copy = folder / PurePosixPath(unquote(urlsplit(place).path)).name
        version = store.ukey(place)
        if copy.is_file() and version_file.exists() and version_file.read_text("utf-8") == version:
            return copy
        logger.info("downloading %s", address)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{os.getpid()}"
        try:
            store.get_file(place, str(partial))
            version_file.unlink(missing_ok=True)
            partial.replace(copy)
        finally:
            partial.unlink(missing_ok=True)
        version_file.write_text(version, "utf-8")
    return copy


@contextmanager
def _asking(address: str, action: str) -> Iterator[None]:
    """Describe errors of a store, which was asked for an action.

    Raises:
        UserError: the store, its library or the network fails.
    """
    try:
        yield
    except ImportError as error:  # of the store's library, such as s3fs
        raise UserError(
            f"{quoted(address)} cannot be {action} without its library: {first_line(error)}."
        ) from error
    except Exception as error:  # whatever the stores raise
        raise UserError(
            f"{quoted(address)} cannot be {action} ({first_line(error)}): check the address, the "
            "network and your rights, or give the path of a file."
        ) from error
