"""What the README says of the packages: which of them may know which."""

import ast
from pathlib import Path

import a2d

ORDER = ["text", "method", "models", "training", "runs"]
"""From those that know least to those that know most."""


def test_imports_go_up_the_readme_s_list() -> None:
    folder = Path(a2d.__file__).parent
    seen = set()
    for place, package in enumerate(ORDER):
        for path in (folder / package).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                    "a2d."
                ):
                    continue
                imported = (node.module or "").split(".")[1]
                seen.add(imported)
                above = ORDER[: place + 1]
                assert imported in above or imported not in (*ORDER, "cli"), (
                    f"{path}: {node.module}"
                )
    assert seen >= set(ORDER)
