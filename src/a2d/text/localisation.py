"""Readers of translation memories, XLIFF, gettext and Fluent files."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from html import unescape
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from a2d.errors import UserError, missing_library
from a2d.quoting import listed, quoted
from a2d.text.bounds import MAX_CATALOGUE, MAX_COLUMNS, MAX_FLUENT_FILE, MAX_MESSAGE_LINES
from a2d.text.encodings import UNREADABLE, decode, is_charset
from a2d.text.files import content, suffix_of
from a2d.text.languages import same_language
from a2d.text.markup import elements, line_counter, local_name
from a2d.text.pairs import (
    Entries,
    Languages,
    Malformed,
    Omitted,
    Pair,
    Selection,
    Threshold,
    normal_pair,
)

GETTEXT = (".po", ".mo")
FLUENT = (".ftl",)
_NO_TRANSLATION = "without a translation"

Message = tuple[str, str]
"""Key and form (plural form or attribute) that identify a text in the files of two languages."""


def translation_memory(path: Path, selection: Selection) -> Entries:
    """Read the translation units of a TMX file; units that lack one of the languages are omitted.

    `de` also matches `de-AT` if a unit has no `de` itself; of several variants the first one is
    used, and the others are omitted. The score of a unit is its `prop` of the type that the
    threshold names.

    Raises:
        UserError: no unit has both languages, or no languages were named.
    """
    languages = Languages(*map(str, selection.keys)) if selection.keys else selection.languages
    if languages is None:
        raise UserError(
            f"{path} may hold many languages: name two by --source and --target, or by 'source' "
            "and 'target' next to its path"
        )
    languages_seen: set[str] = set()
    has_pairs = False
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
        if len(languages_seen) < MAX_COLUMNS:  # enough for a message
            languages_seen |= texts.keys()
        sides = [_text_in(texts, code) for code in languages]
        absent = [repr(c) for c, text in zip(languages, sides, strict=True) if text is None]
        if absent:
            yield Omitted(f"without {' and '.join(absent)}")
            continue
        has_pairs = True
        for code in languages:
            if _has_variants(texts, code):
                yield Omitted(f"another variant of {code!r} (name a region, as in pt-BR)")
        yield _check_score(unit, normal_pair(*map(str, sides)), selection.threshold, path)
    if languages_seen and not has_pairs:
        raise UserError(
            f"{path} has no unit in both {languages.source!r} and {languages.target!r}: name two "
            f"of its languages ({listed(sorted(languages_seen))})"
        )


def _check_score(
    unit: Any, pair: Pair, threshold: Threshold | None, path: Path
) -> Pair | Malformed | Omitted:
    if threshold is None:
        return pair
    props = (prop for prop in unit.iter("{*}prop") if prop.get("type") == threshold.key)
    score = next((prop.text for prop in props), None)
    return threshold.judge(score, pair, f"{path}, line {unit.sourceline}")


def xliff(path: Path, selection: Selection) -> Entries:
    """Read the translated segments of an XLIFF file (1.2 or 2.x), reversed if its languages are.

    Parts in other languages and untranslatable units are omitted.

    Raises:
        UserError: the whole file is in other languages.
    """
    languages = selection.languages
    reverse: bool | None = False
    other_codes, has_units = None, False
    for element in elements(path, ("trans-unit", "segment"), ("xliff", "file")):
        if isinstance(element, Malformed):
            yield element
            continue
        if local_name(element) in ("xliff", "file"):
            codes = [element.get(a) or element.get(b) for a, b in _XLIFF_LANGUAGES]
            if languages is not None and all(codes):
                reverse = _is_reversed(codes, languages)
                other_codes = codes if reverse is None else other_codes
            continue
        if reverse is None:
            yield Omitted("in other languages")
        elif _is_translatable(element):
            has_units = True
            yield from _translated_segments(element, reverse)
    if languages is not None and other_codes is not None and not has_units:
        raise UserError(
            f"{path} translates from {quoted(other_codes[0])} to {quoted(other_codes[1])}, but the "
            f"languages are {languages.source!r} and {languages.target!r}: give another file, or "
            "correct the languages"
        )


def _translated_segments(element: Any, reverse: bool) -> Entries:
    """Yield the segments of a unit that have a translation."""
    source, target = (element.find(f"{{*}}{side}") for side in ("source", "target"))
    segments: Any = ()
    if source is not None and target is not None:
        if (element.get("state") or target.get("state")) not in _UNTRANSLATED_STATES:
            segments = _segments(element.find("{*}seg-source"), source, target)
    elif source is None:
        return
    has_pairs = False
    for sides in segments:
        texts = [_text(side) for side in sides]
        if all(texts):
            has_pairs = True
            yield normal_pair(*(reversed(texts) if reverse else texts))
    if not has_pairs:
        yield Omitted(_NO_TRANSLATION)


_XLIFF_LANGUAGES = (("source-language", "srcLang"), ("target-language", "trgLang"))
_UNTRANSLATED_STATES = ("new", "needs-translation", "initial")


def _is_translatable(element: Any) -> bool:
    """Return whether the nearest `translate` attribute, of the element or above, is not "no"."""
    attributes = (ancestor.get("translate") for ancestor in (element, *element.iterancestors()))
    return next(filter(None, attributes), "yes") != "no"


def _segments(segmented_source: Any, source: Any, target: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the two sides of a unit, or those of each of its segments that has a translation."""
    sources, targets = (
        {mark.get("mid"): mark for mark in side.iter("{*}mrk") if mark.get("mtype") == "seg"}
        for side in (source if segmented_source is None else segmented_source, target)
    )
    if sources and targets:
        yield from ((part, targets[mid]) for mid, part in sources.items() if mid in targets)
    else:
        yield source, target


