"""Scores of translations: BLEU and chrF by sacreBLEU, on raw detokenised text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics import BLEU, CHRF


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
