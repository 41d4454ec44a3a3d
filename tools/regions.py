"""Regions of Markdown pages that a tool fills; the prose around them is written by hand.

A region stands between two comments, which neither GitHub nor the site shows:

    <!-- fill: NAME -->
    a table
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

REGION = re.compile(r"(<!-- fill: (?P<name>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def names(page: Path) -> list[str]:
    """List the names of a page's regions in their order."""
    return [region["name"] for region in REGION.finditer(page.read_text("utf-8"))]


def fill(page: Path, content: Callable[[str], str | None]) -> None:
    """Replace the contents of a page's regions.

    Args:
        page: path of the page.
        content: function from a region's name to its Markdown; None leaves the region as it is.
    """

    def replace(region: re.Match[str]) -> str:
        text = content(region["name"])
        return region[0] if text is None else f"{region[1]}\n{text.strip()}\n\n{region[3]}"

    page.write_text(REGION.sub(replace, page.read_text("utf-8")), "utf-8")


def table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Make a Markdown table; the first `left` columns are left-aligned, the others right."""
    rule = "|" + "---|" * left + "--:|" * (len(head) - left)
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], rule, *lines[1:]])
