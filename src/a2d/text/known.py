"""Lookup of existing translations by their source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from a2d.text.pairs import Pair
from a2d.text.storage import StoredPairs


class KnownTranslations:
    """Existing translations of sources by some system, looked up regardless of white space.

    Args:
        pairs: sources with translations; of several translations of a source, the first counts.

    Attributes:
        fingerprint: hash of all the text.

    Example:
        >>> KnownTranslations([Pair("Good  day", "Bom dia")]).find("Good day")
        'Bom dia'
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        # Texts stay on disk; memory holds hashes of the sources only.
        self._pairs = StoredPairs(pairs)
        self._places: dict[int, int] = {}
        digest = hashlib.sha256()
        for place, pair in enumerate(self._pairs):
            digest.update(f"{pair.source}\t{pair.target}\n".encode())
            self._places.setdefault(hash(_key(pair.source)), place)
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of different sources."""
        return len(self._places)

    def __contains__(self, source: str) -> bool:
        """Return whether a source has a translation that is not empty."""
        return bool(self.find(source))

    def find(self, source: str) -> str:
        """Return the translation of a source; "" if there is none."""
        place = self._places.get(hash(_key(source)))
        if place is None:
            return ""
        pair = self._pairs[place]
        return pair.target if _key(pair.source) == _key(source) else ""


def _key(source: str) -> str:
    return " ".join(source.split())
