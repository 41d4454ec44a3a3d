"""Elements of XML files that may be larger than memory, and broken in places."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from a2d.errors import UserError
from a2d.quoting import WIDTH, quoted, shown
from a2d.text.bounds import ELEMENT, NAMESPACES, SKIPPED, size
from a2d.text.encodings import UNREADABLE, encoding_of, is_charset, start_of
from a2d.text.files import blocks, opened
from a2d.text.pairs import Malformed, needs

_DECLARED = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)""")
_NAMESPACE = re.compile(r"""\sxmlns:[\w.-]+\s*=\s*(?:"[^"<]*"|'[^'<]*')""")
_ATTRIBUTES = r"""(?:"[^"<]*+"|'[^'<]*+'|[^<>"']++)*+"""
_ANGLE = re.compile("[<>]")
_LXML_NAMES = {"utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE"}
_ANY_ENTITY = '<!DOCTYPE a SYSTEM "a">'
"""Names declarations that nobody reads: undeclared entities are no fault then."""
_OPTIONS: dict[str, Any] = {"resolve_entities": False, "no_network": True}


class _TooLarge(Exception):
    """No unit ends within `ELEMENT` bytes."""


class _Metered:
    """A file that yields no more than `ELEMENT` bytes between two units."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = ELEMENT

    def read(self, count: int) -> bytes:
        """Some bytes."""
        block = self._file.read(count)
        self.left -= len(block)
        if self.left < 0:
            raise _TooLarge
        return block


def elements(
    path: Path, whole: tuple[str, ...], containers: tuple[str, ...] = ()
) -> Iterator[Any | Malformed]:
    """Elements by their local names, one at a time, in order; broken ones are told in their place.

    Args:
        path: the file.
        whole: names of elements that come complete, and are forgotten afterwards.
        containers: names of those that come when they begin, with their attributes alone.

    Raises:
        UserError: lxml is missing, or the file cannot be read or is in an unknown encoding.
    """
    try:
        from lxml import etree
    except ImportError as error:
        raise needs("corpora", error) from error
    count = 0
    with opened(path) as file:
        names = [f"{{*}}{name}" for name in whole + containers]
        # Without a mark, or with a declaration that it contradicts, UTF-16 is unknown to lxml.
        wide = encoding_of(start_of(file), "")
        options = _OPTIONS | ({"encoding": _LXML_NAMES.get(wide, wide)} if wide else {})
        metered = _Metered(file)
        walk = etree.iterparse(metered, events=("start", "end"), tag=names, **options)
        try:
            for event, element in walk:
                if (event == "end") == (local_name(element) in whole):
                    yield element
                    if event == "end":
                        count += 1
                        _forget(element)
                        metered.left = ELEMENT
            return
        except (etree.XMLSyntaxError, _TooLarge) as error:
            fault = error
    # Undeclared entities, of HTML as a rule, are no fault of a piece, nor is size between pieces.
    kinds = {entry.type for entry in walk.error_log}
    broken = isinstance(fault, _TooLarge) or kinds == {etree.ErrorTypes.ERR_UNDECLARED_ENTITY}
    with opened(path) as file:
        for element in _one_by_one(file, path, whole, containers, count):
            broken = broken or isinstance(element, Malformed)
            yield element
    if not broken and isinstance(fault, etree.XMLSyntaxError):  # between elements, or at the end
        where = f"{path}, line {fault.lineno}" if fault.lineno else str(path)
        yield Malformed(where, f"is no valid XML ({shown(fault.msg or 'it is empty', WIDTH)})")


def local_name(element: Any) -> str:
    """An element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _forget(element: Any) -> None:
    """Free an element and those before it: files may be larger than memory."""
    element.clear()
    while (parent := element.getparent()) is not None:
        while element.getprevious() is not None:
            del parent[0]
        element = parent


