"""Hypotheses with scores that are comparable between transformers and CTranslate2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Hypothesis(NamedTuple):
    """A translation.

    Attributes:
        text: plain detokenised text.
        tokens: number of generated tokens, with the end token, without a forced language code.
        log_probability: sum of the log-probabilities of these tokens; NaN if not requested. The
            probabilities are those among the tokens that the generation settings allow.
    """

    text: str
    tokens: int
    log_probability: float = math.nan

    @property
    def score(self) -> float:
        """Mean log-probability of a token; 0 for the translation of an empty sentence."""
        return self.log_probability / self.tokens if self.tokens else 0.0


EMPTY = Hypothesis("", 0, 0.0)
"""Translation of an empty sentence."""


def join(parts: Sequence[Hypothesis]) -> Hypothesis:
    """Join the translations of the sentences of a text."""
    return Hypothesis(
        " ".join(part.text for part in parts if part.text),
        sum(part.tokens for part in parts),
        sum(part.log_probability for part in parts),
    )
