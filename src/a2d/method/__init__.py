"""Align-to-Distill itself: attention maps captured, aligned, compared; and its rivals."""
