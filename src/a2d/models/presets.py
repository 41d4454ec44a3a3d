"""Sizes of students by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from a2d.errors import UserError
from a2d.quoting import quoted

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {
        "encoder_layers": 6,
        "decoder_layers": 2,
        "heads": 8,
        "width": 256,
        "feed_forward": 1536,
    },
    "base-memory": {
        "encoder_layers": 6,
        "decoder_layers": 4,
        "heads": 8,
        "width": 384,
        "feed_forward": 1536,
    },
    "base": {
        "encoder_layers": 6,
        "decoder_layers": 2,
        "heads": 8,
        "width": 512,
        "feed_forward": 2048,
    },
}
"""Sizes of the students that Firefox ships, by their names in github.com/mozilla/translations."""

_SIZE = r"([1-9][0-9]{0,4})"
_SHAPE = re.compile(f"{_SIZE}[x×+]{_SIZE}(?:-{_SIZE}(?:-{_SIZE}(?:-{_SIZE})?)?)?")


def parse_shape(text: str) -> dict[str, int]:
    """Read the sizes that a shape names.

    Args:
        text: a preset, or layers of encoder and decoder, optionally with width, feed-forward width
            and heads: `6x2`, `6x2-256`, `6x2-256-1024`, `6x2-256-1024-8`.

    Raises:
        UserError: it is neither.

    Example:
        >>> parse_shape("6x2-256")
        {'encoder_layers': 6, 'decoder_layers': 2, 'width': 256}
    """
    small = text.lower()
    if small in PRESETS:
        return dict(PRESETS[small])
    match = _SHAPE.fullmatch(small)
    if match is None:
        raise UserError(
            f"{quoted(text)} is not a shape of a student: give the layers of encoder and decoder, "
            "1 or more, as in 6x2, with width, feed-forward width and heads, as in "
            f"6x2-256-1024-8, or one of {', '.join(PRESETS)}."
        )
    names = ("encoder_layers", "decoder_layers", "width", "feed_forward", "heads")
    return {name: int(size) for name, size in zip(names, match.groups(), strict=True) if size}


def complete_shape(teacher: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a student's sizes by those of its teacher.

    The feed-forward width follows the width where only the latter is given, as a multiple of 8,
    which hardware multiplies fastest.

    Args:
        teacher: the teacher's sizes (`a2d.families.sizes_of`).
        sizes: the student's, by the names of `a2d.models.students.student_of`.
    """
    shape = {size: teacher[size] for size in ("encoder_layers", "decoder_layers", "width")}
    shape |= sizes
    ratio = shape["width"] / teacher["width"]

    def scaled(width: int) -> int:
        return width if ratio == 1 else max(8, 8 * round(ratio * width / 8))

    for size, value in (("heads", int), ("feed_forward", scaled)):
        if size not in sizes:
            shape[size] = value(teacher[size])
            of_decoder = teacher.get(f"decoder_{size}", teacher[size])
            if of_decoder != teacher[size]:
                shape.setdefault(f"decoder_{size}", value(of_decoder))
    return shape
