"""Packages import only from the layers below them."""

import ast
from pathlib import Path

import pytest

import a2d

ORDER = ["text", "report", "method", "models", "training", "runs"]
"""Layers from bottom to top."""


def imports(path: Path) -> set[str]:
    """Packages and modules of a2d that a file imports, also inside functions."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[1] for name in names if name.startswith("a2d.")}


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_downwards(package: str) -> None:
    packages = set().union(*map(imports, (Path(a2d.__file__).parent / package).glob("*.py")))
    assert package in packages
    assert not packages & {*ORDER[ORDER.index(package) + 1 :], "cli"}
