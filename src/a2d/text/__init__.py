"""Parallel text: read, cleaned, kept, batched; and scores of translations."""
