"""Text of a run: reading of the corpus, cleaning of its training part, and checks."""

from __future__ import annotations

import gc
import hashlib
import logging
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from a2d.errors import UserError
from a2d.quoting import shorten
from a2d.runs.recipe import Recipe
from a2d.runs.settings import CorpusSettings
from a2d.text.cleaning import CleaningReport, clean
from a2d.text.corpus import iterate_corpus, iterate_with_places, store_corpus
from a2d.text.held_out import hold_out
from a2d.text.identification import count_other_languages, languages_to_check
from a2d.text.known import KnownTranslations
from a2d.text.monolingual import clean_text, iterate_text
from a2d.text.pairs import Pair
from a2d.text.parts import usable_cores
from a2d.text.storage import StoredPairs, tables_of

logger = logging.getLogger(__name__)

_MIN_HELD_OUT = 20
"""Smallest held-out set, in pairs, that a2d makes."""

_MIN_COVERAGE = 0.5
"""Smallest share of the training sources that existing translations must cover."""


class Splits(NamedTuple):
    """A corpus whose training part is cleaned.

    Attributes:
        train, valid, test: pairs of source and reference.
        cleaning: numbers of read and dropped training pairs, by rule.
        warnings: warnings of the reading.
        monolingual: cleaned monolingual text, as pairs with an empty target.
        monolingual_cleaning: the same numbers for it; None without monolingual text.
        translations: translations by a teacher that a2d cannot load, if the recipe names any.
        files: `valid` or `test` → file of each pair; without sets that come from one file.
    """

    train: Sequence[Pair]
    valid: list[Pair]
    test: list[Pair]
    cleaning: CleaningReport
    warnings: tuple[str, ...] = ()
    monolingual: Sequence[Pair] = ()
    monolingual_cleaning: CleaningReport | None = None
    translations: KnownTranslations | None = None
    files: Mapping[str, Sequence[str]] = {}

    @property
    def fingerprint(self) -> str:
        """Hash of all parallel text."""
        return text_hash(self.train, self.valid, self.test)

    @property
    def learnable(self) -> Sequence[Pair]:
        """All text that students learn from, as pairs: training pairs and monolingual text."""
        if not self.monolingual:
            return self.train
        return StoredPairs(chain(self.train, self.monolingual))

    def has_translations(self, split: str) -> bool:
        """Return whether the teacher's translations of `valid` or `test` exist or can be made."""
        pairs: list[Pair] = getattr(self, split)
        table = self.translations
        return table is None or all(pair.source in table for pair in pairs)


def text_hash(*splits: Sequence[Pair]) -> str:
    """Hash sets of sentence pairs, and the ends of the sets."""
    digest = hashlib.sha256()
    for split in splits:
        for part in tables_of(split):
            digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def read_splits(recipe: Recipe) -> Splits:
    """Read the recipe's corpus and clean its training part.

    Raises:
        UserError: a part is missing, malformed, or empty after cleaning.
    """
    gc.freeze()  # the collector would examine all of PyTorch's objects for every new million pairs
    corpus = recipe.corpus
    languages = corpus.source_language, corpus.target_language
    rules = corpus.cleaning.model_dump(exclude={"language"})
    rules["languages"] = languages_to_check(corpus.cleaning.language, languages)
    held_out, files = {}, {}
    for name in ("valid", "test"):
        if (spec := getattr(corpus, name)) is not None:
            located = list(iterate_with_places(spec, name, languages))
            held_out[name] = _complete_pairs([pair for _, pair in located], name)
            files[name] = [place for place, pair in located if all(pair)]
    if rules["languages"] is not None:
        for name, pairs in held_out.items():
            _check_languages(name, pairs, languages)
    raw, starts = store_corpus(corpus.train, "train", languages, usable_cores())
    train, cleaning = clean(raw, **rules, processes=usable_cores())
    for name in [name for name in ("test", "valid") if name not in held_out]:
        before = len(train)
        held_out[name], train = _hold_out(name, train)
        files[name] = _files_of(held_out[name], raw, starts)
        cleaning = cleaning.plus("similar_to_held_out", before - len(held_out[name]) - len(train))
    if corpus.limit is not None and corpus.limit < len(train):
        cleaning = cleaning.plus("beyond_limit", len(train) - corpus.limit)
        sample = random.Random(0).sample(range(len(train)), corpus.limit)
        train = StoredPairs(train[index] for index in sample)
    if not train:
        raise UserError(f"train: cleaning leaves no pair ({cleaning.as_dict()}): loosen its rules.")
    files = {name: places for name, places in files.items() if len(set(places)) > 1}
    splits = Splits(train, held_out["valid"], held_out["test"], cleaning, files=files)
    if corpus.monolingual is not None:
        splits = _add_monolingual(splits, corpus, rules["languages"])
    if recipe.teacher.translations is not None:
        translations = iterate_corpus(recipe.teacher.translations, "translations", languages)
        splits = splits._replace(translations=KnownTranslations(translations))
        _check_translations(splits, recipe)
    return splits


