"""Parts of a text that a translation keeps: numbers, placeholders, tags, addresses.

Some marks are placeholders wherever they stand (`{name}`): both sides of a clean pair have them.
Others only look like placeholders (`:name`, `@count`), or are changed by translators (addresses of
pages): they count where source and reference have them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_FORMAT = r"%(?:\d+\$)?+[-+#0]*+(?:\d++|\*)?+(?:\.\d+)?+(?:hh?|ll?|[qjztL])?[a-zA-Z@]"
_PLACEHOLDER = re.compile(
    r"\$?\{[^{}]*\}+"  # {name}, {{name}}, ${name}
    r"|\$\(\w+\)|\[\[[^\[\]]+\]\]"  # $(NAME), [[name]]
    r"|(?<![A-Za-z0-9_])__[A-Za-z][A-Za-z0-9_]*?__(?![A-Za-z0-9_])"  # __NAME__
    r"|(?<!\d)%[A-Za-z_][A-Za-z0-9_]*%|%\(\w+\)[a-z]"  # %NAME%, %(name)s
    rf"|(?<!\d){_FORMAT}|{_FORMAT}(?!\w)"  # %s, %1$s, %*d, %lld; but not 100%ig
    r"|<[/!]?\w[^<>]*>"
)
_LIKELY = re.compile(
    r"(?<![A-Za-z0-9_$])\$[A-Za-z_][A-Za-z0-9_]*"  # $name
    r"|(?<![A-Za-z0-9_:/.])[:!][a-z_][A-Za-z0-9_]+(?![A-Za-z0-9_:])"  # :name, !name; not :smile:
    r"|(?<![A-Za-z0-9_@.+-])@[A-Za-z_][A-Za-z0-9_]*"  # @name
    r"|(?<![A-Za-z0-9_%])%[1-9][0-9]?(?![A-Za-z0-9_$%])"  # %1
    r"|\{\s*\w+\s*,\s*[a-z]+(?=\s*,)"  # {n, plural, …}
)
_ADDRESS = re.compile(
    r"(?:https?|ftp)://[A-Za-z0-9_.~:/?#@!$&*+,;=%-]*[A-Za-z0-9_/=#&~+%-]"
    r"|(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]++@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
)
_GROUP = "[.,'’٬\u00a0\u2009\u202f ]"
_POINT = "[.,:．：٫]"
_NUMBER = re.compile(
    rf"(?<!\d)(?!0)\d{{1,3}}(?:(?P<group>{_GROUP})\d{{3}}(?:(?P=group)\d{{3}})*"
    rf"|(?:,\d\d)+,\d{{3}})(?!\d)(?P<rest>(?:{_POINT}\d+)*)"
    rf"|\d+(?:(?:{_POINT}|(?<=\d)h(?=\d\d(?!\w)))\d+)*"
)
"""Numbers in groups (1,250,000; 1,00,000; 1 250 000,5), or others with decimals or times."""
_MINUS_WORD = "(?:minus|moins|menos|meno|минус|мінус|マイナス|负|負|零下)"
_MINUS = re.compile(rf"(?:(?<![^\s(\[=,;:\"'„“«<>≤≥])[-−–]|{_MINUS_WORD}\s?)(?=\d)", re.IGNORECASE)
_MINUS_OR_DASH = re.compile(rf"(?:[-−–]|{_MINUS_WORD})\s?(?=\d)", re.IGNORECASE)
"""Signs that may be a minus: translations are not blamed for spaces after it."""
_MAY_HAVE_PARTS = re.compile(r"[\d%{<$\[_]")


class Number(NamedTuple):
    """A number in a text.

    Attributes:
        value: its ASCII digits without groups, with a point before decimals, minutes and the like.
        start: index of its first character.
        written: how it is written.
    """

    value: str
    start: int
    written: str

    @property
    def pieces(self) -> list[str]:
        """Its sequences of digits: "1,2" may be a list, and "5 200" two numbers."""
        return re.findall(r"\d+", _ascii_digits(self.written))


def differ(source: str, target: str) -> bool:
    """Return whether two texts differ in their placeholders or numbers, however grouped.

    Example:
        >>> differ("{n} von 1.000", "{n} of 1,000"), differ("3 Dateien", "4 files")
        (False, True)
    """
    if not _MAY_HAVE_PARTS.search(source) and not _MAY_HAVE_PARTS.search(target):
        return False
    if placeholders(source) != placeholders(target):
        return True
    numbers, others = (list(find_numbers(text)) for text in (source, target))
    return Counter(n.value for n in numbers) != Counter(n.value for n in others) and Counter(
        piece for n in numbers for piece in n.pieces
    ) != Counter(piece for n in others for piece in n.pieces)


def lacks_parts(source: str, reference: str, hypothesis: str) -> bool:
    """Return whether a translation lacks a part that source and reference share.

    Parts are placeholders, also those that only look like some, addresses, numbers, and minus signs
    of numbers. Numbers may be grouped in another way, and lists written with other separators.

    Example:
        >>> lacks_parts("from %1", "von %1", "von 1"), lacks_parts("3.5", "3,5", "35")
        (True, True)
        >>> lacks_parts("10,000 users", "10.000 Nutzer", "10 000 Benutzer")
        False
    """
    for kind in (placeholders, _likely_placeholders):
        if (kind(source) & kind(reference)) - kind(hypothesis):
            return True
    negative = _signed(source, _MINUS) & _signed(reference, _MINUS)
    if negative and negative - _signed(hypothesis, _MINUS_OR_DASH):
        return True
    return _lacks_number(*(list(find_numbers(text)) for text in (source, reference, hypothesis)))


def placeholders(text: str) -> Counter[str]:
    """Count the placeholders and tags of a text."""
    return Counter(_PLACEHOLDER.findall(text))


def find_numbers(text: str) -> Iterator[Number]:
    """Find the numbers of a text, outside placeholders."""
    for match in _NUMBER.finditer(_PLACEHOLDER.sub(" ", text)):
        written, rest = match[0], match["rest"]
        if rest is None:
            value = re.sub(r"\D", ".", written)
        else:
            whole = written[: len(written) - len(rest)]
            value = re.sub(r"\D", "", whole) + re.sub(r"\D", ".", rest)
        yield Number(_ascii_digits(value), match.start(), written)


def _likely_placeholders(text: str) -> Counter[str]:
    return Counter(_LIKELY.findall(_ADDRESS.sub(" ", text)) + _ADDRESS.findall(text))


def _signed(text: str, sign: re.Pattern[str]) -> Counter[str]:
    """Count the numbers of a text that follow a sign."""
    text = _PLACEHOLDER.sub(" ", text)
    signs = {match.end() for match in sign.finditer(text)}
    return Counter(n.value for n in find_numbers(text) if n.start in signs) if signs else Counter()


def _lacks_number(source: list[Number], reference: list[Number], hypothesis: list[Number]) -> bool:
    required = Counter(n.value for n in source) & Counter(n.value for n in reference)
    available = Counter(n.value for n in hypothesis)
    missing = {value for value in required if available[value] < required[value]}
    if not missing:
        return False
    in_lists = [p for n in hypothesis if re.search(r"[,\s]", n.written) for p in n.pieces]
    available_pieces = available + Counter(in_lists)
    pieces = {n.value: n.pieces for n in (*source, *reference) if len(n.pieces) > 1}
    return any(
        available_pieces[value] < required[value]
        and not (value in pieces and all(available[piece] for piece in pieces[value]))
        for value in missing
    )


def _ascii_digits(text: str) -> str:
    if text.isascii():
        return text
    return "".join(str(int(c)) if c.isdecimal() else c for c in text)
