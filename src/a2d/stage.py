"""Stages of a run: each stage fills one folder once.

A stage works in `<folder>.partial` and renames that folder when it is finished. A folder without
the ending `.partial` is therefore complete, even if the run was killed. The file `stage.json` in
the folder holds the stage's settings; a finished folder with other settings is never changed. The
folder's manifest (`a2d.files`) reveals damage.
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
from typing import Any, ClassVar

from a2d.errors import UserError
from a2d.files import MANIFEST, damage, require_folder, seal, set_aside, write_text

logger = logging.getLogger(__name__)

RECORD = "stage.json"

_HASH = re.compile(r"\b([0-9a-f]{8})(?:[0-9a-f]{8}|[0-9a-f]{56})\b")

_NOT_SET = type("NotSet", (), {"__repr__": lambda self: "not set"})()


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        folder: folder of the outputs.
        settings: everything that the outputs depend on, serialisable as JSON. The inputs from
            earlier stages are represented by the fingerprints of these stages.
        expensive: pattern of files that an unfinished stage keeps, such as checkpoints.
    """

    expensive: ClassVar[str] = ""

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

        An unfinished folder of other settings passes if it holds nothing expensive, or if only a
        plugin differs: `work` starts it anew.

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
            record = _record_in(folder)
            if folder == self.partial and self._can_start_anew(record):
                continue
            if record is None:
                raise UserError(
                    f"{folder} was not made by a2d: choose another --output, or move the folder "
                    "away."
                )
            if record != self._json_settings:
                difference = _difference(record, self._json_settings)
                raise UserError(
                    f"{folder} belongs to another run ({difference}): choose another --output, or "
                    "delete the run's folder."
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

    def _is_expensive(self) -> bool:
        """Check whether the partial folder holds expensive files."""
        return bool(self.expensive) and any(self.partial.glob(self.expensive))

    def _can_start_anew(self, record: Any) -> bool:
        """Check whether the partial folder with this record may make room for a new one."""
        if not isinstance(record, dict) or not self._is_expensive():
            return True
        return _without_plugins(record) == _without_plugins(self._json_settings)

    def _clear(self) -> None:
        """Make room for the stage if its partial folder cannot be continued."""
        record = _record_in(self.partial)
        if record == self._json_settings:
            return
        if record is None and all(path.name.startswith(RECORD) for path in self.partial.iterdir()):
            return  # killed before the record was written
        if record is not None and not self._is_expensive():
            shutil.rmtree(self.partial)
            return
        logger.warning(
            "%s cannot be continued, because %s. The folder is renamed to %s, and the stage starts "
            "anew.",
            self.partial,
            f"its {RECORD} is damaged" if record is None else "its plugin has changed",
            set_aside(self.partial).name,
        )

    @contextmanager
    def work(self, scratch: str = "") -> Iterator[Path]:
        """Yield the folder to fill, which may hold the outputs of an interrupted attempt.

        A `UserError` removes a new folder, unless it holds expensive files.

        Args:
            scratch: name of a subfolder that is removed when the stage is finished.
        """
        if self.partial.exists():
            self._clear()
        existed = self.partial.exists()
        self.partial.mkdir(parents=True, exist_ok=True)
        record = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
        write_text(self.partial / RECORD, record)
        try:
            yield self.partial
        except UserError:
            if not (existed or self._is_expensive()):
                shutil.rmtree(self.partial)
            raise
        seal(self.partial, without=(scratch,))
        os.replace(self.partial, self.folder)
        if scratch:
            shutil.rmtree(self.folder / scratch, ignore_errors=True)


def _record_in(folder: Path) -> Any:
    """Read the settings that a folder was made from; None if they are missing or damaged."""
    try:
        return json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _without_plugins(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "plugins"}


def _difference(recorded: Any, current: Any, key: str = "") -> str:
    """Describe the first difference between recorded settings and these."""
    if isinstance(recorded, dict) and isinstance(current, dict):
        for name in sorted(recorded.keys() | current.keys()):
            values = recorded.get(name, _NOT_SET), current.get(name, _NOT_SET)
            if values[0] != values[1]:
                return _difference(*values, f"{key}.{name}".strip("."))
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (recorded, current)):
        return f"its {key} differs"
    return _HASH.sub(r"\1…", f"{key} is {recorded!r} there, {current!r} here")
