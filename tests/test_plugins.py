"""Python files of the user's that a recipe names."""

import sys

import pytest

from a2d import plugins
from a2d.errors import UserError
from a2d.files import digest
from a2d.plugins import load_plugins
from a2d.runs.recipe import load_recipe
from a2d.runs.workers import Workers


@pytest.fixture
def plugin(tmp_path):
    """Writes a plugin and gives its path; its module is forgotten after the test."""
    names = []

    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        names.append(f"a2d_plugin_{path.stem}")
        return str(path)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_are_imported_once(plugin, tmp_path):
    path = plugin(f"with open({str(tmp_path / 'count')!r}, 'a') as file: file.write('x')")
    expected = {"mine.py": digest(tmp_path / "mine.py")}
    assert load_plugins([path]) == expected
    assert load_plugins([path]) == expected
    assert (tmp_path / "count").read_text() == "x"


def test_a_change_after_the_import_is_noticed(plugin):
    path = plugin("x = 1", "changing.py")
    load_plugins([path])
    plugin("x = 2", "changing.py")
    with pytest.raises(UserError, match=r"changing\.py has changed since it was imported"):
        load_plugins([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("x = (", "SyntaxError: ")],
)
def test_that_fail_are_named(plugin, text, message):
    path = plugin(text, f"failing{len(text)}.py")
    with pytest.raises(UserError, match="plugins: ") as caught:
        load_recipe("demo", [f"plugins=[{path}]"])
    assert f"{path} fails ({message}" in str(caught.value)


def test_of_one_name_are_refused(plugin, tmp_path):
    (tmp_path / "other").mkdir()
    first, second = plugin("x = 1", "alike.py"), plugin("x = 2", "other/alike.py")
    with pytest.raises(UserError, match=r"another plugin is called alike\.py: rename one of them"):
        load_plugins([first, second])


def test_installed_ones_that_fail_are_named(monkeypatch):
    class Broken:
        name, value = "broken", "broken.module"

        def load(self):
            raise ImportError("no such thing")

    plugins._load_installed.cache_clear()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [Broken()])
    with pytest.raises(
        UserError, match=r"'broken' \(broken\.module\) fails \(ImportError: no such"
    ):
        load_plugins()


@pytest.mark.parametrize("value", ["[none.py]", "[/tmp]", "[a2d]"])
def test_that_are_no_files_are_named(value):
    with pytest.raises(UserError, match=r"is not a Python file: give the path of a \.py file"):
        load_recipe("demo", [f"plugins={value}"])


@pytest.mark.parametrize("value", ["mine.py", "[1]", "{a: b}"])
def test_malformed_lists_are_refused(value):
    with pytest.raises(UserError, match="plugins"):
        load_recipe("demo", [f"plugins={value}"])


def test_define_names_that_the_recipe_uses(plugin):
    path = plugin(
        "from dataclasses import replace\n"
        "from a2d.method.methods import METHODS\n"
        "METHODS['other-kd'] = METHODS['kd']\n",
        "naming.py",
    )
    with pytest.raises(UserError, match="unknown method 'other-kd'"):
        load_recipe("demo", ["methods=[other-kd]"])
    recipe = load_recipe("demo", ["methods=[other-kd]", f"plugins=[{path}]"])
    assert recipe.methods[0].name == "other-kd"
    from a2d.method.methods import METHODS

    del METHODS["other-kd"]


def _modules(report):
    return sorted(name for name in sys.modules if name.startswith("a2d_plugin_"))


def test_workers_import_them(plugin, tmp_path):
    path = plugin("x = 1", "shared.py")
    with Workers(2, tmp_path / "log", print, [path]) as workers:
        assert workers.submit(_modules).result() == ["a2d_plugin_shared"]
