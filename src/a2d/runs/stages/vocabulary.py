"""Stages of the vocabulary that teacher and students share, and of the corpus's token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from a2d.families import positions_of
from a2d.files import identity
from a2d.models.loading import load_config
from a2d.models.tokenizer import (
    check_fits,
    check_languages_named,
    check_same_vocabulary,
    load_tokenizer,
    train_tokenizer,
)
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.prepared import PreparedTeacher, teacher_path
from a2d.teachers import model_path
from a2d.text.parts import usable_cores
from a2d.text.storage import Texts, sample_evenly
from a2d.text.token_files import save_tokens

SAMPLE_PAIRS = 500_000
"""Pairs that a vocabulary is learned from, evenly spaced in a larger corpus."""


@dataclass(frozen=True)
class Vocabulary(RunStage):
    """Tokenizer: of the pretrained teacher, from the recipe's path, or trained on the corpus."""

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the one stage."""
        section, teacher = run.recipe.vocabulary, run.recipe.teacher
        prepared = run.all(PreparedTeacher)
        settings: dict[str, Any] = {
            "corpus": run.one(Corpus).fingerprint,
            "teacher": prepared[0].fingerprint if prepared else run.pretrained,
            "size": section.size,
            "path": None if section.path is None else identity(model_path(section.path)),
        }
        if run.corpus.monolingual and teacher.path is None and section.path is None:
            settings["monolingual"] = run.corpus.monolingual
        return [cls(run.folder / "vocabulary", settings)]

    def make(self, run: Run) -> None:
        """Save the tokenizer.

        Raises:
            UserError: the recipe's vocabulary differs from the pretrained teacher's, or the
                teacher's does not fit its model.
        """
        teacher = teacher_path(run) if run.recipe.teacher.path is not None else None
        paths = [path for path in (run.recipe.vocabulary.path, teacher) if path is not None]
        with self.work() as folder:
            if not paths:
                texts = Texts(sample_evenly(run.splits.learnable, SAMPLE_PAIRS))
                train_tokenizer(texts, run.recipe.vocabulary.size).save_pretrained(folder)
                return
            tokenizers = [load_tokenizer(path) for path in paths]
            check_same_vocabulary(tokenizers[-1], tokenizers[0])
            tokenizer = tokenizers[-1]  # the teacher's tokenizer has its languages and prefix
            if teacher is not None:
                config = load_config(teacher)
                check_fits(tokenizer, config, teacher)
                check_languages_named(tokenizer, teacher)
                positions = positions_of(config)
                if positions is not None:
                    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
            tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Tokens(RunStage):
    """Training and validation pairs as token ids (`train` and `valid` of a saved dataset)."""

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List the one stage."""
        settings = {"vocabulary": run.one(Vocabulary).fingerprint}
        return [cls(run.folder / "tokens", settings)]

    def make(self, run: Run) -> None:
        """Write the pairs as token ids."""
        tokenizer = load_tokenizer(run.one(Vocabulary).folder)
        with self.work() as folder:
            splits = {"train": run.splits.train, "valid": run.splits.valid}
            save_tokens(folder, splits, tokenizer, usable_cores())