def _is_reversed(codes: list[str], languages: Languages) -> bool | None:
    """Return whether a text's languages are reversed; None if they are other languages."""
    for reverse, expected in ((False, languages), (True, Languages(*reversed(languages)))):
        if all(same_language(*pair) for pair in zip(codes, expected, strict=True)):
            return reverse
    return None


def catalogue(path: Path, selection: Selection) -> Entries:
    """Read the messages of a gettext catalogue; of plural forms, the first and the last.

    Fuzzy, obsolete and untranslated messages are omitted.

    Raises:
        UserError: the header names another target language.
    """
    reverse = False
    for entry in _catalogue_messages(path):
        if isinstance(entry, Malformed | Omitted):
            yield entry
        elif isinstance(entry, dict):
            reverse = _header_is_reversed(path, entry, selection.languages)
        else:
            for source, target in zip(_originals(entry), _translations(entry), strict=True):
                if source.strip() and target.strip():
                    yield _one_line(target, source) if reverse else _one_line(source, target)


def _header_is_reversed(path: Path, header: dict[str, str], languages: Languages | None) -> bool:
    """Return whether a catalogue's header says that it translates from target to source."""
    target_code, source_code = header.get("Language", ""), header.get("X-Source-Language", "")
    if languages is None or not target_code or same_language(target_code, languages.target):
        return False
    if source_code and _is_reversed([source_code, target_code], languages):
        return True
    raise UserError(
        f"{path} translates into {quoted(target_code)}, but the target is {languages.target!r}: "
        "give another file, or correct its header (Language; X-Source-Language reverses it)"
    )


def message_pairs(source: Path, target: Path, selection: Selection) -> Entries:
    """Pair the texts that two gettext or Fluent files have for the same messages.

    Raises:
        UserError: the files are in other languages than the corpus.
    """
    if suffix_of(source) in GETTEXT and selection.languages is not None:
        for path, language in zip((source, target), selection.languages, strict=True):
            code = language_of(path)
            if code is not None and not same_language(code, language):
                raise UserError(
                    f"{path} is in {quoted(code)}, but is listed as {language!r}: list the "
                    "source first, or correct its header (Language)"
                )
    read = _fluent_messages if suffix_of(source) in FLUENT else _gettext_messages
    texts: dict[Message, str] = {}
    for message in read(source):
        if isinstance(message, Malformed):
            yield message
        else:
            texts.setdefault(*message)
    for message in read(target):
        if isinstance(message, Malformed):
            yield message
        elif message[0] in texts:
            yield _one_line(texts[message[0]], message[1])


