"""Stages of a run: each fills one folder, once, and knows when it has been done.

A stage works in `<folder>.partial` and renames it when it is finished, so that a folder without
that ending is always complete, however the run was killed. `stage.json` in it holds the settings
it was made from; a folder made from others is never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2d.errors import UserError

RECORD = "stage.json"

_HASH = re.compile("[0-9a-f]{16}")

_NOTHING = type("Nothing", (), {"__repr__": lambda self: "not set"})()


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Args:
        folder: where its outputs go.
        settings: everything that its outputs depend on, JSON-serialisable; what it reads from
            earlier stages is named by their fingerprints.
    """

    folder: Path
    settings: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the settings: equal where outputs must be equal."""
        text = json.dumps(self.settings, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def done(self) -> bool:
        """Whether the outputs are there, complete."""
        return self.folder.is_dir()

    @property
    def partial(self) -> Path:
        """Where a half-done stage keeps what it has."""
        return self.folder.with_name(self.folder.name + ".partial")

    def check(self) -> None:
        """Make sure that what is there belongs to these settings.

        Raises:
            UserError: the folder was made from other settings, or not by a stage at all.
        """
        for folder in (self.folder, self.partial):
            if not folder.exists():
                continue
            try:
                found = json.loads((folder / RECORD).read_text("utf-8"))
            except (OSError, ValueError):
                if folder == self.partial:  # killed before it wrote its record: nothing is lost
                    continue
                raise UserError(
                    f"{folder} was not made by a2d: choose another --output, or move it away."
                ) from None
            # Compared as JSON reads them: tuples become lists there.
            expected = json.loads(json.dumps(self.settings))
            if found != expected:
                raise UserError(
                    f"{folder} belongs to another run ({_difference(found, expected)}): choose "
                    "another --output, or delete it."
                )

    @contextmanager
    def work(self, keep: str | None = None) -> Iterator[Path]:
        """Yield the folder to fill, with whatever an interrupted attempt left in it.

        Bad input leaves no trace: what is mended must not be taken for another run.

        Args:
            keep: pattern of files (`shard-*`) that cost much; bad input leaves the folder alone
                once there are such files.
        """
        begun = self.partial.exists()
        self.partial.mkdir(parents=True, exist_ok=True)
        record = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
        write_text(self.partial / RECORD, record)
        try:
            yield self.partial
        except UserError:
            costly = keep is not None and any(self.partial.glob(keep))
            if not (begun or costly):
                shutil.rmtree(self.partial)
            raise
        os.replace(self.partial, self.folder)


def write_text(path: Path, text: str) -> None:
    """Write a file that is either all there or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


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
            f"no disk space: the run needs about {needed / 1e9:.1f} GB under {folder}, and "
            f"{free / 1e9:.1f} GB are free. Free some, or choose another --output."
        )


def _difference(found: Any, expected: Any, key: str = "") -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted(found.keys() | expected.keys()):
            there, here = found.get(name, _NOTHING), expected.get(name, _NOTHING)
            if there != here:
                return _difference(there, here, f"{key}.{name}".strip("."))
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (found, expected)):
        return f"its {key} differs"
    return f"{key} is {found!r} there, {expected!r} here"
