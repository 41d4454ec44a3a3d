"""Corpora as translators keep them: translation memories, XLIFF, gettext and Fluent files."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from html import unescape
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from a2d.errors import UserError
from a2d.quoting import listed, quoted
from a2d.text.bounds import CATALOGUE, COLUMNS, FLUENT_FILE, MESSAGE
from a2d.text.encodings import UNREADABLE, decoded, is_charset
from a2d.text.files import content, kind
from a2d.text.languages import same_language
from a2d.text.markup import elements, line_counter, local_name
from a2d.text.pairs import (
    Entries,
    Languages,
    Malformed,
    Omitted,
    Pair,
    Threshold,
    Wanted,
    needs,
    normal,
)

GETTEXT = (".po", ".mo")
FLUENT = (".ftl",)
UNTRANSLATED = "without a translation"

Message = tuple[str, str]
"""What identifies a text in two languages' files: its key, and which of its forms it is."""


def translation_memory(path: Path, wanted: Wanted) -> Entries:
    """Translation units of a TMX file; those that lack one of the languages are left out.

    `de` also stands for `de-AT` where there is no `de` itself. A score is a unit's `prop` of that
    `type`.

    Raises:
        UserError: no unit has both languages, or they were not named.
    """
    languages = Languages(*map(str, wanted.keys)) if wanted.keys else wanted.languages
    if languages is None:
        raise UserError(
            f"{path} may hold many languages: name two by --source and --target, or by 'source' "
            "and 'target' beside its path"
        )
    seen: set[str] = set()
    found = False
    for unit in elements(path, ("tu",)):
        if isinstance(unit, Malformed):
            yield unit
            continue
        texts: dict[str, str] = {}
        for variant in unit.iterfind("{*}tuv"):
            language = variant.get(_XML_LANG) or variant.get("lang") or ""
            segment = variant.find("{*}seg")
            if segment is not None:
                texts.setdefault(language.replace("_", "-").lower(), _text(segment))
        if len(seen) < COLUMNS:  # languages are as few, or a message is enough
            seen |= texts.keys()
        sides = [_of_language(texts, code) for code in languages]
        lacking = [repr(c) for c, text in zip(languages, sides, strict=True) if text is None]
        if lacking:
            yield Omitted(f"without {' and '.join(lacking)}")
            continue
        found = True
        yield _judged(unit, normal(*map(str, sides)), wanted.threshold, path)
    if seen and not found:
        raise UserError(
            f"{path} has no unit in both {languages.source!r} and {languages.target!r}: it holds "
            f"{listed(sorted(seen))}"
        )


def _judged(
    unit: Any, pair: Pair, threshold: Threshold | None, path: Path
) -> Pair | Malformed | Omitted:
    if threshold is None:
        return pair
    props = (prop for prop in unit.iter("{*}prop") if prop.get("type") == threshold.key)
    score = next((prop.text for prop in props), None)
    return threshold.judge(score, pair, f"{path}, line {unit.sourceline}")


def xliff(path: Path, wanted: Wanted) -> Entries:
    """Translated segments of an XLIFF file (1.2 or 2.x), read backwards if it is the other way.

    Parts in other languages are left out, and what is not to be translated.

    Raises:
        UserError: all of the file is of other languages.
    """
    languages = wanted.languages
    swap: bool | None = False
    other, found = None, False
    for element in elements(path, ("trans-unit", "segment"), ("xliff", "file")):
        if isinstance(element, Malformed):
            yield element
            continue
        if local_name(element) in ("xliff", "file"):
            own = [element.get(a) or element.get(b) for a, b in _XLIFF_LANGUAGES]
            if languages is not None and all(own):
                swap = _backwards(own, languages)
                other = own if swap is None else other
            continue
        if swap is None:
            yield Omitted("in other languages")
        elif _to_translate(element):
            found = True
            yield from _translated(element, swap)
    if languages is not None and other is not None and not found:
        raise UserError(
            f"{path} translates from {quoted(other[0])} to {quoted(other[1])}, and "
            f"{languages.source!r} and "
            f"{languages.target!r} are wanted"
        )


