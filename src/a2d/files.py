"""Atomic writing of files and folders, and manifests that reveal damaged folders.

A finished folder holds a manifest with the checksum of every file. The manifest is written last, so
that a folder without a manifest is incomplete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any

from a2d.errors import UserError

MANIFEST = "manifest.json"

NAME = r"\w[\w.+-]*"
"""Regular expression of names in recipes, most of which are also the names of folders."""

MAX_NAME = 180
"""Longest name, in bytes of UTF-8: file names have at most 255, and some contain this name."""

MODEL_SUFFIXES = (".bin", ".json", ".model", ".safetensors", ".spm", ".txt")
"""Suffixes of the files of a model and its tokenizer."""


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: an interruption leaves the whole file or the old one.

    Raises:
        UserError: a pipe or a device is in its place.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is not a regular file: choose another name.")
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # of an interrupted attempt; a link is not followed
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Make a folder atomically: an interruption leaves no folder.

    Args:
        folder: the folder to make; it must not exist.

    Yields:
        Path of a temporary folder beside it, for the caller to make and fill. It is renamed to
        `folder` at the end.
    """
    with suppress(FileNotFoundError):
        os.lstat(folder)  # refuses a name that is too long before any work
    partial = folder.with_name(f".{token_hex(8)}")
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
    """Remove a folder, if it still exists, when this process ends, even if it is killed.

    Returns:
        The process that waits for the end of this one and removes the folder, because a killed
        process can remove nothing; None on systems other than POSIX.
    """
    if os.name != "posix":
        return None
    remove = ["/bin/sh", "-c", 'cat; rm -rf -- "$0"', str(folder.absolute())]
    # No output is inherited: it may be closed, or a reader may wait for its end.
    remover = subprocess.Popen(
        remove,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _removers.append(remover)
    return remover


_removers: list[subprocess.Popen[bytes]] = []  # a deleted Popen would close its process's input


@cache
def temporary_folder() -> str:
    """Return a folder that is deleted when this process ends, however it ends."""
    folder = mkdtemp(prefix="a2d-")
    remove_at_end(Path(folder))
    return folder


def existing_parent(folder: Path) -> Path:
    """Find the folder itself or its nearest parent that exists."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def require_folder(folder: Path) -> None:
    """Check that a place is a folder, or that folders can be made down to it.

    Raises:
        UserError: a file, or a link to nothing, is in the way.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UserError(
            f"{place} is not a folder, and the run needs one there: move it away, or choose "
            "another --output."
        )


def require_space(folder: Path, needed: int) -> None:
    """Check that the disk has enough free space.

    Args:
        folder: folder of the files to write. It need not exist: its nearest existing parent counts.
        needed: size of the files, in bytes.

    Raises:
        UserError: less space is free.
    """
    free = shutil.disk_usage(existing_parent(folder)).free
    if free < needed:
        raise UserError(
            f"not enough disk space: the run needs about {size_in_words(needed)} under {folder}, "
            f"and {size_in_words(free)} are free. Free some, or choose another --output."
        )


def check_output(path: Path, overwrite: bool, stream: bool = False) -> None:
    """Refuse an output file that cannot be written, before there is anything to write.

    Args:
        path: the file.
        overwrite: whether an existing file may be replaced.
        stream: whether the output may also be a pipe or a device.

    Raises:
        UserError: it is a folder, it exists and `overwrite` is False, or its folder does not exist.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the path of a file.")
    exists = path.exists()
    if exists and not path.is_file() and not stream:
        raise UserError(f"{path} is not a regular file: choose another name.")
    dangling = path.is_symlink() and not exists
    if (path.is_file() or dangling) and not overwrite:
        raise UserError(f"{path} exists already: choose another name, or add --overwrite.")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}: create it, or choose another.")


def size_in_words(size: int) -> str:
    """Write a number of bytes in MB or GB, with at least two significant digits.

    Example:
        >>> [size_in_words(size) for size in (140_000_000, 94_100_000, 31_400_000_000, 999)]
        ['140 MB', '94 MB', '31 GB', '0.0010 MB']
    """
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    value = size / unit
    return f"{value:,.0f} {name}" if value >= 10 else f"{value:#.2g} {name}"


def seal(folder: Path, without: Collection[str] = (), owner: str | None = None) -> None:
    """Write the manifest of a folder: the SHA-256 of every file in the folder and its subfolders.

    Args:
        folder: a folder that is complete except for the manifest.
        without: names of files and subfolders to leave out, because they may still change.
        owner: fingerprint of the settings that the folder was made from.
    """
    sums = {str(path.relative_to(folder)): digest(path) for path in _files(folder, without)}
    manifest = {"files": sums, "owner": owner}
    text = json.dumps(manifest | {"sum": _sum(manifest)}, indent=1) + "\n"
    write_text(folder / MANIFEST, text)


def damage(
    folder: Path, only: Collection[str] | None = None, owner: str | None = None
) -> str | None:
    """Compare a folder with its manifest. Files that the manifest does not name are ignored.

    Args:
        folder: a folder that `seal` wrote a manifest for.
        only: names of the files to compare; None: all.
        owner: fingerprint that the folder must have; None accepts any.

    Returns:
        Description of the first problem, with the file's name; None for an intact folder.
    """
    path = folder / MANIFEST
    if not path.exists():
        return f"{MANIFEST} is missing"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        intact = manifest.pop("sum") == _sum(manifest)
        sums = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
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
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read, or is a pipe or a device, whose reading may never end.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(place: str) -> str:
    """Identifier of a model, for fingerprints.

    Args:
        place: folder or hub name of the model.

    Returns:
        For a folder, a hash of the model's and the tokenizer's files; for a hub model, its name.
    """
    folder = Path(place)
    if not folder.is_dir():
        return place
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix in MODEL_SUFFIXES)
    return _sum({path.name: digest(path) for path in files})[:16]


def set_aside(folder: Path, ending: str = "damaged") -> Path:
    """Rename a folder to `<folder>.<ending>`, which replaces an earlier one."""
    place = folder.with_name(f"{folder.name}.{ending}")
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
