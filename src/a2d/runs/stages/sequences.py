"""Stages of sequence-level distillation (Kim & Rush 2016, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from a2d.errors import UserError
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.parts import DISTILLED, MONOLINGUAL
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.shards import SHARDS
from a2d.runs.stages.models import Teacher, translator_of
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.text.batching import lengths, tokenise
from a2d.text.pairs import Pair
from a2d.text.parts import usable_cores
from a2d.text.storage import StoredPairs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sequences(RunStage):
    """Sources with the teacher's translations as references, as token ids.

    Attributes:
        part: `distilled` (the training source) or `monolingual` (monolingual text).
    """

    expensive: ClassVar = SHARDS

    part: str

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List a stage for each text whose translations students learn from."""
        recipe = run.recipe
        if not any(method.definition.sequences for method in recipe.methods):
            return []
        teacher = run.one(Teacher)
        settings: dict[str, Any] = {
            "vocabulary": run.one(Vocabulary).fingerprint,
            "teacher": teacher.fingerprint,
            "longest": recipe.training.max_tokens,
        }
        if not teacher.foreign:
            settings |= recipe.evaluation.model_dump(include={"beams", "max_tokens"})
            settings |= recipe.sequences.model_dump(exclude_defaults=True)
        stages = [cls(run.folder / DISTILLED, settings, DISTILLED)]
        if run.corpus.monolingual:
            settings = {**settings, "text": run.corpus.monolingual}
            stages.append(cls(run.folder / MONOLINGUAL, settings, MONOLINGUAL))
        return stages

    def pairs(self, run: Run) -> Sequence[Pair]:
        """Return the pairs whose sources are translated; monolingual text has empty targets."""
        return run.splits.train if self.part == DISTILLED else run.splits.monolingual

    def make(self, run: Run) -> None:
        """Translate the sources, and write sources and translations as token ids.

        Raises:
            UserError: the teacher has no translation of any source.
        """
        pairs = self.pairs(run)
        with self.work() as folder:
            translations = translator_of(run)(pairs, folder)
            targets = zip(pairs, translations, strict=True)
            distilled_pairs = StoredPairs(
                Pair(pair.source, target) for pair, target in targets if target
            )
            count = len(pairs) - len(distilled_pairs)
            if not distilled_pairs:
                raise UserError(f"{self.part}: the teacher has no translation of any source.")
            if count:
                run.warn(
                    f"{self.part}: the teacher has no translation of {count:,} of {len(pairs):,} "
                    "sources, which are left out."
                )
            tokenizer = load_tokenizer(run.one(Vocabulary).folder)
            data = tokenise(distilled_pairs, tokenizer, usable_cores())
            # Endless translations of weak teachers are useless, and do not fit into a batch.
            longest = run.recipe.training.max_tokens
            indices = np.flatnonzero(lengths(data).max(axis=1) <= longest)
            data.select(indices).save_to_disk(str(folder))