def language_of(path: Path) -> str | None:
    """Return the language of a gettext catalogue's translations; None if its header has none."""
    header = next((entry for entry in _catalogue_messages(path) if isinstance(entry, dict)), {})
    return header.get("Language") or None


# XML


_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_MARKUP_ELEMENTS = ("bpt", "ept", "ph", "it", "ut", "x", "bx", "ex", "sc", "ec", "sub")
"""Inline elements that contain markup, not text."""


def _text(element: Any) -> str:
    return " ".join("".join(_pieces(element)).split())


def _pieces(element: Any) -> Iterator[str]:
    stack: list[Any] = [*reversed(element), element.text or ""]  # no recursion: nesting may be deep
    while stack:
        piece = stack.pop()
        if isinstance(piece, str):
            yield piece
            continue
        stack.append(piece.tail or "")
        if not isinstance(piece.tag, str):  # a comment, or an entity (mostly of HTML)
            yield unescape(piece.text) if piece.tag.__name__ == "Entity" else ""
        elif local_name(piece) not in _MARKUP_ELEMENTS:
            stack += [*reversed(piece), piece.text or ""]


def _text_in(texts: dict[str, str], language: str) -> str | None:
    exact = texts.get(language.replace("_", "-").lower())
    if exact is not None:
        return exact
    return next((text for code, text in texts.items() if same_language(code, language)), None)


def _has_variants(texts: dict[str, str], language: str) -> bool:
    """Return whether a unit has several regional variants of a language, and no plain text."""
    if language.replace("_", "-").lower() in texts:
        return False
    return sum(same_language(code, language) for code in texts) > 1


# gettext


def _catalogue_messages(path: Path) -> Iterator[Any]:
    """Yield a catalogue's header, its translated messages, and `Omitted` for its other messages.

    A block of lines that is no message is `Malformed`.
    """
    try:
        import polib
    except ImportError as error:
        raise missing_library("corpora", error) from error
    data = content(path, MAX_CATALOGUE)
    if suffix_of(path) == ".mo":
        try:
            compiled = _compiled_catalogue(data, polib)
        except Exception as error:  # whatever the library raises for damaged files
            raise UserError(f"{path} is a damaged gettext catalogue: compile it again") from error
        yield dict(compiled.metadata)
        yield from compiled.translated_entries()
        return
    text = _decode_catalogue(data)
    parsed = _parse_catalogue(text, polib)
    if parsed is not None and UNREADABLE not in text:
        yield from _catalogue_entries(parsed)
        return
    line = 1
    for block in _BLANK_LINES.split(text):
        messages = _parse_catalogue(block, polib) if block.strip() else polib.POFile()
        if messages is None:
            yield Malformed(f"{path}, line {line}", "is not a gettext message: correct it")
        elif UNREADABLE in block:
            yield Malformed(f"{path}, line {line}", "is not in the encoding that the file declares")
        else:
            yield from _catalogue_entries(messages)
        line += block.count("\n")


