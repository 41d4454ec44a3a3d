"""Experiments: recipes, their stages, which can be interrupted and resumed, and reports."""
