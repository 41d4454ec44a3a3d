"""Runs of a given corpus."""

from a2d.runs.corpus_record import record_of
from a2d.runs.run import Run


def run_of(recipe, folder, splits, console=None):
    """Build the run of a recipe in a folder, without reading or computing anything."""
    return Run(recipe, folder, record_of(splits, None), splits, console)
