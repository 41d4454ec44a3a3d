"""The text of a run: read, cleaned where models learn from it, and its leaks told."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from a2d.errors import UserError
from a2d.quoting import shorten
from a2d.runs.recipe import Recipe
from a2d.text.cleaning import CleaningReport, clean, hold_out
from a2d.text.corpus import iterate_corpus, read_corpus
from a2d.text.identification import count_other_languages, languages_to_check
from a2d.text.known import KnownTranslations
from a2d.text.monolingual import clean_text, iterate_text
from a2d.text.pairs import Pair
from a2d.text.storage import StoredPairs

logger = logging.getLogger(__name__)

_FEWEST = 20
"""Pairs that a score is worth computing on."""

_ENOUGH = 0.5
"""Share of the training sources that existing translations must cover."""


class Splits(NamedTuple):
    """A corpus, cleaned where models learn from it, and the warnings of its reading.

    `monolingual` has pairs with an empty target; `monolingual_cleaning` counts what was dropped of
    it. `known` holds the translations of a teacher of whom nothing else is known.
    """

    train: Sequence[Pair]
    valid: list[Pair]
    test: list[Pair]
    cleaning: CleaningReport
    warnings: tuple[str, ...] = ()
    monolingual: Sequence[Pair] = ()
    monolingual_cleaning: CleaningReport | None = None
    known: KnownTranslations | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of all the parallel text."""
        return text_hash(self.train, self.valid, self.test)

    @property
    def learnable(self) -> Sequence[Pair]:
        """All pairs of whose text students read, monolingual text included."""
        if not self.monolingual:
            return self.train
        return StoredPairs(chain(self.train, self.monolingual))

    def translated(self, split: str) -> bool:
        """Whether the teacher's translations of a held-out set are known, or can be made."""
        pairs: list[Pair] = getattr(self, split)
        return self.known is None or all(pair.source in self.known for pair in pairs)


def text_hash(*splits: Iterable[Pair]) -> str:
    """Hash of sentence pairs and of where one set of them ends."""
    digest = hashlib.sha256()
    for split in splits:
        for pair in split:
            digest.update(f"{pair.source}\t{pair.target}\n".encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def read_splits(recipe: Recipe) -> Splits:
    """Read the recipe's corpus and clean its training part.

    Raises:
        UserError: a part is missing, malformed, or empty after cleaning.
    """
    corpus = recipe.corpus
    languages = corpus.source_language, corpus.target_language
    parts = {
        name: _whole(read_corpus(spec, name, languages), name)
        for name in ("valid", "test")
        if (spec := getattr(corpus, name)) is not None
    }
    rules = corpus.cleaning.model_dump(exclude={"language"})
    rules["languages"] = languages_to_check(corpus.cleaning.language, languages)
    if rules["languages"] is not None:
        for name, pairs in parts.items():
            _check_languages(name, pairs, languages)
    raw = StoredPairs(iterate_corpus(corpus.train, "train", languages))
    train, cleaning = clean(raw, **rules, into=StoredPairs)
    for name in [name for name in ("test", "valid") if name not in parts]:
        before = len(train)
        parts[name], train = _held_out(name, train)
        cleaning = cleaning.plus("similar_to_held_out", before - len(parts[name]) - len(train))
    if corpus.limit is not None and corpus.limit < len(train):
        cleaning = cleaning.plus("beyond_limit", len(train) - corpus.limit)
        chosen = random.Random(0).sample(range(len(train)), corpus.limit)
        train = StoredPairs(train[index] for index in chosen)
    if not train:
        raise UserError(f"train: cleaning leaves no pair ({cleaning.as_dict()}): loosen its rules.")
    splits = Splits(train, parts["valid"], parts["test"], cleaning)
    if corpus.monolingual is not None:
        asked: tuple[str, str] | None = rules["languages"]
        text, report = clean_text(
            iterate_text(corpus.monolingual),
            training=train,
            heldout=chain(splits.valid, splits.test),
            language=None if asked is None else asked[0],
            max_words=corpus.cleaning.max_words,
            min_letters=corpus.cleaning.min_letters,
            deduplicate=corpus.cleaning.deduplicate,
        )
        splits = splits._replace(monolingual=text, monolingual_cleaning=report)
    if recipe.teacher.translations is not None:
        name = "translations"
        known = iterate_corpus(recipe.teacher.translations, name, languages)
        splits = splits._replace(known=KnownTranslations(known))
        _check_known(splits, recipe)
    return splits


def _check_known(splits: Splits, recipe: Recipe) -> None:
    """Refuse translations of too few sources; warn where a held-out set is not covered.

    Raises:
        UserError: students are to learn from them, and most training sources have none.
    """
    known = splits.known
    assert known is not None
    if any(method.definition.sequences for method in recipe.methods):
        missing = [pair.source for pair in splits.train if pair.source not in known]
        if len(missing) > (1 - _ENOUGH) * len(splits.train):
            raise UserError(
                f"teacher.translations has none for {len(missing):,} of {len(splits.train):,} "
                f"training sources, as for {shorten(missing[0])!r}: are its sources those of "
                "corpus.train, and its columns source and translation?"
            )
    lost = {"valid": "students are not compared with the teacher while they train"}
    lost[recipe.evaluation.split] = "the teacher gets no scores"
    for name, loss in lost.items():
        pairs: list[Pair] = getattr(splits, name)
        missing = [pair.source for pair in pairs if pair.source not in known]
        if missing:
            logger.warning(
                "teacher.translations has none for %s of %s sources of corpus.%s, so that %s.",
                f"{len(missing):,}",
                f"{len(pairs):,}",
                name,
                loss,
            )


def _whole(pairs: list[Pair], name: str) -> list[Pair]:
    """Those with two sides, which scores need."""
    whole = [pair for pair in pairs if all(pair)]
    if not whole:
        raise UserError(f"{name}: every pair has an empty side: give a corpus with both.")
    if len(whole) < len(pairs):
        first = next(number for number, pair in enumerate(pairs, 1) if not all(pair))
        logger.warning(
            "%s: %s of %s pairs have an empty side and were left out: the first is pair %s.",
            name,
            f"{len(pairs) - len(whole):,}",
            f"{len(pairs):,}",
            f"{first:,}",
        )
    return whole


def _check_languages(name: str, pairs: list[Pair], languages: tuple[str, str]) -> None:
    """Warn of held-out pairs in other languages, which stay.

    Raises:
        UserError: source and target look swapped.
    """
    try:
        others = count_other_languages(languages, pairs)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if others:
        logger.warning(
            "%s: %s of %s pairs have a side that looks like another language; they are kept.",
            name,
            f"{others:,}",
            f"{len(pairs):,}",
        )


def _held_out(name: str, train: StoredPairs) -> tuple[list[Pair], StoredPairs]:
    count = min(1000, len(train) // 20)
    if count < _FEWEST:
        raise UserError(
            f"{name}: the {len(train):,} training pairs are too few to hold out some of them for "
            f"it ({20 * _FEWEST:,} would do): give corpus.{name} (`a2d distill --{name}`)."
        )
    return hold_out(train, count, into=StoredPairs)
