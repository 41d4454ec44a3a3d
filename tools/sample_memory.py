"""Split the English→Portuguese corpus into the sample memory and the teacher's training data.

`python tools/sample_memory.py train.tsv.gz FOLDER` writes two files into FOLDER: `memory.tmx.gz`,
random pairs for `a2d.corpora`, and `train.tsv.gz`, the remaining pairs for the teacher. The files
share no text, even without regard to case, numbers and punctuation
(`a2d.text.cleaning.hold_out`).
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from xml.sax.saxutils import escape

from a2d.runs.results import write_compressed
from a2d.text.corpus import read_corpus
from a2d.text.held_out import hold_out
from a2d.text.pairs import Pair

MEMORY_PAIRS = 6000

_HEADER = """<?xml version="1.0" encoding="UTF-8"?>
<!-- Subject to the Mozilla Public License, v. 2.0: see README.md and LICENSE beside this file. -->
<tmx version="1.4">
<header creationtool="align-to-distill" creationtoolversion="1" segtype="sentence"
 o-tmf="tsv" adminlang="en" srclang="en" datatype="plaintext"/>
<body>
"""
_UNIT = """<tu><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="pt-BR"><seg>{}</seg></tuv></tu>
"""
_FOOTER = "</body>\n</tmx>\n"


def main() -> None:
    """Read the corpus; write memory and training data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    remaining: list[Pair]
    memory, remaining = hold_out(read_corpus(arguments.corpus), MEMORY_PAIRS)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    units = "".join(_UNIT.format(*map(escape, pair)) for pair in memory)
    content = gzip.compress((_HEADER + units + _FOOTER).encode(), mtime=0)
    (arguments.folder / "memory.tmx.gz").write_bytes(content)
    write_compressed(arguments.folder / "train.tsv.gz", ("\t".join(pair) for pair in remaining))
    print(f"{len(memory):,} pairs in memory.tmx.gz, {len(remaining):,} in train.tsv.gz")


if __name__ == "__main__":
    main()
