"""Python files of users that a recipe names."""

import pickle
import re
import signal
import sys
from types import SimpleNamespace

import pytest
from pretrained import PAIRS, released
from runs import run_of
from typer.testing import CliRunner

from a2d import plugins
from a2d.__main__ import main
from a2d.cli import app
from a2d.endings import check_arguments
from a2d.errors import UserError
from a2d.families import FAMILIES
from a2d.method.formulas import FORMULAS
from a2d.method.methods import METHODS
from a2d.plugin_errors import plugin_error
from a2d.plugins import load_plugins
from a2d.runs.recipe import load_recipe
from a2d.runs.splits import Splits
from a2d.runs.stages import AFTER_PREPARATION, all_stages
from a2d.runs.workers import Workers
from a2d.text.cleaning import CleaningReport

REGISTRIES = METHODS, FORMULAS, FAMILIES
SPLITS = Splits(PAIRS[:5], PAIRS[5:7], PAIRS[7:9], CleaningReport(5, {}, 5))


@pytest.fixture(autouse=True)
def no_packages():
    """Unload the packages of installed plugins after each test."""
    yield
    plugins.packages.clear()


@pytest.fixture
def plugin(tmp_path):
    """Function that writes a plugin and returns its path; registrations end with the test."""
    before = [dict(registry) for registry in REGISTRIES], list(AFTER_PREPARATION)

    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    def forget():
        plugins._digests.clear()
        for name in [name for name in sys.modules if name.startswith("a2d_plugin_")]:
            del sys.modules[name]
        for registry, entries in zip(REGISTRIES, before[0], strict=True):
            for name in registry.keys() - entries.keys():
                del registry[name]
        AFTER_PREPARATION[:] = before[1]

    write.forget = forget
    yield write
    forget()


def test_are_imported_once(plugin, tmp_path):
    path = plugin(f"with open({str(tmp_path / 'count')!r}, 'a') as file: file.write('x')")
    load_plugins([path])
    load_plugins([path])
    assert (tmp_path / "count").read_text() == "x"


def test_a_change_after_the_import_is_noticed(plugin):
    path = plugin("x = 1", "changing.py")
    load_plugins([path])
    plugin("x = 2", "changing.py")
    with pytest.raises(UserError, match=r"changing\.py has changed since it was imported"):
        load_plugins([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "fails in line 1 (ZeroDivisionError: division by zero)"),
        ("x = (", "fails (SyntaxError: "),
        ("\nraise SystemExit", "fails in line 2 (SystemExit)"),
        (
            "from a2d.method.methods import METHODS, register_method\n"
            "register_method(METHODS['kd'])",
            ", line 2: a method 'kd' exists already: choose another name.",
        ),
        ("import no_such_module_", "fails in line 1 (ModuleNotFoundError: "),
    ],
)
def test_that_fail_are_named(plugin, text, message):
    path = plugin(text, f"failing{len(text)}.py")
    with pytest.raises(UserError, match="plugins: ") as caught:
        load_recipe("methods", [f"plugins=[{path}]"])
    assert f"{path}{'' if message[0] == ',' else ' '}{message}" in str(caught.value)


def test_that_import_a_file_beside_them_are_refused(plugin):
    plugin("", "beside.py")
    path = plugin("import beside", "importing.py")
    with pytest.raises(UserError, match=r"importing\.py imports beside\.py, which lies beside it"):
        load_plugins([path])


def test_of_one_name_are_refused(plugin, tmp_path):
    (tmp_path / "other").mkdir()
    first, second = plugin("x = 1", "alike.py"), plugin("x = 2", "other/alike.py")
    with pytest.raises(UserError, match=r"another plugin is called alike\.py: rename one of them"):
        load_plugins([first, second])


def test_installed_ones_that_fail_are_named(monkeypatch):
    class Broken:
        name, value, dist = "broken", "broken.module", None

        def load(self):
            raise ImportError("no such thing")

    plugins._load_installed.cache_clear()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [Broken()])
    with pytest.raises(
        UserError, match=r"'broken' \(broken\.module\) fails \(ImportError: no such"
    ):
        load_plugins()


