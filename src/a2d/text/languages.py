"""Names and codes of languages, as files, people and the identifier of languages write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources

from a2d.errors import UserError
from a2d.quoting import quoted


def same_language(code: str, language: str) -> bool:
    """Whether two codes mean one language, as `de-DE` or `deu_Latn` and `de` do.

    Two regions of one language are two (`pt-BR`, `pt-PT`); a code without region is both.

    Example:
        >>> same_language("deu_Latn", "de"), same_language("pt-BR", "pt-PT")
        (True, False)
    """
    one, other = _normal(code), _normal(language)
    return one == other or one.startswith(f"{other}-") or other.startswith(f"{one}-")


def base_code(code: str) -> str:
    """The two-letter code of a language without its region, where there is one.

    Example:
        >>> base_code("ger"), base_code("nb-NO"), base_code("dsb")
        ('de', 'no', 'dsb')
    """
    return _normal(code).partition("-")[0]


def is_language(text: str) -> bool:
    """Whether a text is the code of a language, with a region or without, or its English name.

    Codes are those of ISO 639-1 and 639-2, and of both Sorbian languages.

    Example:
        >>> is_language("pt-BR"), is_language("Portuguese"), is_language("xx")
        (True, True, False)
    """
    names = _names()
    coded = _CODE.fullmatch(text) is not None and base_code(text) in names
    return coded or text.casefold() in names.values()


def names_language(text: str, language: str) -> bool:
    """Whether a text is a language's code or its English name.

    Example:
        >>> names_language("Portuguese", "pt"), names_language("PT-BR", "pt")
        (True, True)
    """
    name = _names().get(base_code(language))
    return same_language(text, language) or (name is not None and text.casefold() == name)


def check_codes(languages: Iterable[str]) -> None:
    """Refuse names of languages in place of their codes.

    Raises:
        UserError: one of them is the English name of a language, which is told with its code.
    """
    for language in languages:
        codes = [code for code, name in _names().items() if language.casefold() == name]
        if codes and base_code(language) not in _names():
            raise UserError(
                f"{quoted(language)} is no code of a language: did you mean {quoted(codes[0])}?"
            )


_CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")


def _normal(code: str) -> str:
    first, *rest = code.replace("_", "-").lower().split("-")
    return "-".join([_codes().get(first, first), *rest])


@cache
def _rows() -> list[list[str]]:
    text = resources.files("a2d.text").joinpath("languages.tsv").read_text("utf-8")
    return [line.split("\t") for line in text.splitlines()[1:]]


@cache
def _codes() -> dict[str, str]:
    return {other: code for code, others, _ in _rows() for other in others.split()}


@cache
def _names() -> dict[str, str]:
    return {code: name.casefold() for code, _, name in _rows()}
