"""Count how many second human translations `a2d.text.failures` takes for failures.

Sources that occur several times in a corpus, with the same words, often have different references.
Each is judged here as if a system had written it, with another one as its reference.

    python tools/false_alarms.py --source de --target en train.tsv.gz extra.tsv.gz
"""

from __future__ import annotations

import argparse
import re
from itertools import pairwise

from a2d.text.corpus import read_corpus
from a2d.text.failures import failure_kinds, find_failures
from a2d.text.pairs import Pair


def words(text: str) -> str:
    """Return a text without case and punctuation, but with its placeholders and tags."""
    return re.sub(r"[^\w{}%<>]+", " ", text.casefold()).strip()


def second_translations(pairs: list[Pair]) -> list[tuple[str, str, str]]:
    """List sources with two translations that differ in their words."""
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(words(pair.source), []).append(pair)
    return [
        (first.source, first.target, second.target)
        for same in by_source.values()
        for first, second in pairwise(same)
        if words(first.target) != words(second.target)
    ]


def main() -> None:
    """Print the number of second translations, and how many of them are taken for failures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpora", nargs="+", metavar="FILE")
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    arguments = parser.parse_args()
    languages = arguments.source, arguments.target
    pairs = [pair for path in arguments.corpora for pair in read_corpus(path, "", languages)]
    sources, references, hypotheses = zip(*second_translations(pairs), strict=True)
    found = find_failures(sources, references, hypotheses, failure_kinds(languages, references))
    accused = {index for indices in found.values() for index in indices}
    print(f"{len(sources):,} second translations, {len(accused) / len(sources):.2%} taken for")
    print(*(f"  {kind}: {len(indices)}" for kind, indices in found.items()), sep="\n")


if __name__ == "__main__":
    main()
