"""Runs whose corpus the test has at hand."""

from a2d.runs.corpus_record import record_of
from a2d.runs.run import Run


def run_of(recipe, folder, splits, console=None):
    """Describe the run of a recipe in a folder; nothing is read, and nothing carried out."""
    return Run(recipe, folder, record_of(splits, None), splits, console)