def _translated(element: Any, swap: bool) -> Entries:
    """The segments of a unit that have a translation."""
    source, target = (element.find(f"{{*}}{side}") for side in ("source", "target"))
    parts: Any = ()
    if source is not None and target is not None:
        if (element.get("state") or target.get("state")) not in _UNTRANSLATED:
            parts = _segments(element.find("{*}seg-source"), source, target)
    elif source is None:
        return
    found = False
    for sides in parts:
        texts = [_text(side) for side in sides]
        if all(texts):
            found = True
            yield normal(*(reversed(texts) if swap else texts))
    if not found:
        yield Omitted(UNTRANSLATED)


_XLIFF_LANGUAGES = (("source-language", "srcLang"), ("target-language", "trgLang"))
_UNTRANSLATED = ("new", "needs-translation", "initial")


def _to_translate(element: Any) -> bool:
    """What the nearest of an element and those around it says."""
    told = (around.get("translate") for around in (element, *element.iterancestors()))
    return next(filter(None, told), "yes") != "no"


def _segments(cut: Any, source: Any, target: Any) -> Iterator[tuple[Any, Any]]:
    """Sides of a unit; of one that is cut into segments, those of each that has a translation."""
    ours, theirs = (
        {mark.get("mid"): mark for mark in side.iter("{*}mrk") if mark.get("mtype") == "seg"}
        for side in (source if cut is None else cut, target)
    )
    if ours and theirs:
        yield from ((part, theirs[name]) for name, part in ours.items() if name in theirs)
    else:
        yield source, target


def _backwards(own: list[str], languages: Languages) -> bool | None:
    """Whether a text's languages are those wanted the other way around; None: they are others."""
    for swap, wanted in ((False, languages), (True, Languages(*reversed(languages)))):
        if all(same_language(*codes) for codes in zip(own, wanted, strict=True)):
            return swap
    return None


def catalogue(path: Path, wanted: Wanted) -> Entries:
    """Messages of a gettext catalogue and their translations, of plural forms the first and last.

    Fuzzy, obsolete and untranslated messages are left out.

    Raises:
        UserError: its header says that its translations are in another language.
    """
    swap = False
    for entry in _messages(path):
        if isinstance(entry, Malformed | Omitted):
            yield entry
        elif isinstance(entry, dict):
            swap = _headed_backwards(path, entry, wanted.languages)
        else:
            for source, target in zip(_originals(entry), _translations(entry), strict=True):
                if source.strip() and target.strip():
                    yield _one_line(target, source) if swap else _one_line(source, target)


def _headed_backwards(path: Path, header: dict[str, str], languages: Languages | None) -> bool:
    """Whether a catalogue's header says that it translates the other way around."""
    into, out_of = header.get("Language", ""), header.get("X-Source-Language", "")
    if languages is None or not into or same_language(into, languages.target):
        return False
    if out_of and _backwards([out_of, into], languages):
        return True
    raise UserError(
        f"{path} translates into {quoted(into)}, and {languages.target!r} is wanted: give another "
        "file, or mend its header (Language, and X-Source-Language if it is to be read backwards)"
    )


def by_message(source: Path, target: Path, wanted: Wanted) -> Entries:
    """Texts that two gettext or Fluent files have for the same messages.

    Raises:
        UserError: the files are of other languages than asked for.
    """
    if kind(source) in GETTEXT and wanted.languages is not None:
        for path, language in zip((source, target), wanted.languages, strict=True):
            own = language_of(path)
            if own is not None and not same_language(own, language):
                raise UserError(
                    f"{path} is in {quoted(own)}, and {language!r} is wanted in its place: list "
                    "the source first, or mend its header (Language)"
                )
    read = _fluent if kind(source) in FLUENT else _gettext
    texts: dict[Message, str] = {}
    for found in read(source):
        if isinstance(found, Malformed):
            yield found
        else:
            texts.setdefault(*found)
    for found in read(target):
        if isinstance(found, Malformed):
            yield found
        elif found[0] in texts:
            yield _one_line(texts[found[0]], found[1])


def language_of(path: Path) -> str | None:
    """The language of a gettext catalogue's translations, if its header says so."""
    header = next((entry for entry in _messages(path) if isinstance(entry, dict)), {})
    return header.get("Language") or None


# XML


