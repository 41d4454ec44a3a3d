"""Every code block of README and docs is run, or at least parsed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import typer
import yaml
from pages import PAGES, ROOT, anchors, blocks, links, prose

from a2d import cli, teachers
from a2d.models.export import export
from a2d.runs.recipe import Recipe, load_recipe, make_cleaning
from a2d.runs.sections import section_at

LANGUAGES = {"bash", "python", "yaml", "text"}
"""Languages of code blocks; `text` is the output of commands."""

SHAPE = {"encoder_layers": 2, "decoder_layers": 1, "heads": 8, "width": 128, "feed_forward": 512}
BASE = {"extends": "methods", "name": "docs", "students": [SHAPE], "methods": ["seqkd"]}
"""Recipe that fragments of recipes are merged into."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

ids = [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_block_names_its_language(page):
    assert {block.language for block in blocks(page)} <= LANGUAGES


PROGRAMS = {
    page: [b.text for b in blocks(page) if b.language == "python" and not b.reason]
    for page in PAGES
}
"""Python programs of each page."""


def run_python(folder, *arguments):
    """Run Python in a folder, on one core and without a network."""
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(folder)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | settings,
        input="one line\n",
        capture_output=True,
        text=True,
        check=False,
    )


SHORT = """import a2d.models.activations
a2d.models.activations.SENTENCES = 100
"""
"""Beginning of programs that prune a teacher by less text than users do."""


@pytest.mark.full
def test_the_notebook_runs(tmp_path):
    cells = json.loads((ROOT / "docs/notebook.ipynb").read_text("utf-8"))["cells"]
    assert len(cells) == 10
    programs = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    program = "\n".join(programs)
    assert "max_steps=150" in program
    # The first trained updates suffice to see that every cell works.
    program = SHORT + program.replace("max_steps=150", "max_steps=5")
    (tmp_path / "notebook.py").write_text(program, "utf-8")
    done = run_python(tmp_path, "notebook.py")
    assert done.returncode == 0, done.stderr
    assert "translations differ from the original's" in done.stdout
    assert (tmp_path / "notebook-report.html").stat().st_size > 500_000
    assert "longer than the specified maximum" not in done.stderr


# Shell


