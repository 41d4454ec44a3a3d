"""Fidelity of exports: an exported model's translations compared with the original model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from a2d.defaults import MAX_LOSS
from a2d.errors import UserError
from a2d.models.decoding import translate
from a2d.models.exported import ExportedModel
from a2d.models.loading import load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.quoting import shorten
from a2d.text.evaluation import SIGNIFICANT, estimate, score

MAX_DOUBTED = 1.0
"""Largest loss of BLEU and of chrF that is put down to chance, however few the sentences."""

EXACT = "float32"
"""Data type of exports that must translate as the original, but for `MAX_CHANGED`."""

MIN_CHRF = 5.0
"""Least chrF of an original whose export can be judged."""
MAX_CHANGED = 0.02
"""Share of translations that may differ with `EXACT`: the engines round differently, and of two
beams with nearly the same score another one may win."""

_EXAMPLES = 3


class _Loss(NamedTuple):
    """Fall of a metric from the original's score to the export's, with its p-value."""

    metric: str
    before: float
    after: float
    p_value: float

    @property
    def may_be_chance(self) -> bool:
        """Whether so many sentences cannot show it."""
        return self.p_value >= SIGNIFICANT and self.before - self.after <= MAX_DOUBTED


class Fidelity(NamedTuple):
    """Comparison of an export with its original model.

    Attributes:
        quantization: data type of the export's weights.
        sentences: number of translated sentences.
        changed: number of translations that differ.
        bleu, chrf: scores of the export.
        original_bleu, original_chrf: scores of the original.
        examples: sources of differing translations, with the original's and the export's.
        bleu_p, chrf_p: p-values of a loss, by paired bootstrap resampling; 0 where not tested.
    """

    quantization: str
    sentences: int
    changed: int
    bleu: float
    chrf: float
    original_bleu: float
    original_chrf: float
    examples: list[tuple[str, str, str]]
    bleu_p: float = 0.0
    chrf_p: float = 0.0

    def problem(self, max_loss: float = MAX_LOSS) -> str | None:
        """Describe why the export is not faithful enough; None if it is.

        Args:
            max_loss: largest loss of BLEU and of chrF. An export may lose more where chance
                explains it, because the validation set is small, but no more than `MAX_DOUBTED`.
        """
        if not self.is_measurable:
            return (
                f"the original has {self.original_chrf:.1f} chrF on the validation set, too little "
                "for a loss to show"
            )
        if self.quantization == EXACT and self.changed > MAX_CHANGED * self.sentences:
            return (
                f"{self.changed:,} of {self.sentences:,} translations differ from the original's, "
                f"more than {MAX_CHANGED:.0%}"
            )
        for loss in self._losses(max_loss):
            if not loss.may_be_chance:
                return (
                    f"{loss.metric} falls from {loss.before:.2f} to {loss.after:.2f}, by more than "
                    f"{max_loss:g}"
                )
        return None

    def doubt(self, max_loss: float = MAX_LOSS) -> str | None:
        """Say which loss is more than the limit, but may be chance; None if none is.

        Args:
            max_loss: largest loss of BLEU and of chrF.
        """
        losses = [
            f"{loss.metric} falls by {loss.before - loss.after:.2f} (p = {loss.p_value:.2f})"
            for loss in self._losses(max_loss)
            if loss.may_be_chance
        ]
        if not losses:
            return None
        return (
            f"{' and '.join(losses)}, which may be chance: {self.sentences:,} validation pairs are "
            "too few to tell"
        )

    def _losses(self, max_loss: float) -> list[_Loss]:
        """List the metrics that fall by more than a limit."""
        losses = [
            _Loss("BLEU", self.original_bleu, self.bleu, self.bleu_p),
            _Loss("chrF", self.original_chrf, self.chrf, self.chrf_p),
        ]
        return [loss for loss in losses if not loss.before - loss.after <= max_loss]

    @property
    def is_measurable(self) -> bool:
        """Whether the original translates well enough for a loss to show."""
        return self.original_chrf >= MIN_CHRF

    @property
    def summary(self) -> str:
        """Sum up the comparison in one sentence."""
        search = " by greedy search" if self.quantization == EXACT else ""
        return (
            f"{self.changed:,} of {self.sentences:,} translations{search} differ from the "
            f"original's; "
            f"BLEU {self.original_bleu:.2f} → {self.bleu:.2f}, "
            f"chrF {self.original_chrf:.2f} → {self.chrf:.2f}."
        )


class Original:
    """A model that exports are compared with; it translates once for all of them.

    Args:
        model: folder or hub name of the model.
        sources: plain text, one sentence each.
        beams: width of the beam that the model is used with; None: its own.
        progress: called with the number of sentences that it has translated.
    """

    def __init__(
        self,
        model: str | Path,
        sources: Sequence[str],
        beams: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.sources, self.beams = sources, beams
        self._model, self._progress = model, progress
        self._translations: dict[int | None, list[str]] = {}

    def translate(self, beams: int | None) -> list[str]:
        """Translate the sources with a width of the beam."""
        if beams not in self._translations:
            network, tokenizer = load_to_run(self._model), load_tokenizer(self._model)
            self._translations[beams] = translate(
                network, tokenizer, self.sources, beams=beams, progress=self._progress
            )
        return self._translations[beams]


def compare_export(
    original: Original, exported: Path, quantization: str, references: Sequence[str]
) -> Fidelity:
    """Translate with a model and its export, and compare the translations.

    The search is the one that the model is used with, because only its losses matter. For `EXACT`
    it is greedy: nearly equal beams hide whether the export computes the same.

    Args:
        original: the model, with the sources.
        exported: folder of the export.
        quantization: data type of the export's weights.
        references: a reference for each source.
    """
    beams = 1 if quantization == EXACT else original.beams
    before = original.translate(beams)
    after = ExportedModel(exported).translate(original.sources, beams=beams)
    return compare_translations(quantization, original.sources, references, before, after)


def compare_translations(
    quantization: str,
    sources: Sequence[str],
    references: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
) -> Fidelity:
    """Compare translations of an original model with its export's.

    Args:
        quantization: data type of the export's weights.
        sources, references: the sentences.
        before, after: translations of the original and of the export.
    """
    changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    original, exported = score(before, references), score(after, references)
    p_values: list[float] = []
    if exported.bleu < original.bleu or exported.chrf < original.chrf:
        estimates = estimate(before, {"export": after}, references, ("bleu", "chrf"))
        p_values = [export.p_value or 0.0 for _, export in estimates.values()]
    return Fidelity(
        quantization,
        len(sources),
        len(changed),
        exported.bleu,
        exported.chrf,
        original.bleu,
        original.chrf,
        [(sources[i], before[i], after[i]) for i in changed[:_EXAMPLES]],
        *p_values,
    )


class UnfaithfulExport(UserError):
    """An export that translates worse than its original."""


def check_fidelity(fidelity: Fidelity, max_loss: float, show: Callable[[str], None]) -> None:
    """Check that an export is faithful enough.

    Args:
        fidelity: the comparison.
        max_loss: largest loss of BLEU and of chrF.
        show: receives the summary, and examples of differences if the check fails, line by line.

    Raises:
        UnfaithfulExport: it is not.
        UserError: the original's scores are too low to tell; more precision would not help.
    """
    show(fidelity.summary)
    problem = fidelity.problem(max_loss)
    if problem is None:
        if doubt := fidelity.doubt(max_loss):
            show(f"{doubt}.")
        return
    for texts in fidelity.examples:
        for name, text in zip(("source", "original", "export"), texts, strict=True):
            show(f"  {name.ljust(9)} {shorten(text, 100)}")
        show("")
    if fidelity.original_chrf < MIN_CHRF:
        raise UserError(
            f"the export cannot be proved: {problem}. Give other validation text by --valid, or "
            "skip the proof by --unchecked."
        )
    if fidelity.quantization == EXACT:
        raise UnfaithfulExport(
            f"the conversion to CTranslate2 is wrong: {problem}. Translate with PyTorch, and "
            "report this; or export all the same by --unchecked."
        )
    raise UnfaithfulExport(
        f"the export to {fidelity.quantization} is not faithful: {problem}. Export with as much "
        "precision as is needed (--quantization auto), or accept the loss with --max-loss."
    )
