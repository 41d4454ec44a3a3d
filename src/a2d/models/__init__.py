"""Tokenizers and models: loading, making students, trimming, translation, export."""