def commands(text):
    """Yield the commands of a shell block, without comments."""
    text = re.sub(r"(?:^|\s)# .*$", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|<>;&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|;&\n"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def without_redirections(words):
    redirections = [i for i, word in enumerate(words) if word in ("<", ">")]
    return [word for i, word in enumerate(words) if not {i, i - 1} & set(redirections)]


def check_a2d(words):
    """Parse arguments as the command does; read the recipes and rules that they name."""
    command, path = typer.main.get_command(cli.app), []
    while hasattr(command, "commands"):
        command = command.commands[words[len(path)]]
        path.append(words[len(path)])
    arguments = words[len(path) :]
    values = command.make_context(" ".join(["a2d", *path]), list(arguments)).params
    if path == ["run"]:
        load_recipe(values["recipe"], values["overrides"] or [])
    elif path == ["distill"]:
        load_recipe("methods", values["overrides"] or [])
    elif path[0] == "data":
        rules = re.compile(r"(?!\{)[\w.]+=")
        make_cleaning([word for word in values["files"] if rules.match(word)])


def check_command(words):
    words = without_redirections(words)
    program, *arguments = words
    if program == "ray":
        ray = pytest.importorskip("ray.scripts.scripts", reason="Ray is not installed").cli
        assert arguments[0] in ray.commands
        if "--" not in arguments:
            return
        program, *arguments = arguments[arguments.index("--") + 1 :]
    if program == "a2d":
        check_a2d(arguments)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert arguments[0] in targets
    elif program == "python":
        script = (ROOT / arguments[0]).read_text("utf-8")
        for flag in (word for word in arguments if word.startswith("--")):
            assert f'"{flag}"' in script
    elif program == "pip":
        extras = re.search(r"\[(.*)\]", " ".join(arguments))
        assert set(extras[1].split(",") if extras else []) <= set(PROJECT["optional-dependencies"])
    elif program == "sacrebleu":
        # Its module cannot be imported here: it lets SIGPIPE end the process, that of other tests.
        code = "from sacrebleu.sacrebleu import parse_args; print(parse_args().input)"
        parsed = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert parsed.stdout != "None\n", "it would wait for translations"
    else:
        assert program in ("echo", "export"), f"no test knows how to try {program!r}"


SHELL = [b for page in PAGES for b in blocks(page) if b.language == "bash" and not b.reason]


def plugins_in(words):
    return [name for word in words for name in re.findall(r"^plugins=\[(\w+\.py)\]$", word)]


@pytest.mark.parametrize("block", SHELL, ids=lambda b: f"{b.page.stem}: {b.text.split(chr(10))[0]}")
def test_shell_blocks_are_understood(block, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for words in commands(block.text):
        if not plugins_in(words):
            check_command(words)
            continue
        for name in plugins_in(words):  # a new process imports the page's programs as plugins
            (tmp_path / name).write_text("\n".join(PROGRAMS[block.page]))
        path = f"import sys; sys.path.append({str(ROOT / 'tests')!r})"
        check = f"from test_docs import check_command; check_command({words!r})"
        process = run_python(tmp_path, "-c", f"{path}; {check}")
        assert process.returncode == 0, process.stderr


def test_commands_are_taken_apart():
    text = "a2d x 'b c' < in > out | a2d y \\\n  z  # no\n# no\nmake it\n"
    assert list(map(without_redirections, commands(text))) == [
        ["a2d", "x", "b c"],
        ["a2d", "y", "z"],
        ["make", "it"],
    ]


def test_wrong_commands_are_noticed():
    with pytest.raises(Exception, match="--student-layer"):
        check_command(["a2d", "distill", "--student-layer", "3x2"])
    with pytest.raises(Exception, match="unknown key"):
        check_command(["a2d", "run", "methods", "training.epochs=3"])


# Recipes

RECIPES = [b for page in PAGES for b in blocks(page) if b.language == "yaml" and not b.reason]


@pytest.mark.parametrize(
    "block", RECIPES, ids=lambda b: f"{b.page.stem}: {b.text.split(chr(10))[0]}"
)
def test_recipes_load(block, tmp_path):
    """Each recipe loads in a new process, with the page's programs as its plugins."""
    recipe = yaml.safe_load(block.text)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(BASE | recipe))
    if "plugins" not in recipe:
        load_recipe(str(tmp_path / "recipe.yaml"))
        return
    for name in recipe["plugins"]:
        (tmp_path / name).write_text("\n".join(PROGRAMS[block.page]))
    load = "from a2d.runs.recipe import load_recipe; load_recipe('recipe.yaml')"
    process = run_python(tmp_path, "-c", load)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_settings_in_prose_exist(page):
    sections = "|".join(name for name in Recipe.model_fields if name not in ("name", "seeds"))
    for path in re.findall(rf"`((?:{sections})(?:\.\w+)+)(?:[:=][^`]*)?`", prose(page)):
        if path.endswith(".json"):  # a file of a run
            continue
        section = Recipe
        for key in re.sub(r"\.\d+\.", ".", path).split("."):
            assert section is not None, path
            assert key in section.__pydantic_fields__, path
            section = section_at(section, key)


# Python


def prepare(folder):
    """Prepare the inputs of the docs' programs: models of earlier steps, a translation system."""
    teacher = teachers.model_path("builtin:en-pt")
    shutil.copytree(teacher, folder / "runs/methods/models/a2d-2+1x8-seed1")
    export(folder / "runs/methods/models/a2d-2+1x8-seed1", folder / "small-de-en-int8", "int8")
    (folder / "my_system.py").write_text("translate = str.upper\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page.name == "README.md" else pytest.mark.full)
        for page in PAGES
        if PROGRAMS[page]
    ],
    ids=lambda page: page.name,
)
def test_programs_run(page, tmp_path):
    """The programs of a page run in order; trainings end after two updates."""
    pytest.importorskip("ctranslate2")
    prepare(tmp_path)
    program = SHORT + "\n".join(PROGRAMS[page]).replace("max_steps=200", "max_steps=2")
    corpus = 'read_corpus("builtin:en-pt/memory", languages=("en", "pt"))'
    program = program.replace(corpus, f"{corpus}[:300]")
    (tmp_path / "program.py").write_text(program)
    process = run_python(tmp_path, "program.py")
    assert process.returncode == 0, process.stderr


# Links


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page):
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if page.parent.name == "docs":  # the site contains no other files
            assert target.is_relative_to(ROOT / "docs"), link
        if anchor:
            assert anchor in anchors(target), link
