"""Stages of a run: each stage fills one folder once.

A stage works in `<folder>.partial` and renames that folder when it is finished. A folder without
the ending `.partial` is therefore complete, even if the run was killed. The file `stage.json` in
the folder holds the stage's settings; a folder with other settings is never changed. The folder's
manifest (`a2d.files`) reveals damage.
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
from a2d.files import MANIFEST, damage, require_folder, seal, set_aside, write_text

logger = logging.getLogger(__name__)

RECORD = "stage.json"

_HASH = re.compile("(?:[0-9a-f]{16}|[0-9a-f]{64})")

_NOT_SET = type("NotSet", (), {"__repr__": lambda self: "not set"})()


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        folder: folder of the outputs.
        settings: everything that the outputs depend on, serialisable as JSON. The inputs from
            earlier stages are represented by the fingerprints of these stages.
    """

    folder: Path
    settings: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the settings. Stages with the same fingerprint have the same outputs."""
        text = json.dumps(self.settings, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def done(self) -> bool:
        """True if the outputs are complete."""
        return self.folder.is_dir()

    @property
    def partial(self) -> Path:
        """Folder of an unfinished stage."""
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def _json_settings(self) -> Any:
        """The settings as JSON reads them, with lists in place of tuples."""
        return json.loads(json.dumps(self.settings))

    def check(self) -> None:
        """Check that an existing folder belongs to these settings.

        Raises:
            UserError: the folder was made from other settings, or not by a stage; or a file is in
                its place, or in that of a folder above it.
        """
        for folder in (self.folder, self.partial):
            require_folder(folder)
            if not folder.exists():
                continue
            if (folder / MANIFEST).exists() and damage(folder, only=(RECORD,)):
                continue  # `restore` sets it aside
            try:
                record = json.loads((folder / RECORD).read_text("utf-8"))
            except (OSError, ValueError):
                if folder == self.partial:  # killed before the record was written: nothing is lost
                    continue
                raise UserError(
                    f"{folder} was not made by a2d: choose another --output, or move the folder "
                    "away."
                ) from None
            if record != self._json_settings:
                difference = _difference(record, self._json_settings)
                raise UserError(
                    f"{folder} belongs to another run ({difference}): choose another --output, or "
                    "delete the folder."
                )

    def restore(self) -> str | None:
        """Rename a finished folder that is damaged, so that the stage is done again.

        Returns:
            Description of the damage, for a warning; None if there is none.
        """
        problem = damage(self.folder) if self.done else None
        if problem is None:
            return None
        damaged = set_aside(self.folder)
        return (
            f"{self.folder}: {problem}. The stage is done again; the damaged folder is now "
            f"{damaged.name}."
        )

    def _can_continue(self) -> bool:
        """Check that the partial folder has these settings, or is still empty."""
        try:
            record = json.loads((self.partial / RECORD).read_text("utf-8"))
        except (OSError, ValueError):
            return not any(not path.name.startswith(RECORD) for path in self.partial.iterdir())
        return bool(record == self._json_settings)

    @contextmanager
    def work(self, keep: str | None = None, scratch: str = "") -> Iterator[Path]:
        """Yield the folder to fill, which may hold the outputs of an interrupted attempt.

        A `UserError` removes a new folder: otherwise the corrected settings would not fit it.

        Args:
            keep: pattern of expensive files (`shard-*`); a folder with such files is not removed.
            scratch: name of a subfolder that is removed when the stage is finished.
        """
        if self.partial.exists() and not self._can_continue():
            damaged = set_aside(self.partial)
            logger.warning(
                "The settings of %s are unknown, because its %s is damaged. The folder is renamed "
                "to %s, and the stage starts anew.",
                self.partial,
                RECORD,
                damaged.name,
            )
        existed = self.partial.exists()
        self.partial.mkdir(parents=True, exist_ok=True)
        record = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
        write_text(self.partial / RECORD, record)
        try:
            yield self.partial
        except UserError:
            expensive = keep is not None and any(self.partial.glob(keep))
            if not (existed or expensive):
                shutil.rmtree(self.partial)
            raise
        seal(self.partial, without=(scratch,))
        os.replace(self.partial, self.folder)
        if scratch:
            shutil.rmtree(self.folder / scratch, ignore_errors=True)


def _difference(recorded: Any, current: Any, key: str = "") -> str:
    """Describe the first difference between recorded settings and these."""
    if isinstance(recorded, dict) and isinstance(current, dict):
        for name in sorted(recorded.keys() | current.keys()):
            values = recorded.get(name, _NOT_SET), current.get(name, _NOT_SET)
            if values[0] != values[1]:
                return _difference(*values, f"{key}.{name}".strip("."))
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (recorded, current)):
        return f"its {key} differs"
    return f"{key} is {recorded!r} there, {current!r} here"
