"""Text in the source language, for a teacher to translate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from a2d.errors import UserError
from a2d.text.cleaning import CleaningReport, clean
from a2d.text.files import lines, missing_file
from a2d.text.formats import PLAIN, format_of, holds_one_language
from a2d.text.gists import gist
from a2d.text.pairs import Entries, Malformed, Pair, normal_pair
from a2d.text.reading import Reader, ReadingReport
from a2d.text.remote import input_path, matching
from a2d.text.storage import StoredPairs

logger = logging.getLogger(__name__)

NAME = "monolingual"

_PLACEHOLDER_TARGET = "x"
"""Target of a sentence while it is cleaned: the rules need pairs, and this one breaks none."""


def iterate_text(paths: str | Path | Sequence[str | Path]) -> Iterator[str]:
    """Read plain text files, one sentence per line, as `a2d.text.corpus.read_corpus` reads pairs.

    Empty lines are skipped.

    Args:
        paths: one file or several, each optionally compressed (.gz, .bz2, .xz, .zst), or patterns
            such as `part-*.txt`.

    Raises:
        UserError: a file is missing, empty, damaged or not plain text, or half of its lines or more
            are malformed.
    """
    try:
        patterns = [paths] if isinstance(paths, str | Path) else paths
        for path in chain.from_iterable(map(matching, patterns)):
            yield from _texts(input_path(path))
    except UserError as error:
        raise UserError(f"{NAME}: {error}") from error


def clean_text(
    texts: Iterable[str],
    *,
    training: Iterable[Pair],
    heldout: Iterable[Pair],
    language: str | None,
    max_words: int | None,
    min_letters: float | None,
    deduplicate: bool | Literal["near"],
    processes: int = 1,
) -> tuple[StoredPairs, CleaningReport]:
    """Drop sentences that `a2d.text.cleaning.clean` would drop, and known sources.

    Args:
        texts: sentences.
        training: pairs whose sources are translated anyway.
        heldout: pairs of validation and test. A sentence is dropped if it differs from one of their
            sources only in case, numbers, punctuation and spaces.
        language: code of the language that the texts should be in; None: no check.
        max_words, min_letters, deduplicate, processes: as in `clean`.

    Returns:
        Pairs with an empty target, and counts by rule.

    Raises:
        UserError: no sentence is left.
    """
    cleaned_pairs, report = clean(
        StoredPairs(Pair(text, _PLACEHOLDER_TARGET) for text in texts),
        max_words=max_words,
        max_ratio=None,
        min_letters=min_letters,
        languages=None if language is None else (language, language),
        deduplicate=deduplicate,
        processes=processes,
    )
    heldout_gists = {gist(pair.source) for pair in heldout}
    training_sources = {hash(pair.source) for pair in training}
    counts = {"held_out": 0, "in_training_data": 0}

    def new_pairs() -> Iterator[Pair]:
        for text, _ in cleaned_pairs:
            if gist(text) in heldout_gists:
                counts["held_out"] += 1
            elif hash(text) in training_sources:
                counts["in_training_data"] += 1
            else:
                yield Pair(text, "")

    remaining = StoredPairs(new_pairs())
    report = CleaningReport(report.read, report.dropped | counts, len(remaining))
    if not remaining:
        raise UserError(f"{NAME}: no sentence is left ({report.as_dict()}): give other text")
    return remaining, report


def _texts(path: Path) -> Iterator[str]:
    """Yield the sentences of a file; errors and warnings about the whole file come at the end."""
    if not path.exists():
        raise missing_file(path)
    plain = not path.is_dir() and format_of(path).read_two is PLAIN.read_two
    if not (plain and holds_one_language(path)):
        raise UserError(f"{path} is not plain text: give files of one sentence per line, no tabs")
    reading = ReadingReport([str(path)])
    for pair in Reader(reading.places, lambda: _entries(path)).read(reading):
        yield pair.source
    if reading.refusal:
        raise UserError(reading.refusal)
    if not reading.pairs:
        raise UserError(f"{path} is empty: give a text with at least one sentence")
    if warnings := reading.warnings():
        logger.warning("%s: %s", NAME, " ".join(warnings))


def _entries(path: Path) -> Entries:
    for line in lines(path):
        if isinstance(line, Malformed):
            yield line
        elif line.strip():
            yield normal_pair(line, "")