def _one_by_one(
    file: IO[bytes], path: Path, whole: tuple[str, ...], containers: tuple[str, ...], skip: int
) -> Iterator[Any | Malformed]:
    """Elements of a file that is no XML as a whole, each parsed on its own; `skip` are left out."""
    from lxml import etree

    parser = etree.XMLParser(**_OPTIONS)
    namespaces = ""
    for line, name, text in _pieces(file, path, whole, containers):
        if len(text) > ELEMENT:
            problem = f"is an element of more than {size(ELEMENT)}: mend it, or split it"
            yield Malformed(f"{path}, line {line}", problem)
            continue
        if len(namespaces) < NAMESPACES:
            found = _NAMESPACE.findall(text)
            namespaces += "".join(n for n in dict.fromkeys(found) if n not in namespaces)
        if not name:
            continue
        skip -= name in whole
        if name in whole and skip >= 0:
            continue
        if UNREADABLE in text:
            yield Malformed(f"{path}, line {line}", "is not in the encoding that the file names")
            continue
        try:
            (element,) = etree.fromstring(f"{_ANY_ENTITY}<a{namespaces}>{text}</a>", parser)
        except (etree.XMLSyntaxError, ValueError) as error:
            line += max(0, (getattr(error, "lineno", 0) or 0) - 1)
            problem = " ".join(str(getattr(error, "msg", error)).partition(", line ")[0].split())
            yield Malformed(f"{path}, line {line}", f"is no valid XML ({shown(problem, WIDTH)})")
        else:
            yield element


def _pieces(
    file: IO[bytes], path: Path, whole: tuple[str, ...], containers: tuple[str, ...]
) -> Iterator[tuple[int, str, str]]:
    """Line, name and text of every element, a container's without its content; '': what else.

    An element whose end is missing ends where the next one begins; of one that is too large, a bit
    more than the bound is told.
    """
    names = "|".join(map(re.escape, whole + containers))
    tag = re.compile(rf"""<(/?)(?:[\w.-]+:)?({names})(?=[\s/>])({_ATTRIBUTES}>)?""")
    line, rest, begun, dropped = 1, "", "", 0
    for text in _blocks(file, path):
        rest += text
        line_at = line_counter(rest, line)
        place, start = 0, 0 if begun else None
        for found in tag.finditer(rest, len(begun)):
            end, name = found[1], found[2]
            if not found[3] and not _ANGLE.search(rest, found.end()):
                break  # cut by the end of the block
            if name in containers:
                if not end and found[3] and start is None:
                    yield line_at(found.start()), name, _alone(found[0])
                    place = found.end()
            elif start is None and not end:
                yield line, "", rest[place : found.start()]
                start, begun = found.start(), name
            elif start is not None and (not end or name == begun):
                stop = found.end() if end else found.start()
                yield line_at(start), begun, rest[start:stop]
                place, dropped = stop, 0
                start, begun = (None, "") if end else (found.start(), name)
        kept = start
        if kept is None:
            cut = rest.rfind("<", place)  # a tag may be cut by the end of the block
            kept = len(rest) if cut < 0 or ">" in rest[cut:] else cut
            yield line, "", rest[place:kept]
        line = line_at(kept)
        rest = rest[kept:]
        if len(rest) > ELEMENT:
            yield line, begun, rest
            dropped += len(rest)
            if dropped > SKIPPED:
                raise UserError(f"{path}, line {line}: no element ends within {size(SKIPPED)}")
            line, rest, begun = line + rest.count("\n"), "", ""
    if begun:
        yield line, begun, rest


def line_counter(text: str, first: int) -> Callable[[int], int]:
    """What tells the line of a place in a text that begins in line `first`; places only grow."""
    line, counted = first, 0

    def line_at(place: int) -> int:
        nonlocal line, counted
        line += text.count("\n", counted, place)
        counted = place
        return line

    return line_at


def _alone(tag: str) -> str:
    """A start tag as an element without content."""
    return tag if tag.endswith("/>") else tag[:-1] + "/>"


def _blocks(file: IO[bytes], path: Path) -> Iterator[str]:
    """A file's text, with `UNREADABLE` for what is not in its encoding."""
    encoding = _encoding(start_of(file))
    if not is_charset(encoding):
        raise UserError(f"{path} names an unknown encoding, {quoted(encoding)}: mend it")
    return blocks(file, encoding)


def _encoding(start: bytes) -> str:
    declared = _DECLARED.match(start.removeprefix(codecs.BOM_UTF8).lstrip())
    name = declared[1].decode().lower() if declared else "utf-8"
    # What declares UTF-16 in single bytes is not in it.
    single = name == "utf-8" or name.startswith(("utf-16", "ucs-2"))
    return encoding_of(start, "utf-8-sig" if single else name)
