"""Vocabularies and networks: loaded, made from one another, put to translating."""