def _compiled_catalogue(data: bytes, polib: Any) -> Any:
    """Parse a compiled catalogue.

    Raises:
        Exception: the file is damaged, or its texts would be much larger than the file.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}[data[:4]]
    count, *tables = struct.unpack_from(f"{order}3I", data, 8)
    if 8 * count > len(data):
        raise ValueError("more messages than bytes")
    for table in tables:
        numbers = struct.unpack_from(f"{order}{2 * count}I", data, table)
        lengths, offsets = numbers[::2], numbers[1::2]
        if sum(lengths) > len(data):
            raise ValueError("messages that overlap")
        if any(
            offset + length >= len(data) for length, offset in zip(lengths, offsets, strict=True)
        ):
            raise ValueError("messages that are cut off")
    header = max(0, data.find(b"Content-Type:"))  # messages may say "charset=" before it
    return polib.mofile(data, encoding=_charset(data[header:]))


def _catalogue_entries(part: Any) -> Iterator[Any]:
    """Yield the header of a parsed catalogue, and its messages."""
    if part.metadata:
        yield dict(part.metadata)
    for entry in part:
        if entry.obsolete:
            yield Omitted("obsolete")
        else:
            yield entry if entry.translated() else Omitted(_NO_TRANSLATION)


def _decode_catalogue(data: bytes) -> str:
    """Decode a catalogue by the encoding that it declares; the default is UTF-8."""
    return decode(data, _charset(data[:4096]))


def _charset(data: bytes) -> str:
    """Return the encoding that a catalogue declares; UTF-8 if it is unknown (as in templates)."""
    charset = re.search(rb"charset=([\w-]+)", data)
    name = charset[1].decode() if charset else "utf-8"
    return name if is_charset(name) else "utf-8"


_BLANK_LINES = re.compile(r"((?:\n[ \t]*\r?)+\n)")
_TEXT = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_LINE = re.compile(
    rf"[ \t]*(#.*|((msgctxt|msgid|msgid_plural|msgstr(\[\d+\])?)?[ \t]*{_TEXT})?)[ \t]*\r?"
)


def _parse_catalogue(text: str, polib: Any) -> Any:
    """Parse a text as a catalogue; return None if a line of it does not belong to one."""
    rows = text.split("\n")
    if not all(map(_LINE.fullmatch, rows)):  # polib ignores some errors
        return None
    texts = groupby(rows, lambda row: row.lstrip().startswith('"'))  # polib is quadratic in them
    if any(text and sum(1 for _ in group) > MAX_MESSAGE_LINES for text, group in texts):
        return None
    try:
        return polib.pofile(text + "\n")
    except Exception:  # whatever the library raises for what it does not expect
        return None


def _gettext_messages(path: Path) -> Iterator[tuple[Message, str] | Malformed]:
    for entry in _catalogue_messages(path):
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


def _fluent_messages(path: Path) -> Iterator[tuple[Message, str] | Malformed]:
    """Yield the values and attributes of messages; of select expressions, the default variant."""
    try:
        from fluent.syntax import ast
    except ImportError as error:
        raise missing_library("corpora", error) from error
    text = decode(content(path, MAX_FLUENT_FILE)).replace("\r\n", "\n")
    line_at = line_counter(text, 1)
    for start, end, entry in _fluent_entries(text):
        problem = None
        if isinstance(entry, ast.Junk):
            problem = "is not a Fluent message: correct it"
        elif UNREADABLE in text[start:end]:
            problem = "is not valid UTF-8: convert the file to UTF-8"
        elif isinstance(entry, ast.Message | ast.Term):
            try:
                yield from list(_fluent_texts(entry, "-" if isinstance(entry, ast.Term) else ""))
            except (ValueError, RecursionError):
                problem = "has an invalid escape, or is nested too deep: correct it"
        elif entry is None:
            problem = "is nested too deep: simplify it"
        if problem is not None:
            yield Malformed(f"{path}, line {line_at(start)}", problem)


def _fluent_entries(text: str) -> Iterator[tuple[int, int, Any]]:
    """Yield start, end and syntax tree of each entry of a file; None for trees nested too deep."""
    from fluent.syntax import parse

    try:
        yield from _spans(parse(text), 0)
        return
    except RecursionError:
        starts = [0, *(match.start() for match in _FLUENT_ENTRY.finditer(text, 1)), len(text)]
    for start, end in pairwise(starts):
        try:
            yield from _spans(parse(text[start:end]), start)
        except RecursionError:
            yield start, end, None


def _spans(parsed: Any, offset: int) -> Iterator[tuple[int, int, Any]]:
    for entry in parsed.body:
        yield offset + entry.span.start, offset + entry.span.end, entry


_FLUENT_ENTRY = re.compile(r"^(?=[-#A-Za-z])", re.MULTILINE)


def _fluent_texts(entry: Any, prefix: str) -> Iterator[tuple[Message, str]]:
    """Yield the keys and texts of a message or a term."""
    if entry.value is not None:
        yield (prefix + entry.id.name, ""), _pattern(entry.value)
    for attribute in entry.attributes:
        yield (prefix + entry.id.name, attribute.id.name), _pattern(attribute.value)


def _pattern(pattern: Any) -> str:
    from fluent.syntax import ast
    from fluent.syntax.serializer import serialize_expression

    def element_text(element: Any) -> str:
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

    return "".join(map(element_text, pattern.elements))


def _one_line(source: str, target: str) -> Pair:
    return normal_pair(" ".join(source.split()), " ".join(target.split()))