_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_CODES = ("bpt", "ept", "ph", "it", "ut", "x", "bx", "ex", "sc", "ec", "sub")
"""Inline elements that hold markup, not text."""


def _text(element: Any) -> str:
    return " ".join("".join(_pieces(element)).split())


def _pieces(element: Any) -> Iterator[str]:
    waiting: list[Any] = [*reversed(element), element.text or ""]  # elements may be nested deep
    while waiting:
        piece = waiting.pop()
        if isinstance(piece, str):
            yield piece
            continue
        waiting.append(piece.tail or "")
        if not isinstance(piece.tag, str):  # a comment, or an entity: of HTML, as a rule
            yield unescape(piece.text) if piece.tag.__name__ == "Entity" else ""
        elif local_name(piece) not in _CODES:
            waiting += [*reversed(piece), piece.text or ""]


def _of_language(texts: dict[str, str], language: str) -> str | None:
    exact = texts.get(language.replace("_", "-").lower())
    if exact is not None:
        return exact
    return next((text for code, text in texts.items() if same_language(code, language)), None)


# gettext


def _messages(path: Path) -> Iterator[Any]:
    """The header of a catalogue, its translated messages, and in the places of others an `Omitted`.

    A block of lines that is no message is malformed.
    """
    try:
        import polib
    except ImportError as error:
        raise needs("corpora", error) from error
    data = content(path, CATALOGUE)
    if kind(path) == ".mo":
        try:
            compiled = _compiled(data, polib)
        except Exception as error:  # whatever the library raises for damaged files
            raise UserError(f"{path} is no intact gettext catalogue: compile it anew") from error
        yield dict(compiled.metadata)
        yield from compiled.translated_entries()
        return
    text = _decoded(data)
    whole = _parsed(text, polib)
    if whole is not None and UNREADABLE not in text:
        yield from _entries(whole)
        return
    line = 1
    for block in _BLANK_LINES.split(text):
        part = _parsed(block, polib) if block.strip() else polib.POFile()
        if part is None:
            yield Malformed(f"{path}, line {line}", "begins no gettext message: mend it")
        elif UNREADABLE in block:
            yield Malformed(f"{path}, line {line}", "is not in the encoding that the file names")
        else:
            yield from _entries(part)
        line += block.count("\n")


def _compiled(data: bytes, polib: Any) -> Any:
    """A compiled catalogue.

    Raises:
        Exception: it is damaged, or would be much larger than its file.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}[data[:4]]
    count, *tables = struct.unpack_from(f"{order}3I", data, 8)
    if 8 * count > len(data):
        raise ValueError("more messages than bytes")
    for table in tables:
        numbers = struct.unpack_from(f"{order}{2 * count}I", data, table)
        lengths, places = numbers[::2], numbers[1::2]
        if sum(lengths) > len(data):
            raise ValueError("messages that overlap")
        if any(place + length >= len(data) for length, place in zip(lengths, places, strict=True)):
            raise ValueError("messages that are cut off")
    return polib.mofile(data, encoding=_charset(data))


def _entries(part: Any) -> Iterator[Any]:
    """The header of a parsed catalogue, and its messages that are not obsolete."""
    if part.metadata:
        yield dict(part.metadata)
    for entry in part:
        if not entry.obsolete:
            yield entry if entry.translated() else Omitted(UNTRANSLATED)


def _decoded(data: bytes) -> str:
    """A catalogue's text in the encoding it names, by default UTF-8."""
    return decoded(data, _charset(data[:4096]))


def _charset(data: bytes) -> str:
    """The encoding that a catalogue names; UTF-8 if it is none, as a template's CHARSET."""
    charset = re.search(rb"charset=([\w-]+)", data)
    name = charset[1].decode() if charset else "utf-8"
    return name if is_charset(name) else "utf-8"


_BLANK_LINES = re.compile(r"((?:\n[ \t]*\r?)+\n)")
_TEXT = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_LINE = re.compile(
    rf"[ \t]*(#.*|((msgctxt|msgid|msgid_plural|msgstr(\[\d+\])?)?[ \t]*{_TEXT})?)[ \t]*\r?"
)


