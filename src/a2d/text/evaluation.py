"""Scores of translations: BLEU and chrF by sacreBLEU, on raw detokenised text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

RESAMPLES = 1000


class Scores(NamedTuple):
    """Corpus scores with the signatures that make them comparable."""

    bleu: float
    chrf: float
    signatures: dict[str, str]


def score(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """Score translations against one reference each.

    Args:
        hypotheses: the system's translations, plain text.
        references: as many references, in the same order.

    Raises:
        ValueError: the numbers of lines differ.

    Example:
        >>> score(["the cat sat on the mat"], ["the cat sat on the mat"]).bleu
        100.0
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    bleu, chrf = BLEU(), CHRF()
    bleu_score = bleu.corpus_score(hypotheses, [references]).score
    chrf_score = chrf.corpus_score(hypotheses, [references]).score
    signatures = {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
    return Scores(bleu_score, chrf_score, signatures)


def closest(hypotheses: Sequence[str], reference: str) -> str:
    """The hypothesis of the highest chrF against a reference, the first among equals."""
    if len(hypotheses) == 1:
        return hypotheses[0]
    chrf = CHRF()
    return max(hypotheses, key=lambda text: chrf.sentence_score(text, [reference]).score)


def p_values(
    rival: Sequence[str], systems: Mapping[str, Sequence[str]], references: Sequence[str]
) -> dict[str, float]:
    """How likely each system's difference from a rival in BLEU is mere chance (two-sided).

    sacreBLEU's paired bootstrap resampling (Koehn 2004), 1000 samples, its fixed seed. Equal scores
    differ by chance alone: 1.

    Args:
        rival: translations of the system that the others are compared with.
        systems: name → translations of the same sentences.
        references: one reference each.
    """
    if not systems:
        return {}
    named = [("", rival), *systems.items()]
    metrics = {"BLEU": BLEU(references=[references])}
    _, scores = PairedTest(named, metrics, None, test_type="bs", n_samples=RESAMPLES)()
    results: list[Any] = list(scores["BLEU"])
    first = results.pop(0)
    return {
        name: result.p_value if result.score != first.score else 1.0
        for name, result in zip(systems, results, strict=True)
    }