def _files_of(
    pairs: Sequence[Pair], corpus: Sequence[Pair], starts: Sequence[tuple[int, str]]
) -> list[str]:
    """Look up the file of each pair; of equal pairs the first one counts, as in cleaning.

    Args:
        pairs: pairs that are part of the corpus.
        corpus: all pairs.
        starts: number of each file's first pair, and the file.
    """
    if len(starts) == 1:
        return [starts[0][1]] * len(pairs)
    numbers = dict.fromkeys(pairs, -1)
    for number, pair in enumerate(corpus):
        if numbers.get(pair) == -1:
            numbers[pair] = number
    firsts = [number for number, _ in starts]
    return [starts[bisect_right(firsts, numbers[pair]) - 1][1] for pair in pairs]


def _add_monolingual(
    splits: Splits, corpus: CorpusSettings, languages: tuple[str, str] | None
) -> Splits:
    """Read and clean the monolingual text; with `languages`, check that it is in the first one."""
    assert corpus.monolingual is not None
    text, report = clean_text(
        iterate_text(corpus.monolingual),
        training=splits.train,
        heldout=chain(splits.valid, splits.test),
        language=None if languages is None else languages[0],
        max_words=corpus.cleaning.max_words,
        min_letters=corpus.cleaning.min_letters,
        deduplicate=corpus.cleaning.deduplicate,
        processes=usable_cores(),
    )
    return splits._replace(monolingual=text, monolingual_cleaning=report)


def _check_translations(splits: Splits, recipe: Recipe) -> None:
    """Refuse translations of too few training sources; warn if a held-out set is incomplete.

    Raises:
        UserError: students learn from the translations, and most training sources have none.
    """
    translations = splits.translations
    assert translations is not None
    if any(method.definition.sequences for method in recipe.methods):
        missing = [pair.source for pair in splits.train if pair.source not in translations]
        if len(missing) > (1 - _MIN_COVERAGE) * len(splits.train):
            raise UserError(
                f"teacher.translations lacks {len(missing):,} of {len(splits.train):,} "
                f"training sources, such as {shorten(missing[0])!r}: are its sources those of "
                "corpus.train, and its columns source and translation?"
            )
    effects = {"valid": "students are not compared with the teacher while they train"}
    effects[recipe.evaluation.split] = "the teacher gets no scores"
    for name, effect in effects.items():
        pairs: list[Pair] = getattr(splits, name)
        count = sum(pair.source not in translations for pair in pairs)
        if count:
            logger.warning(
                "teacher.translations lacks %s of %s sources of corpus.%s: %s.",
                f"{count:,}",
                f"{len(pairs):,}",
                name,
                effect,
            )


def _complete_pairs(pairs: list[Pair], name: str) -> list[Pair]:
    """Drop pairs with an empty side, with a warning, because scores need both sides."""
    complete = [pair for pair in pairs if all(pair)]
    if not complete:
        raise UserError(f"{name}: every pair has an empty side: give a corpus with both.")
    if len(complete) < len(pairs):
        first = next(number for number, pair in enumerate(pairs, 1) if not all(pair))
        logger.warning(
            "%s: %s of %s pairs have an empty side and were left out: the first is pair %s.",
            name,
            f"{len(pairs) - len(complete):,}",
            f"{len(pairs):,}",
            f"{first:,}",
        )
    return complete


def _check_languages(name: str, pairs: list[Pair], languages: tuple[str, str]) -> None:
    """Warn of held-out pairs in other languages, which are kept.

    Raises:
        UserError: source and target seem to be swapped.
    """
    try:
        count = count_other_languages(languages, pairs)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if count:
        logger.warning(
            "%s: %s of %s pairs have a side that looks like another language; they are kept.",
            name,
            f"{count:,}",
            f"{len(pairs):,}",
        )


def _hold_out(name: str, train: StoredPairs) -> tuple[list[Pair], StoredPairs]:
    """Hold out a twentieth of the training pairs, at most 1,000; returns them and the others."""
    count = min(1000, len(train) // 20)
    if count < _MIN_HELD_OUT:
        raise UserError(
            f"{name}: the {len(train):,} training pairs are too few to hold out some of them for "
            f"it (at least {20 * _MIN_HELD_OUT:,} are needed): give corpus.{name} "
            f"(`a2d distill --{name}`)."
        )
    return hold_out(train, count, usable_cores())
