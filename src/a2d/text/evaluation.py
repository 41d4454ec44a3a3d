"""Scores of translations: BLEU and chrF by sacreBLEU, on detokenised text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

RESAMPLES = 1000
"""Bootstrap samples of `p_values`."""


class Scores(NamedTuple):
    """Corpus scores, with the sacreBLEU signatures that make them comparable.

    Attributes:
        bleu: BLEU, 0 to 100.
        chrf: chrF, 0 to 100.
        signatures: sacreBLEU's signatures of both metrics.
    """

    bleu: float
    chrf: float
    signatures: dict[str, str]


def score(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """Score translations against one reference each.

    Args:
        hypotheses: translations of the system, plain text.
        references: reference of each translation.

    Raises:
        ValueError: the numbers of hypotheses and references differ.

    Example:
        >>> round(score(["the cat sat on the mat"], ["the cat sat on the mat"]).bleu, 1)
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
    """Return the hypothesis with the highest chrF against a reference; the first of equals."""
    if len(hypotheses) == 1:
        return hypotheses[0]
    chrf = CHRF()
    return max(hypotheses, key=lambda text: chrf.sentence_score(text, [reference]).score)


def p_values(
    baseline: Sequence[str], systems: Mapping[str, Sequence[str]], references: Sequence[str]
) -> dict[str, float]:
    """Compute the two-sided p-value of each system's difference in BLEU from a baseline.

    The test is sacreBLEU's paired bootstrap resampling (Koehn 2004) with 1000 samples and its fixed
    seed. The p-value of equal scores is 1.

    Args:
        baseline: translations of the system that the others are compared with.
        systems: name → translations of the same sentences.
        references: one reference each.

    Returns:
        name → p-value.
    """
    if not systems:
        return {}
    texts = [("", baseline), *systems.items()]
    metrics = {"BLEU": BLEU(references=[references])}
    _, scores = PairedTest(texts, metrics, None, test_type="bs", n_samples=RESAMPLES)()
    results: list[Any] = list(scores["BLEU"])
    baseline_result = results.pop(0)
    return {
        name: result.p_value if result.score != baseline_result.score else 1.0
        for name, result in zip(systems, results, strict=True)
    }