COMMANDS = {
    "translate": ["translate", "/no/model"],
    "export": ["export", "/no/model", "--output", "out"],
    "inspect": ["data", "inspect", "/no/corpus.tsv"],
    "convert": ["data", "convert", "/no/corpus.tsv", "-o", "out.tsv"],
    "run": ["run", "methods", "corpus.train=/no/corpus.tsv", "--output", "out"],
    "shapes": ["shapes", "/no/model"],
    "distill": [
        *("distill", "--teacher", "/no/model", "--data", "/no/corpus.tsv", "--source", "de"),
        *("--target", "en", "--student", "1x1", "--output", "out"),
    ],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("installed", [False, True])
def test_are_imported_by_every_command_before_its_work(
    plugin, tmp_path, monkeypatch, command, installed
):
    monkeypatch.chdir(tmp_path)
    path = plugin("from pathlib import Path\nPath('imported').touch()")
    options = ["--plugin", path]
    if installed:

        class Installed:
            name, value, dist, load = "mine", "mine.plugin", None, (tmp_path / "imported").touch

        monkeypatch.setattr(plugins, "entry_points", lambda group: [Installed()])
        plugins._load_installed.cache_clear()
        options = []
    result = CliRunner().invoke(app, [*options, *COMMANDS[command]])
    plugins.named.clear()
    assert isinstance(result.exception, UserError), result.output
    assert "/no/" in str(result.exception)
    assert (tmp_path / "imported").exists()


def test_of_the_command_line_belong_to_the_recipe(plugin):
    first, second = plugin("x = 1"), plugin("x = 2", "second.py")
    plugins.named[:] = [first, second]
    try:
        assert load_recipe("methods", [f"plugins=[{second}]"]).plugins == [second, first]
    finally:
        plugins.named.clear()


def test_installed_ones_are_recorded_by_their_version(monkeypatch):
    class Installed:
        name, value, dist = "mine", "mine.plugin:setup", SimpleNamespace(version="1.2")

        def load(self):
            METHODS["of-mine"] = METHODS["kd"]

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Installed()])
    plugins._load_installed.cache_clear()
    load_plugins()
    assert METHODS.plugin("of-mine") == {"mine": "1.2"}
    assert METHODS.plugin("kd") == {}
    assert plugins.plugin_of("mine.stages") == {"mine": "1.2"}
    del METHODS["of-mine"]


@pytest.mark.parametrize("function", ["work", "end"])
@pytest.mark.parametrize("debug", [False, True])
def test_errors_of_their_code_end_a_command(plugin, monkeypatch, capsys, function, debug):
    load_plugins([plugin(_FAILING)])
    monkeypatch.setattr("a2d.cli.app", getattr(sys.modules["a2d_plugin_mine"], function))
    monkeypatch.setattr("sys.argv", ["a2d"])
    monkeypatch.setattr("a2d.endings.debugging", debug)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError if debug and function == "work" else SystemExit) as caught:
        main()
    signal.signal(signal.SIGINT, handler)
    if not debug:
        assert caught.value.code == 2
        assert re.search(
            r"Error: the plugin .*mine\.py fails in line \d \(", capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[none.py]", r"there is no /.*/none\.py: check the path"),
        ("[/tmp]", r"/tmp is not a Python file: give the path of a \.py file"),
        ("[~nosuchuser/x.py]", r"'~nosuchuser/x\.py' is not a path"),
    ],
)
def test_that_are_no_files_are_named(value, message):
    with pytest.raises(UserError, match=message):
        load_recipe("methods", [f"plugins={value}"])


