"""Files that are all there or not at all, and finished folders whose damage is noticed.

A finished folder holds a manifest, written last, with the checksum of every file. A folder without
one was left while it was being written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from a2d.errors import UserError

MANIFEST = "manifest.json"

_OF_MODELS = (".bin", ".json", ".model", ".safetensors", ".spm", ".txt")
"""Endings of the files that make a model and its tokenizer."""


def write_text(path: Path, text: str) -> None:
    """Write a file that is either all there or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that is either all there or not at all.

    Args:
        folder: the folder, which does not exist.

    Yields:
        The name of a folder beside it, not made yet, that is renamed at the end.
    """
    partial = folder.with_name(f".{folder.name}.{token_hex(4)}")
    remover = remove_at_end(partial)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if remover is not None:
            _removers.remove(remover)
            remover.communicate()


def remove_at_end(folder: Path) -> subprocess.Popen[bytes] | None:
    """Remove a folder when this process ends, however it does, if it is there then.

    Returns:
        A second process, which waits for the end of this one, since a killed one can remove
        nothing; None where the system has no such.
    """
    if os.name != "posix":
        return None
    remove = ["/bin/sh", "-c", 'cat; rm -rf -- "$0"', str(folder.absolute())]
    # Its output is its own: ours may be closed, or somebody may wait for its end.
    remover = subprocess.Popen(
        remove,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _removers.append(remover)
    return remover


_removers: list[subprocess.Popen[bytes]] = []  # at their end they would close their input


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start what the disk cannot hold.

    Args:
        folder: where the files will go; its nearest existing parent is asked.
        needed: bytes.

    Raises:
        UserError: less is free.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"no disk space: the run needs about {size_in_words(needed)} under {folder}, and "
            f"{size_in_words(free)} are free. Free some, or choose another --output."
        )


def size_in_words(size: int) -> str:
    """A number of bytes with at least two digits that count.

    Example:
        >>> [size_in_words(size) for size in (140_000_000, 94_100_000, 31_400_000_000, 999)]
        ['140 MB', '94 MB', '31 GB', '0.0010 MB']
    """
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    value = size / unit
    return f"{value:,.0f} {name}" if value >= 10 else f"{value:#.2g} {name}"


def seal(folder: Path, without: Collection[str] = (), owner: str | None = None) -> None:
    """Write the manifest of a folder: the SHA-256 of every file in it and below it.

    Args:
        folder: complete, but for the manifest.
        without: names of what in it may still change or go.
        owner: fingerprint of what the folder was made from.
    """
    sums = {str(path.relative_to(folder)): digest(path) for path in _files(folder, without)}
    manifest = {"files": sums, "owner": owner}
    text = json.dumps(manifest | {"sum": _sum(manifest)}, indent=1) + "\n"
    write_text(folder / MANIFEST, text)


def damage(
    folder: Path, only: Collection[str] | None = None, owner: str | None = None
) -> str | None:
    """Compare a folder with its manifest. Files that the manifest does not name are not looked at.

    Args:
        folder: what `seal` was called with.
        only: the names to compare; all by default.
        owner: the fingerprint that the folder must have; None accepts any.

    Returns:
        What is wrong, with the name of the first such file; None if nothing is.
    """
    path = folder / MANIFEST
    if not path.exists():
        return f"{MANIFEST} is missing"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        whole = manifest.pop("sum") == _sum(manifest)
        sums = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        return f"{MANIFEST} is damaged"
    if owner is not None and manifest["owner"] != owner:
        return "it was made from other settings"
    for name, expected in sums.items():
        if only is None or name in only:
            try:
                if digest(folder / name) != expected:
                    return f"{name} is damaged"
            except FileNotFoundError:
                return f"{name} is missing"
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
    return None


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is a pipe or a device, whose reading may have no end.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(place: str) -> str:
    """What tells one model from another.

    Returns:
        For a folder a hash of the files in it that models and tokenizers consist of; for a model on
        the hub its name.
    """
    folder = Path(place)
    if not folder.is_dir():
        return place
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix in _OF_MODELS)
    return _sum({path.name: digest(path) for path in files})[:16]


def set_aside(folder: Path) -> Path:
    """Rename a damaged folder to `<folder>.damaged`, in the place of one that was there before."""
    place = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(place, ignore_errors=True)
    os.replace(folder, place)
    return place


def _files(folder: Path, without: Collection[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in without or path.name == MANIFEST:
            continue
        if path.is_dir():
            yield from (below for below in sorted(path.rglob("*")) if below.is_file())
        else:
            yield path


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
