"""Scripts of letters: those of a text, and scripts that are written without spaces."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

UNSPACED = (
    "\u0e00-\u0e4f\u0e5a-\u0ecf\u0f40-\u0fbc\u1000-\u103f\u104a-\u109f\u1780-\u17d3"
    "\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
"""Characters of scripts without spaces, for a class in a regular expression: Thai, Lao, Tibetan,
Burmese, Khmer, kana and Han."""

_UNSPACED = re.compile(f"[{UNSPACED}]")


def is_unspaced(text: str) -> bool:
    """Return whether at least half of a text's letters are of scripts without spaces.

    Example:
        >>> is_unspaced("打开 Fuchs 文件夹和文件"), is_unspaced("open 文件")
        (True, False)
    """
    if text.isascii():
        return False
    count = len(_UNSPACED.findall(text))
    return count > 0 and 2 * count >= sum(map(str.isalpha, text))


def count_scripts(texts: Iterable[str]) -> Counter[str]:
    """Count the letters of each script.

    Example:
        >>> dict(count_scripts(["Привет, 1", "ok"]))
        {'CYRILLIC': 6, 'LATIN': 2}
    """
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    scripts: Counter[str] = Counter()
    for character, count in characters.items():
        if character.isalpha():
            scripts[_script(character)] += count
    return scripts


@cache
def _script(letter: str) -> str:
    """Return the script of a letter: the first word of its Unicode name, with few exceptions."""
    words = unicodedata.name(letter, "?").split()
    if words[0] in ("FULLWIDTH", "HALFWIDTH"):
        words.pop(0)
    if words[0] in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"):
        return "KANA"
    return words[0]
