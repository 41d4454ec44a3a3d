"""Names and codes of languages in files, user input and the language identifier."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources

from a2d.errors import UserError
from a2d.quoting import quoted


def same_language(code: str, language: str) -> bool:
    """Return whether two codes mean one language, as `de-DE` or `deu_Latn` and `de` do.

    Two regions of a language differ (`pt-BR`, `pt-PT`); a code without a region matches both.

    Example:
        >>> same_language("deu_Latn", "de"), same_language("pt-BR", "pt-PT")
        (True, False)
    """
    first, second = _normalise(code), _normalise(language)
    return first == second or first.startswith(f"{second}-") or second.startswith(f"{first}-")


def base_code(code: str) -> str:
    """Return the two-letter code of a language, or its own if there is none, without the region.

    Example:
        >>> base_code("ger"), base_code("nb-NO"), base_code("dsb")
        ('de', 'no', 'dsb')
    """
    return _normalise(code).partition("-")[0]


def is_language(text: str) -> bool:
    """Return whether a text is a language code (a region may follow) or a language's English name.

    Known codes are those of ISO 639-1 and 639-2, and of both Sorbian languages.

    Example:
        >>> is_language("pt-BR"), is_language("Portuguese"), is_language("xx")
        (True, True, False)
    """
    names = _names()
    coded = is_code(text) and base_code(text) in names
    return coded or text.casefold() in names.values()


def names_language(text: str, language: str) -> bool:
    """Return whether a text is a language's code or its English name.

    Example:
        >>> names_language("Portuguese", "pt"), names_language("PT-BR", "pt")
        (True, True)
    """
    name = _names().get(base_code(language))
    return same_language(text, language) or (name is not None and text.casefold() == name)


def check_codes(languages: Iterable[str]) -> None:
    """Check that values have the form of language codes.

    Raises:
        UserError: one has not; if it is the English name of a language, the message names its code.
    """
    for language in languages:
        codes = [code for code, name in _names().items() if language.casefold() == name]
        if codes and base_code(language) not in _names():
            raise UserError(f"{quoted(language)} is not a language code: write {quoted(codes[0])}")
        if not is_code(language):
            raise UserError(
                f"{quoted(language)} is not a language code: give one such as de, pt-BR or deu_Latn"
            )


def check_pair(source: str | None, target: str | None) -> tuple[str, str] | None:
    """Check the options `--source` and `--target` of a command that works without them, too.

    Returns:
        Both language codes; None without options.

    Raises:
        UserError: only one is given, or one has not the form of a language code.
    """
    if source is None or target is None:
        if source != target:
            raise UserError("only one language is given: give both --source and --target, or none")
        return None
    check_codes((source, target))
    return source, target


_CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,4}")


def is_code(text: str) -> bool:
    """Check whether a text has the form of a language code, such as `de` or `deu_Latn`."""
    return _CODE.fullmatch(text) is not None


def _normalise(code: str) -> str:
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
