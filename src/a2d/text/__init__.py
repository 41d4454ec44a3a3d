"""Parallel text: reading, cleaning, storage, batching; scores of translations."""