def test_a_file_by_two_paths_is_one_plugin(tmp_path):
    (tmp_path / "once.py").write_text("import a2d\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "once.py")
    load_plugins([str(tmp_path / name) for name in ("once.py", "../" + tmp_path.name + "/once.py")])
    load_plugins([str(tmp_path / "link.py")])


@pytest.mark.parametrize(
    "arguments", ["data inspect x --plugin f.py", "--plugin a.py run methods --plugin=f.py"]
)
def test_the_option_after_the_command_is_refused(arguments):
    with pytest.raises(UserError, match="--plugin goes before the command: a2d --plugin FILE C"):
        check_arguments(arguments.split())


def test_the_option_before_the_command_is_accepted():
    check_arguments(["--debug", "--plugin", "a.py", "--plugin", "run", "run", "methods"])


@pytest.mark.parametrize("value", ["mine.py", "[1]", "{a: b}"])
def test_malformed_lists_are_refused(value):
    with pytest.raises(UserError, match="plugins"):
        load_recipe("methods", [f"plugins={value}"])


def test_define_names_that_the_recipe_uses(plugin):
    path = plugin(
        "from dataclasses import replace\n"
        "from a2d.method.methods import METHODS\n"
        "METHODS['other-kd'] = METHODS['kd']\n",
        "naming.py",
    )
    with pytest.raises(UserError, match="unknown method 'other-kd'"):
        load_recipe("methods", ["methods=[other-kd]"])
    recipe = load_recipe("methods", ["methods=[other-kd]", f"plugins=[{path}]"])
    assert recipe.methods[0].name == "other-kd"


PLUGIN_OF_ALL_KINDS = """
from dataclasses import dataclass, replace
from a2d.families import FAMILIES, register_family
from a2d.method.formulas import FORMULAS, register_formula
from a2d.method.methods import METHODS, register_method
from a2d.runs.run_stage import RunStage
from a2d.runs.stages import register_stage

register_method(replace(METHODS["kd"], name="my-method"))
register_formula(replace(FORMULAS["paper"], name="my-formula"))
register_family(replace(FAMILIES["bart"], model_type="my-family"))

@register_stage
@dataclass(frozen=True)
class Mine(RunStage):
    @classmethod
    def of(cls, run):
        return [cls(run.folder / "mine", {})]

    def make(self, run):
        pass
"""


def test_count_for_the_stages_that_use_them(plugin, tmp_path):
    methods = (
        "kd, a2d, {method: seqkd, formula: my-formula}, "
        "my-method, {method: a2d, formula: my-formula, name: aligned}"
    )

    def fingerprints(text):
        plugin.forget()
        recipe = load_recipe("methods", [f"methods=[{methods}]", f"plugins=[{plugin(text)}]"])
        stages = all_stages(run_of(recipe, tmp_path / "run", SPLITS))
        return {
            (stage.folder.parent.name, stage.folder.name): stage.fingerprint for stage in stages
        }

    one, other = fingerprints(PLUGIN_OF_ALL_KINDS), fingerprints(PLUGIN_OF_ALL_KINDS + "# changed")
    changed = {name for name in one if one[name] != other[name]}
    models = {name for kind, name in changed if kind == "models"}
    assert {model.split("-2+1")[0] for model in models} == {"my-method", "aligned"}
    assert {name for kind, name in changed if kind == "test"} == models  # translations
    assert ("run", "mine") in changed
    assert ("run", "vocabulary") not in changed


@pytest.mark.parametrize("family", ["my-family", "marian"])
def test_count_for_a_pretrained_teacher_of_their_family(plugin, tmp_path, monkeypatch, family):
    released("opus", tmp_path / "teacher")
    monkeypatch.setattr("a2d.runs.run.load_config", lambda path: SimpleNamespace(model_type=family))

    shape = "encoder_layers: 1, decoder_layers: 1, heads: 2, width: 8, feed_forward: 8"

    def identity(text):
        plugin.forget()
        settings = [
            f"teacher={{path: {tmp_path / 'teacher'}}}",
            f"students=[{{{shape}}}]",
            f"plugins=[{plugin(text)}]",
        ]
        return run_of(load_recipe("methods", settings), tmp_path / "run", SPLITS).pretrained

    equal = identity(PLUGIN_OF_ALL_KINDS) == identity(PLUGIN_OF_ALL_KINDS + "# changed")
    assert equal == (family == "marian")


def _modules(report):
    return sorted(name for name in sys.modules if name.startswith("a2d_plugin_"))


def test_workers_import_them(plugin, tmp_path):
    load_plugins([plugin("x = 1", "shared.py")])
    with Workers(2, tmp_path / "log", print) as workers:
        assert "a2d_plugin_shared" in workers.submit(_modules).result()


@pytest.mark.full
def test_workers_refuse_them_if_they_have_changed(plugin, tmp_path):
    load_plugins([plugin("x = 1", "edited.py")])
    plugin("x = 2", "edited.py")
    with (
        Workers(2, tmp_path / "log", print) as workers,
        pytest.raises(UserError, match=r"edited\.py has changed since it was imported"),
    ):
        workers.submit(_modules).result()


@pytest.mark.full
def test_that_fail_in_workers_are_named(plugin, tmp_path):
    path = plugin(
        "import multiprocessing as m\nif m.parent_process(): raise RuntimeError('not here')",
        "shy.py",
    )
    load_plugins([path])
    with (
        Workers(2, tmp_path / "log", print) as workers,
        pytest.raises(UserError, match=r"shy\.py fails in line 2 \(RuntimeError: not here\)"),
    ):
        workers.submit(_modules).result()


_FAILING = """
import sys
def work(report=None):
    raise KeyError("encoder")
def end(report=None):
    sys.exit()
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [("work", r"in line 4 \(KeyError: 'encoder'\)"), ("end", r"in line 6 \(SystemExit\)")],
)
@pytest.mark.parametrize("count", [1, 2])
def test_errors_of_their_code_name_file_and_line(plugin, tmp_path, function, message, count):
    path = plugin(_FAILING, f"raising_{function}{count}.py")
    load_plugins([path])
    task = getattr(sys.modules[f"a2d_plugin_raising_{function}{count}"], function)
    try:
        with Workers(count, tmp_path / "log", print) as workers:
            workers.submit(task).result()
    except BaseException as error:
        described = plugin_error(error)
    assert isinstance(described, UserError)
    assert re.match(rf"the plugin {re.escape(path)} fails {message}", str(described))
    assert pickle.loads(pickle.dumps(described)).args == described.args


def test_an_error_that_python_replaces_names_file_and_line(plugin):
    load_plugins([plugin("def read():\n    next(iter(()))\n    yield\n")])
    with pytest.raises(RuntimeError, match="generator raised StopIteration") as caught:
        list(sys.modules["a2d_plugin_mine"].read())
    assert "mine.py fails in line 2 (" in str(plugin_error(caught.value))


def test_errors_of_other_code_are_not_theirs():
    for error in (ValueError("x"), SystemExit(2), UserError("x")):
        with pytest.raises(type(error)) as caught:
            raise error
        assert plugin_error(caught.value) is None
