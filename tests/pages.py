"""Code blocks and links of README and docs, for the tests of the docs."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A code block; `reason` is set if no test can run it."""

    page: Path
    language: str
    text: str
    reason: str | None


def blocks(page):
    """The code blocks of a page, in their order."""
    text = page.read_text("utf-8")
    return [Block(page, m["language"], m["text"], m["reason"]) for m in _BLOCK.finditer(text)]


def prose(page):
    """The text of a page without its code blocks."""
    return _BLOCK.sub("", page.read_text("utf-8"))


def links(page):
    """Targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page):
    """Anchors of a page's headings, as on GitHub and the site."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}
