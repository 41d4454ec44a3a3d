"""Stages of a run: each fills one folder, once, and knows when it has been done.

A stage works in `<folder>.partial` and renames it when it is finished, so that a folder without
that ending is always complete, however the run was killed. `stage.json` in it holds the settings
it was made from; a folder made from others is never touched. Its manifest (`a2d.files`) shows
whether it is still what it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2d.errors import UserError
from a2d.files import MANIFEST, damage, seal, set_aside, write_text

logger = logging.getLogger(__name__)

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

    @property
    def _recorded(self) -> Any:
        """The settings as JSON reads them: tuples become lists there."""
        return json.loads(json.dumps(self.settings))

    def check(self) -> None:
        """Make sure that what is there belongs to these settings.

        Raises:
            UserError: the folder was made from other settings, or not by a stage at all.
        """
        for folder in (self.folder, self.partial):
            if not folder.exists():
                continue
            if (folder / MANIFEST).exists() and damage(folder, only=(RECORD,)):
                continue  # `restore` sets it aside
            try:
                found = json.loads((folder / RECORD).read_text("utf-8"))
            except (OSError, ValueError):
                if folder == self.partial:  # killed before it wrote its record: nothing is lost
                    continue
                raise UserError(
                    f"{folder} was not made by a2d: choose another --output, or move it away."
                ) from None
            if found != self._recorded:
                difference = _difference(found, self._recorded)
                raise UserError(
                    f"{folder} belongs to another run ({difference}): choose another --output, or "
                    "delete it."
                )

    def restore(self) -> str | None:
        """Set finished outputs aside that are damaged, so that the stage is carried out again.

        Returns:
            What was wrong, in words; None if nothing was.
        """
        wrong = damage(self.folder) if self.done else None
        if wrong is None:
            return None
        place = set_aside(self.folder)
        return f"{self.folder}: {wrong}. It is made again; what was there is in {place.name}."

    def _is_ours(self) -> bool:
        """Whether a half-done stage is of these settings, or there is nothing in it yet."""
        try:
            found = json.loads((self.partial / RECORD).read_text("utf-8"))
        except (OSError, ValueError):
            return not any(not path.name.startswith(RECORD) for path in self.partial.iterdir())
        return bool(found == self._recorded)

    @contextmanager
    def work(self, keep: str | None = None, scratch: str = "") -> Iterator[Path]:
        """Yield the folder to fill, with whatever an interrupted attempt left in it.

        Bad input leaves no trace: what is mended must not be taken for another run.

        Args:
            keep: pattern of files (`shard-*`) that cost much; bad input leaves the folder alone
                once there are such files.
            scratch: name of a folder in it that goes when the stage is finished.
        """
        if self.partial.exists() and not self._is_ours():
            place = set_aside(self.partial)
            logger.warning(
                "%s does not tell what it was made from: its %s is damaged. It is set aside as %s, "
                "and the stage begins anew.",
                self.partial,
                RECORD,
                place.name,
            )
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
        seal(self.partial, without=(scratch,))
        os.replace(self.partial, self.folder)
        if scratch:
            shutil.rmtree(self.folder / scratch, ignore_errors=True)


def _difference(found: Any, expected: Any, key: str = "") -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted(found.keys() | expected.keys()):
            there, here = found.get(name, _NOTHING), expected.get(name, _NOTHING)
            if there != here:
                return _difference(there, here, f"{key}.{name}".strip("."))
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (found, expected)):
        return f"its {key} differs"
    return f"{key} is {found!r} there, {expected!r} here"
