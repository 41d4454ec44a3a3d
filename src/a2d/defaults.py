"""Defaults that a command and the function behind it share.

This module imports nothing, so that `a2d --help` stays fast.
"""

BATCH_TOKENS = 4096
"""Padded source tokens per batch of a translation."""

LEAST_SHARE = 0.75
"""Share of its teacher's validation chrF that a student must keep."""

MAX_LOSS = 0.3
"""Largest loss of BLEU and of chrF that an export may have."""

BENCH_SENTENCES, BENCH_ROUNDS = 200, 5
"""Sentences of a round of `a2d bench`, and rounds."""