def _parsed(text: str, polib: Any) -> Any:
    """A text as a catalogue; None where a line of it is none of a catalogue."""
    rows = text.split("\n")
    if not all(map(_LINE.fullmatch, rows)):  # polib passes over some faults
        return None
    texts = groupby(rows, lambda row: row.lstrip().startswith('"'))  # it takes their square
    if any(text and sum(1 for _ in group) > MESSAGE for text, group in texts):
        return None
    try:
        return polib.pofile(text + "\n")
    except Exception:  # whatever the library raises for what it does not expect
        return None


def _gettext(path: Path) -> Iterator[tuple[Message, str] | Malformed]:
    for entry in _messages(path):
        if isinstance(entry, Malformed):
            yield entry
        if isinstance(entry, Malformed | Omitted | dict):
            continue
        key = f"{entry.msgctxt or ''}\x04{entry.msgid}"
        for form, text in zip(("one", "many"), _translations(entry), strict=False):
            yield (key, form), text


def _originals(entry: Any) -> list[str]:
    return [entry.msgid, entry.msgid_plural] if entry.msgid_plural else [entry.msgid]


def _translations(entry: Any) -> list[str]:
    if not entry.msgid_plural:
        return [entry.msgstr]
    forms = [text for _, text in sorted(entry.msgstr_plural.items())]
    return [forms[0], forms[-1]]


# Fluent


def _fluent(path: Path) -> Iterator[tuple[Message, str] | Malformed]:
    """Values and attributes of messages, of selections their default."""
    try:
        from fluent.syntax import ast
    except ImportError as error:
        raise needs("corpora", error) from error
    text = decoded(content(path, FLUENT_FILE)).replace("\r\n", "\n")
    line_at = line_counter(text, 1)
    for start, end, entry in _fluent_entries(text):
        problem = None
        if isinstance(entry, ast.Junk):
            problem = "is no Fluent message: mend it"
        elif UNREADABLE in text[start:end]:
            problem = "is not UTF-8: convert the file to it"
        elif isinstance(entry, ast.Message | ast.Term):
            try:
                yield from list(_fluent_texts(entry, "-" if isinstance(entry, ast.Term) else ""))
            except (ValueError, RecursionError):
                problem = "has an escape of no character, or is nested too deep: mend it"
        elif entry is None:
            problem = "is nested too deep: mend it"
        if problem is not None:
            yield Malformed(f"{path}, line {line_at(start)}", problem)


def _fluent_entries(text: str) -> Iterator[tuple[int, int, Any]]:
    """Start, end and tree of every entry of a file; None for one that is nested too deep."""
    from fluent.syntax import parse

    try:
        yield from _with_places(parse(text), 0)
        return
    except RecursionError:
        starts = [0, *(found.start() for found in _FLUENT_ENTRY.finditer(text, 1)), len(text)]
    for start, end in pairwise(starts):
        try:
            yield from _with_places(parse(text[start:end]), start)
        except RecursionError:
            yield start, end, None


def _with_places(parsed: Any, offset: int) -> Iterator[tuple[int, int, Any]]:
    for entry in parsed.body:
        yield offset + entry.span.start, offset + entry.span.end, entry


_FLUENT_ENTRY = re.compile(r"^(?=[-#A-Za-z])", re.MULTILINE)


def _fluent_texts(entry: Any, prefix: str) -> Iterator[tuple[Message, str]]:
    """Keys and texts of a message or a term."""
    if entry.value is not None:
        yield (prefix + entry.id.name, ""), _pattern(entry.value)
    for attribute in entry.attributes:
        yield (prefix + entry.id.name, attribute.id.name), _pattern(attribute.value)


def _pattern(pattern: Any) -> str:
    from fluent.syntax import ast
    from fluent.syntax.serializer import serialize_expression

    def shown(element: Any) -> str:
        if isinstance(element, ast.TextElement):
            return str(element.value)
        expression = element.expression
        while isinstance(expression, ast.Placeable):
            expression = expression.expression
        if isinstance(expression, ast.StringLiteral):
            return str(expression.parse()["value"])
        if isinstance(expression, ast.SelectExpression):
            return next(_pattern(v.value) for v in expression.variants if v.default)
        return f"{{ {serialize_expression(expression)} }}"

    return "".join(map(shown, pattern.elements))


def _one_line(source: str, target: str) -> Pair:
    return normal(" ".join(source.split()), " ".join(target.split()))
