"""Reader of elements of XML files that may exceed memory or be broken in places."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from a2d.errors import UserError, missing_library
from a2d.quoting import WIDTH, quoted, shorten
from a2d.text.bounds import MAX_ELEMENT, MAX_NAMESPACES, MAX_SKIPPED, format_size
from a2d.text.encodings import UNREADABLE, encoding_of, is_charset, peek_start
from a2d.text.files import blocks, open_binary
from a2d.text.pairs import Malformed

_DECLARED_ENCODING = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)""")
_NAMESPACE = re.compile(r"""\sxmlns:[\w.-]+\s*=\s*(?:"[^"<]*"|'[^'<]*')""")
_ATTRIBUTES = r"""(?:"[^"<]*+"|'[^'<]*+'|[^<>"']++)*+"""
_ANGLE_BRACKET = re.compile("[<>]")
_LXML_NAMES = {"utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE"}
_DOCTYPE = '<!DOCTYPE a SYSTEM "a">'
"""Refers to declarations that are never read, so that undeclared entities are no error."""
_PARSER_OPTIONS: dict[str, Any] = {"resolve_entities": False, "no_network": True}


class _TooLargeError(Exception):
    """No element ends within `MAX_ELEMENT` bytes."""


class _MeteredFile:
    """File that yields at most `MAX_ELEMENT` bytes between two elements."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.remaining = MAX_ELEMENT

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes."""
        block = self._file.read(count)
        self.remaining -= len(block)
        if self.remaining < 0:
            raise _TooLargeError
        return block


def elements(
    path: Path, units: tuple[str, ...], containers: tuple[str, ...] = ()
) -> Iterator[Any | Malformed]:
    """Yield elements by their local names, one at a time, in order; broken ones are `Malformed`.

    Args:
        path: the file.
        units: names of elements that are yielded complete, and freed afterwards.
        containers: names of elements that are yielded when they begin, with only their attributes.

    Raises:
        UserError: lxml is missing, or the file cannot be read or is in an unknown encoding.
    """
    try:
        from lxml import etree
    except ImportError as error:
        raise missing_library("corpora", error) from error
    count = 0
    with open_binary(path) as file:
        names = [f"{{*}}{name}" for name in units + containers]
        # lxml does not detect UTF-16 without a mark, or with a contradicting declaration.
        detected = encoding_of(peek_start(file), "")
        encoding = {"encoding": _LXML_NAMES.get(detected, detected)} if detected else {}
        options = _PARSER_OPTIONS | encoding
        metered_file = _MeteredFile(file)
        parser = etree.iterparse(metered_file, events=("start", "end"), tag=names, **options)
        try:
            for event, element in parser:
                if (event == "end") == (local_name(element) in units):
                    yield element
                    if event == "end":
                        count += 1
                        _free(element)
                        metered_file.remaining = MAX_ELEMENT
            return
        except (etree.XMLSyntaxError, _TooLargeError) as error:
            failure = error
    # Pieces tolerate undeclared entities (mostly of HTML), and text of any size between them.
    error_types = {entry.type for entry in parser.error_log}
    undeclared = {etree.ErrorTypes.ERR_UNDECLARED_ENTITY}
    broken = isinstance(failure, _TooLargeError) or error_types == undeclared
    with open_binary(path) as file:
        for element in _elements_of_pieces(file, path, units, containers, count):
            broken = broken or isinstance(element, Malformed)
            yield element
    if not broken and isinstance(failure, etree.XMLSyntaxError):  # outside elements
        where = f"{path}, line {failure.lineno}" if failure.lineno else str(path)
        yield Malformed(where, f"is not valid XML ({shorten(failure.msg or 'it is empty', WIDTH)})")


