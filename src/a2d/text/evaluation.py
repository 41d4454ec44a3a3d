"""Scores of translations: BLEU and chrF by sacreBLEU, on detokenised text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from a2d.text.scripts import count_scripts, is_unspaced

RESAMPLES = 1000
"""Bootstrap samples of `p_values`."""
SIGNIFICANT = 0.05
"""Differences with smaller p-values are significant."""
_SEED = 12345
"""Seed of bootstrap samples, sacreBLEU's default."""


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
    bleu, chrf = BLEU(tokenize=bleu_tokenizer(references)), CHRF()
    bleu_score = bleu.corpus_score(hypotheses, [references]).score
    chrf_score = chrf.corpus_score(hypotheses, [references]).score
    signatures = {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
    return Scores(bleu_score, chrf_score, signatures)


def bleu_tokenizer(references: Sequence[str]) -> str:
    """Choose sacreBLEU's tokenizer for BLEU by the script of the references.

    Its default splits at spaces and punctuation: a sentence of a script without spaces would be one
    word. Chinese gets sacreBLEU's own tokenizer; Japanese, Thai, Lao, Tibetan, Burmese and Khmer
    are scored by characters. (sacreBLEU's tokenizers for Japanese and Korean need other packages:
    scores must not depend on what is installed.)

    Args:
        references: the references, of one language.

    Returns:
        A name that sacreBLEU knows: `13a`, `zh` or `char`. The signature has it.
    """
    text = "".join(references)
    if not is_unspaced(text):
        return "13a"
    scripts = count_scripts([text])
    is_chinese = scripts["CJK"] > sum(scripts.values()) / 2 and not scripts["KANA"]
    return "zh" if is_chinese else "char"


def closest(hypotheses: Sequence[str], reference: str) -> str:
    """Return the hypothesis with the highest chrF against a reference; the first of equals."""
    if len(hypotheses) == 1:
        return hypotheses[0]
    chrf = CHRF()
    return max(hypotheses, key=lambda text: chrf.sentence_score(text, [reference]).score)


class Estimate(NamedTuple):
    """A score with its uncertainty.

    Attributes:
        score: BLEU, chrF or another metric of all sentences.
        margin: half the width of the 95% confidence interval, by bootstrap resampling.
        p_value: two-sided p-value of the difference from the baseline; None for the baseline.
    """

    score: float
    margin: float
    p_value: float | None


def estimate(
    baseline: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    references: Sequence[str],
    names: Sequence[str] = ("bleu", "chrf"),
) -> dict[str, list[Estimate]]:
    """Score a baseline and other systems, and test their differences.

    The test is sacreBLEU's paired bootstrap resampling (Koehn 2004) with 1000 samples and its fixed
    seed. The p-value of equal scores is 1.

    Args:
        baseline: translations of the system that the others are compared with.
        systems: name → translations of the same sentences.
        references: one reference each.
        names: metrics to compute, `bleu` and `chrf`.

    Returns:
        Metric → estimates of the baseline and of each system, in this order.
    """
    # sacreBLEU compares at least two systems: a lone baseline is compared with itself.
    texts = [("", baseline), *(systems or {" ": baseline}).items()]
    kinds: dict[str, Any] = {
        "bleu": partial(BLEU, tokenize=bleu_tokenizer(references)),
        "chrf": CHRF,
    }
    metrics = {name: kinds[name](references=[references]) for name in names}
    _, columns = PairedTest(texts, metrics, None, test_type="bs", n_samples=RESAMPLES)()
    estimates = {}
    values: list[list[Any]] = list(columns.values())[1:]  # without the systems' names
    for name, results in zip(names, values, strict=True):
        first = results[0]
        estimates[name] = [Estimate(first.score, float(first.ci), None)] + [
            Estimate(r.score, float(r.ci), r.p_value if r.score != first.score else 1.0)
            for r in results[1 : len(systems) + 1]
        ]
    return estimates


def estimate_means(baseline: Sequence[float], systems: Sequence[Sequence[float]]) -> list[Estimate]:
    """Estimate scores that are means over segments, by the same bootstrap and test as `estimate`.

    Args:
        baseline: score of each segment.
        systems: the same for each of the other systems.

    Returns:
        Estimates of the baseline and of each system, in this order.
    """
    scores = np.array([baseline, *systems], float)
    size = scores.shape[1]
    samples = np.random.default_rng(_SEED).integers(size, size=(RESAMPLES, size))
    means = np.stack([row[samples].mean(axis=1) for row in scores])
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    gains = means[1:] - means[0]
    observed = scores[1:].mean(axis=1) - scores[0].mean()
    extremes = np.abs(gains - gains.mean(axis=1, keepdims=True)) >= np.abs(observed)[:, None]
    p = (extremes.sum(axis=1) + 1) / (RESAMPLES + 1)
    p_values = [None, *map(float, p)]
    rows = zip(scores.mean(axis=1), (high - low) / 2, p_values, strict=True)
    return [Estimate(float(mean), float(margin), value) for mean, margin, value in rows]


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Compute the chrF of each sentence, 0 to 100."""
    chrf = CHRF()
    pairs = zip(hypotheses, references, strict=True)
    return [chrf.sentence_score(text, [reference]).score for text, reference in pairs]


def p_values(
    baseline: Sequence[str], systems: Mapping[str, Sequence[str]], references: Sequence[str]
) -> dict[str, float]:
    """Compute the p-value of each system's difference in BLEU from a baseline, by `estimate`.

    Returns:
        name → p-value.
    """
    if not systems:
        return {}
    _, *others = estimate(baseline, systems, references, ("bleu",))["bleu"]
    return {name: float(other.p_value or 0) for name, other in zip(systems, others, strict=True)}
