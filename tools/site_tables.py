"""Markdown extension of the site: tables from the package's docstrings.

A line `<!-- build: KIND NAME -->` becomes a table when the site is built:

    settings corpus.cleaning   settings of a recipe's section (`recipe`: the sections themselves)
    attributes a2d.A2DConfig   attributes of a class
    command distill            arguments and options of a command
    registry FAMILIES          model families

A line that ends with `<!-- not on the site -->` is for readers of the repository.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from typing import Any

import typer
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from regions import table

BUILD = re.compile(r"<!-- build: (?P<kind>\w+) (?P<name>[\w.]+(?: \w+)*) -->")

ELSEWHERE = "<!-- not on the site -->"


class Tables(Preprocessor):
    """Preprocessor that replaces the markers of a page by tables."""

    def run(self, lines: list[str]) -> list[str]:
        """Replace the lines that are markers."""
        new: list[str] = []
        for line in lines:
            if line.rstrip().endswith(ELSEWHERE):
                continue
            marker = BUILD.fullmatch(line.strip())
            new += ["", *build(**marker.groupdict()).split("\n"), ""] if marker else [line]
        return new


class TablesExtension(Extension):
    """Extension of Python-Markdown that registers `Tables`."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the preprocessor before the one for HTML, which would remove the comments."""
        md.preprocessors.register(Tables(md), "a2d_tables", 100)


def makeExtension(**settings: Any) -> TablesExtension:
    """Entry point of Python-Markdown."""
    return TablesExtension(**settings)


def build(kind: str, name: str) -> str:
    """Build the Markdown that replaces a marker."""
    return KINDS[kind](name)


def settings(path: str) -> str:
    """Settings of a recipe's section: name, values, default and meaning."""
    from a2d.runs.recipe import Recipe
    from a2d.runs.sections import section_at

    section: Any = Recipe
    for key in [] if path == "recipe" else path.split("."):
        section = section_at(section, key)
    return attribute_table(section).replace("None:", "`null`:")


def attributes(path: str) -> str:
    """Attributes of a class by its dotted path."""
    module, _, name = path.rpartition(".")
    return attribute_table(getattr(import_module(module), name))


def attribute_table(owner: Any) -> str:
    """Table of the documented attributes of a class and of its parents in this package."""
    meanings = documented(owner)
    annotations = annotations_of(owner) | dict.fromkeys(inner_sections(owner), "section")
    defaults = defaults_of(owner)
    rows = []
    for name, meaning in meanings.items():
        if name in defaults:
            rows.append([f"`{name}`", meaning, code(values(annotations[name])), defaults[name]])
    return table(["name", "meaning", "values", "default"], rows, left=4)


def inner_sections(owner: Any) -> list[str]:
    """List the settings that are sections themselves."""
    from a2d.runs.sections import section_at

    named = getattr(owner, "__pydantic_fields__", {})
    return [key for key in named if section_at(owner, key) is not None]


def documented(owner: Any) -> dict[str, str]:
    """Map attributes of a class and its parents to their docs, parents first, as table cells."""
    meanings: dict[str, str] = {}
    for parent in reversed(owner.__mro__):
        if parent.__module__.startswith("a2d.") and "__doc__" in vars(parent) and parent.__doc__:
            text = inspect.cleandoc(parent.__doc__)
            for title in ("Attributes", "Args"):
                if section := re.search(rf"^{title}:\n((?:(?: .*)?\n?)*)", text, re.MULTILINE):
                    entries = re.findall(
                        r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE
                    )
                    for names, meaning in entries:
                        line = " ".join(meaning.split()).replace("|", "\\|")
                        meanings |= dict.fromkeys(names.split(", "), line)
    return meanings


def annotations_of(owner: Any) -> dict[str, str]:
    """Map the fields of a class to their annotations as they are written."""
    annotations: dict[str, str] = {}
    for parent in reversed(owner.__mro__):
        if parent.__module__.startswith("a2d."):
            annotations |= {k: str(v) for k, v in inspect.get_annotations(parent).items()}
    return annotations


def defaults_of(owner: Any) -> dict[str, str]:
    """Map the fields of a class to their defaults as in a recipe."""
    if issubclass(owner, BaseModel):
        raw = {n: f.get_default(call_default_factory=True) for n, f in owner.model_fields.items()}
    else:
        assert is_dataclass(owner)
        raw = {
            f.name: f.default_factory() if f.default_factory is not MISSING else f.default
            for f in fields(owner)
        }
    return {name: format_default(value) for name, value in raw.items()}


def format_default(value: Any) -> str:
    """Format a default value as YAML."""
    value = getattr(value, "default", value) if type(value).__name__ == "FieldInfo" else value
    if value in (MISSING, PydanticUndefined, ...):
        return "required"
    if isinstance(value, BaseModel) or is_dataclass(value):
        return ""
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    return f"`{value}`" if value != "" else "empty"


def values(annotation: str) -> str:
    """Format an annotation for readers."""
    annotation = re.sub(r"Annotated\[(\w+(?:\[\w+\])?), .*?\](?= \||$|\])", r"\1", annotation)
    annotation = annotation.replace("MethodName", "str").replace("CorpusSpec", "corpus")
    annotation = re.sub(r"\bStart\b", "teacher, random, marian", annotation)
    annotation = re.sub(r"Literal\[(.*?)\]", lambda m: re.sub("['\"]", "", m[1]), annotation)
    annotation = annotation.replace(" | None", "").replace("Name", "str")
    return annotation.replace(" | ", " or ")


def code(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return text.replace("|", "\\|").replace("[", "\\[")


def command(name: str) -> str:
    """Help, usage and options of a command."""
    from a2d import cli

    group: Any = typer.main.get_command(cli.app)
    for part in name.split():
        group = group.commands[part]
    context = group.context_class(group, info_name=f"a2d {name}")
    rows = []
    for parameter in group.params:
        if parameter.param_type_name == "option":
            names = ", ".join(f"`{option}`" for option in parameter.opts)
        else:
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        meaning = (getattr(parameter, "help", None) or "").replace("|", "\\|")
        default = "required" if parameter.required else default_of(parameter)
        rows.append([names, default, meaning])
    usage = " ".join(group.collect_usage_pieces(context))
    text = inspect.cleandoc(group.help or "")
    parts = [text, f"```text\na2d {name} {usage}\n```", table(["", "default", ""], rows, left=3)]
    return "\n\n".join(parts)


def default_of(parameter: Any) -> str:
    """Default of an option as `--help` shows it."""
    show = getattr(parameter, "show_default", None)
    if isinstance(show, str):
        return show
    value = parameter.default
    hidden = value is None or value in (False, "") or callable(value) or show is False
    return "" if hidden else f"`{value}`"


def registry(name: str) -> str:
    """Table of the entries of a registry of the package."""
    from a2d import families

    rows = [
        [f"`{f.model_type}`", yes(f.positions is None), yes(bool(f.ctranslate2_loader))]
        for f in getattr(families, name).values()
    ]
    return table(["model type", "relative positions", "export to CTranslate2"], rows, left=3)


def yes(value: bool) -> str:
    """Format a truth value for a table."""
    return "yes" if value else "no"


KINDS = {
    "settings": settings,
    "attributes": attributes,
    "command": command,
    "registry": registry,
}
"""Builders by the kind of a marker."""
