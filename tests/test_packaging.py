"""Wheel and source distribution hold the whole package, which runs outside a clone."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from pages import ROOT

from a2d.text.corpus import read_corpus

SOURCE = ROOT / "src" / "a2d"
IGNORED = {"__pycache__"}


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the source distribution, and a wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    run(*build, "-t", "sdist", cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    run(*build, "-t", "wheel", cwd=folder / archive.name.removesuffix(".tar.gz"))
    (wheel,) = folder.glob("*.whl")
    return archive, wheel


def package_files():
    return {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*")
        if path.is_file() and not IGNORED & set(path.parts)
    }


def test_the_wheel_has_every_file_of_the_package(distributions):
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("a2d/") for name in archive.namelist() if name[:4] == "a2d/"}
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    assert names == package_files()
    assert any(name.endswith("report/assets/LICENSES.txt") for name in licences)
    assert sum(name.endswith("LICENSE") for name in licences) == 4  # ours, two corpora, a teacher


def test_the_source_distribution_has_what_its_users_need(distributions):
    archive, _ = distributions
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"README.md", "Makefile", "tests/conftest.py", "docs/index.md"} <= names
    assert not {name for name in names if name.startswith((".ci", ".git/", "runs/"))}


@pytest.fixture
def a2d(distributions, tmp_path):
    """Return a function that runs the command of the wheel."""
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path / "site")}}
    place = run(sys.executable, "-c", "import a2d; print(a2d.__file__)", **options)
    assert Path(place.strip()).is_relative_to(tmp_path)
    return lambda *arguments, **more: run(
        sys.executable, "-m", "a2d", *arguments, **options, **more
    )


def test_the_wheel_translates_outside_a_clone(a2d):
    assert "navegador" in a2d("translate", "builtin:en-pt", input="Restart the browser.")


@pytest.mark.full
def test_the_wheel_trains_outside_a_clone(a2d, tmp_path):
    for name, count in {"train": 150, "valid": 8, "test": 8}.items():
        pairs = read_corpus(f"builtin:de-dsb/{name}")[:count]
        text = "".join(f"{pair.source}\t{pair.target}\n" for pair in pairs)
        (tmp_path / f"{name}.tsv").write_text(text, "utf-8")
    tiny = "{encoder_layers: 1, decoder_layers: 1, heads: 2, width: 16, feed_forward: 16}"
    settings = [
        *(f"corpus.{name}={name}.tsv" for name in ("train", "valid", "test")),
        "vocabulary.size=300",
        f"teacher.shape={tiny}",
        f"students=[{tiny}]",
        "methods=[a2d]",
        *(f"{section}.max_steps=2" for section in ("training", "teacher.training")),
        *(f"{s}.num_train_epochs=null" for s in ("training", "teacher.training")),
        "evaluation.beams=1",
    ]
    text = a2d("run", "methods", *settings)
    assert "report.html" in text
    assert (tmp_path / "runs/methods/report.html").stat().st_size > 500_000


def test_workflow_and_hooks_use_what_the_project_has():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f"Python :: {python}" in project for python in pythons)
    assert project.count("Programming Language :: Python :: 3.") == len(pythons)
    makefile = (ROOT / "Makefile").read_text()
    for step in workflow["jobs"]["test"]["steps"]:
        command = step.get("run", "")
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in makefile
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = makefile.partition("\ntest:")[2]
    for hook in hooks:
        assert hook["entry"].split()[0].removeprefix(".venv/bin/") in checks
