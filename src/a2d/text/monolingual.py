"""Text in the source language alone, for a teacher to translate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from a2d.errors import UserError
from a2d.text.cleaning import CleaningReport, clean, gist
from a2d.text.files import lines, located, missing
from a2d.text.formats import PLAIN, format_of, holds_one_language
from a2d.text.pairs import Entries, Malformed, Pair, normal
from a2d.text.reading import Part, Reading
from a2d.text.storage import StoredPairs

logger = logging.getLogger(__name__)

NAME = "monolingual"

_FAULTLESS = "x"
"""A target that breaks no rule: rules are about pairs."""


def iterate_text(paths: str | Path | Sequence[str | Path]) -> Iterator[str]:
    """Read plain text files, one sentence a line, as `a2d.text.corpus.read_corpus` reads pairs.

    Empty lines are skipped.

    Args:
        paths: one file or several, each also as .gz, .bz2, .xz or .zst.

    Raises:
        UserError: a file is missing, empty, damaged, no plain text, or half of it is malformed.
    """
    try:
        for path in [paths] if isinstance(paths, str | Path) else paths:
            yield from _texts(located(path))
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
) -> tuple[StoredPairs, CleaningReport]:
    """Drop what `a2d.text.cleaning.clean` would drop for its source, and what is known already.

    Args:
        texts: sentences.
        training: pairs whose sources are translated anyway.
        heldout: pairs of validation and test. A sentence that is equal to a source of them but for
            case, numbers, punctuation and spaces is dropped.
        language: the code that texts should be in; None: any.
        max_words, min_letters, deduplicate: as in `clean`.

    Returns:
        Pairs with an empty target, and counts by rule.

    Raises:
        UserError: nothing is left.
    """
    clean_pairs, report = clean(
        (Pair(text, _FAULTLESS) for text in texts),
        max_words=max_words,
        max_ratio=None,
        min_letters=min_letters,
        languages=None if language is None else (language, language),
        deduplicate=deduplicate,
        into=StoredPairs,
    )
    asked = {gist(pair.source) for pair in heldout}
    known = {hash(pair.source) for pair in training}
    counts = {"held_out": 0, "in_training_data": 0}

    def new() -> Iterator[Pair]:
        for text, _ in clean_pairs:
            if gist(text) in asked:
                counts["held_out"] += 1
            elif hash(text) in known:
                counts["in_training_data"] += 1
            else:
                yield Pair(text, "")

    kept = StoredPairs(new())
    report = CleaningReport(report.read, report.dropped | counts, len(kept))
    if not kept:
        raise UserError(f"{NAME}: no sentence is left ({report.as_dict()}): give other text")
    return kept, report


def _texts(path: Path) -> Iterator[str]:
    """The sentences of a file; what is wrong with the whole of it is told at the end."""
    if not path.exists():
        raise missing(path)
    plain = not path.is_dir() and format_of(path).read_two is PLAIN.read_two
    if not (plain and holds_one_language(path)):
        raise UserError(f"{path} is no plain text: give files of one sentence a line, without tabs")
    reading = Reading([str(path)])
    for pair in Part(reading.places, lambda: _entries(path)).read(reading):
        yield pair.source
    if reading.fault:
        raise UserError(reading.fault)
    if not reading.pairs:
        raise UserError(f"{path} is empty: give a text with at least one sentence")
    if warnings := reading.warnings():
        logger.warning("%s: %s", NAME, " ".join(warnings))


def _entries(path: Path) -> Entries:
    for line in lines(path):
        if isinstance(line, Malformed):
            yield line
        elif line.strip():
            yield normal(line, "")
