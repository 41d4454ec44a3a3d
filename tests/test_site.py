"""The documentation site: tables from docstrings, and the build."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import ROOT

from a2d import cli_data
from a2d.families import FAMILIES
from a2d.method.formulas import FORMULAS
from a2d.method.methods import METHODS
from a2d.runs.recipe import Recipe
from a2d.runs.sections import section_at

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        import site_tables

        yield site_tables


def first_cells(table):
    return [line.split("|")[1].strip(" `") for line in table.splitlines()[2:]]


def sections(section=Recipe, path=""):
    """Map paths in a recipe to sections."""
    result = {path or "recipe": section}
    for key in section.__pydantic_fields__:
        if (inner := section_at(section, key)) is not None:
            result |= sections(inner, f"{path}.{key}".lstrip("."))
    return result


@pytest.mark.parametrize("path", sections())
def test_every_setting_is_explained(tables, path):
    section = sections()[path]
    assert set(first_cells(tables.settings(path))) == set(section.__pydantic_fields__)


def test_every_section_is_on_the_page_of_settings():
    documented = set(
        re.findall(r"<!-- build: settings ([\w.]+) -->", (DOCS / "settings.md").read_text())
    )
    page = {"teacher.shape": "students", "teacher.training": "training", "distillation": "methods"}
    assert {page.get(path, path) for path in sections()} == documented


def test_a_table_has_defaults_and_values(tables):
    lines = tables.settings("corpus.cleaning").splitlines()
    (line,) = (line for line in lines if line.startswith("| `language` | drop pairs"))
    assert line.endswith("| bool or auto | `false` |")
    assert any(line.endswith("| int | `250` |") for line in lines)
    assert "| corpus | required |" in tables.settings("corpus")


def test_every_command_is_on_the_page_of_commands(tables):
    import typer

    from a2d import cli

    commands = typer.main.get_command(cli.app).commands
    names = {name for name in commands if name != "data"}
    names |= {f"data {name}" for name in typer.main.get_command(cli_data.app).commands}
    text = (DOCS / "commands.md").read_text("utf-8")
    assert set(re.findall(r"<!-- build: command (.*) -->", text)) == names
    assert "| `--student` | required | " in tables.command("distill")


def test_methods_and_formulas_have_rows():
    text = (DOCS / "methods.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w+-]+)`(?: \|.*){4,}$", text, re.MULTILINE)
    heads = {"method", "formula"}
    assert set(rows) - heads == METHODS.keys() | FORMULAS.keys()


def test_families_are_listed(tables):
    assert first_cells(tables.registry("FAMILIES")) == list(FAMILIES)


def test_markers_become_tables(tables):
    markdown = pytest.importorskip("markdown")
    html = markdown.markdown(
        "# A\n\n<!-- build: settings compute -->\n\nB\n",
        extensions=["tables", tables.makeExtension()],
    )
    assert "<td><code>parallel</code></td>" in html
    assert html.endswith("<p>B</p>")


def test_every_page_is_in_the_navigation():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]
    text = str(nav)
    pages = re.findall(r"'([\w-]+\.md)'", text)
    assert sorted(pages) == sorted(path.name for path in DOCS.glob("*.md"))


@pytest.mark.slow
def test_the_site_builds_and_asks_no_other_host(tmp_path):
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings_handlers.python")
    shutil.copytree(DOCS, tmp_path / "docs")  # links are not followed
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.gz", "*.pyc"))
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    paths = os.pathsep.join([str(ROOT / "tools"), str(ROOT / "src"), *sys.path])
    process = subprocess.run(
        [Path(sys.executable).parent / "zensical", "build", "--strict"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    pages = {p.name: p.read_text("utf-8") for p in (tmp_path / "build/site").glob("*.html")}
    assert 'id="a2d.A2DTrainer"' in pages["api.html"]
    assert "plateau_patience" in pages["settings.html"]
    for text in pages.values():
        assert "<!-- build:" not in text
        assert not re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(?:https?:)?//', text)