def local_name(element: Any) -> str:
    """Return an element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _free(element: Any) -> None:
    """Free an element and those before it, because files may be larger than memory."""
    element.clear()
    while (parent := element.getparent()) is not None:
        while element.getprevious() is not None:
            del parent[0]
        element = parent


def _elements_of_pieces(
    file: IO[bytes], path: Path, units: tuple[str, ...], containers: tuple[str, ...], skip: int
) -> Iterator[Any | Malformed]:
    """Yield elements of a file that is not valid XML as a whole, each parsed on its own.

    Args:
        file: the file.
        path: its path, for messages.
        units: as in `elements`.
        containers: as in `elements`.
        skip: number of `units` elements to skip, because they were yielded before.
    """
    from lxml import etree

    parser = etree.XMLParser(**_PARSER_OPTIONS)
    namespaces = ""
    for line, name, text in _pieces(file, path, units, containers):
        if len(text) > MAX_ELEMENT:
            problem = f"is an element of more than {format_size(MAX_ELEMENT)}: correct or split it"
            yield Malformed(f"{path}, line {line}", problem)
            continue
        if len(namespaces) < MAX_NAMESPACES:
            declarations = _NAMESPACE.findall(text)
            namespaces += "".join(n for n in dict.fromkeys(declarations) if n not in namespaces)
        if not name:
            continue
        skip -= name in units
        if name in units and skip >= 0:
            continue
        if UNREADABLE in text:
            yield Malformed(f"{path}, line {line}", "is not in the encoding that the file declares")
            continue
        try:
            (element,) = etree.fromstring(f"{_DOCTYPE}<a{namespaces}>{text}</a>", parser)
        except (etree.XMLSyntaxError, ValueError) as error:
            line += max(0, (getattr(error, "lineno", 0) or 0) - 1)
            problem = " ".join(str(getattr(error, "msg", error)).partition(", line ")[0].split())
            yield Malformed(f"{path}, line {line}", f"is not valid XML ({shorten(problem, WIDTH)})")
        else:
            yield element


def _pieces(
    file: IO[bytes], path: Path, units: tuple[str, ...], containers: tuple[str, ...]
) -> Iterator[tuple[int, str, str]]:
    """Yield line, name and text of each element, and with the name "" the text between elements.

    Of a container, the text is only the start tag. An element without an end tag ends where the
    next one begins. Of an element that is too large, the yielded text slightly exceeds the limit.
    """
    names = "|".join(map(re.escape, units + containers))
    tag = re.compile(rf"""<(/?)(?:[\w.-]+:)?({names})(?=[\s/>])({_ATTRIBUTES}>)?""")
    line, unread, open_name, dropped = 1, "", "", 0
    for text in _decoded_blocks(file, path):
        unread += text
        line_at = line_counter(unread, line)
        place, start = 0, 0 if open_name else None
        for match in tag.finditer(unread, len(open_name)):
            closing, name = match[1], match[2]
            if not match[3] and not _ANGLE_BRACKET.search(unread, match.end()):
                break  # cut by the end of the block
            if name in containers:
                if not closing and match[3] and start is None:
                    yield line_at(match.start()), name, _empty_element(match[0])
                    place = match.end()
            elif start is None and not closing:
                yield line, "", unread[place : match.start()]
                start, open_name = match.start(), name
            elif start is not None and (not closing or name == open_name):
                piece_end = match.end() if closing else match.start()
                yield line_at(start), open_name, unread[start:piece_end]
                place, dropped = piece_end, 0
                start, open_name = (None, "") if closing else (match.start(), name)
        unread_start = start
        if unread_start is None:
            cut = unread.rfind("<", place)  # a tag may be cut by the end of the block
            unread_start = len(unread) if cut < 0 or ">" in unread[cut:] else cut
            yield line, "", unread[place:unread_start]
        line = line_at(unread_start)
        unread = unread[unread_start:]
        if len(unread) > MAX_ELEMENT:
            yield line, open_name, unread
            dropped += len(unread)
            if dropped > MAX_SKIPPED:
                raise UserError(
                    f"{path}, line {line}: no element ends within {format_size(MAX_SKIPPED)}"
                )
            line, unread, open_name = line + unread.count("\n"), "", ""
    if open_name:
        yield line, open_name, unread


def line_counter(text: str, first: int) -> Callable[[int], int]:
    """Build the function that returns the line of an index of `text`; indices must not decrease.

    Args:
        text: the text.
        first: line in which the text begins.
    """
    line, counted = first, 0

    def line_at(index: int) -> int:
        nonlocal line, counted
        line += text.count("\n", counted, index)
        counted = index
        return line

    return line_at


def _empty_element(tag: str) -> str:
    """Return a start tag as an element without content."""
    return tag if tag.endswith("/>") else tag[:-1] + "/>"


def _decoded_blocks(file: IO[bytes], path: Path) -> Iterator[str]:
    """Yield a file's text; `UNREADABLE` replaces bytes that are not valid in its encoding."""
    encoding = _encoding(peek_start(file))
    if not is_charset(encoding):
        raise UserError(f"{path} declares an unknown encoding, {quoted(encoding)}: correct it")
    return blocks(file, encoding)


def _encoding(start: bytes) -> str:
    declared = _DECLARED_ENCODING.match(start.removeprefix(codecs.BOM_UTF8).lstrip())
    name = declared[1].decode().lower() if declared else "utf-8"
    # A declaration of UTF-16 that is readable as single bytes is wrong.
    is_utf8 = name == "utf-8" or name.startswith(("utf-16", "ucs-2"))
    return encoding_of(start, "utf-8-sig" if is_utf8 else name)
