"""A student's model card: what it is, what it was made of, how good and how fast it is.

The text is in `card.md.jinja`, the program that translates with a student in `snippet.py.jinja`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from a2d.files import write_text
from a2d.quoting import escaped
from a2d.runs import results
from a2d.runs.recipe import Recipe
from a2d.runs.report import millions, times
from a2d.runs.results import Group, Row
from a2d.runs.verdict import Verdict
from a2d.teachers import BUILTIN
from a2d.text.failures import failure_kinds, find_failures

_TEMPLATES = Environment(
    loader=PackageLoader("a2d.runs", "."),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["plain"] = lambda text: re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", escaped(text))
_TEMPLATES.filters["json"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)


def write_card(
    folder: Path,
    name: str,
    recipe: Recipe,
    results_folder: Path,
    licence: str | None,
    data: str,
    verdict: Verdict,
    address: str,
    positions: int | None = None,
) -> None:
    """Write `README.md` into a student's folder.

    Args:
        folder: the student's folder.
        name: name of the student.
        recipe: recipe of the run, which has one student.
        results_folder: the run's results.
        licence: an identifier of the hub (`apache-2.0`), if it is known.
        data: description of the training data.
        verdict: quality of the student beside its teacher's.
        address: the folder or repository that readers load the student from.
        positions: largest number of tokens of a sentence; None: no limit.
    """
    teacher, student, *exports = results.read(results_folder)
    run = json.loads((results_folder / "run.json").read_text("utf-8"))
    assert recipe.teacher.path is not None
    local = Path(recipe.teacher.path).exists()
    teacher_name = Path(recipe.teacher.path).name if local else recipe.teacher.path
    on_hub = not local and not teacher_name.startswith(BUILTIN)
    text = _TEMPLATES.get_template("card.md.jinja").render(
        metadata=_metadata(name, recipe, student, licence, teacher_name if on_hub else None),
        name=name,
        recipe=recipe,
        settings=run["recipe"],
        signatures=run["signatures"],
        teacher_name=teacher_name,
        rows={
            "teacher": teacher,
            "**this model**": student,
            **{
                f"this model in CTranslate2, {row.quantization}": row
                for row in exports
                if not row.refused
            },
        },
        student=student,
        millions=millions,
        speed_up=lambda row: times(Group([row]).speed_up(Group([teacher]))),
        data=data,
        verdict=verdict,
        address=address,
        prefix=recipe.teacher.source_prefix,
        positions=positions,
        versions=run["versions"],
        **_failures(results_folder, student, recipe),
    )
    write_text(folder / "README.md", text)


def snippet(address: str, prefix: str = "") -> str:
    """Program that translates standard input with a student and plain transformers, as we do.

    Args:
        address: the student's folder or repository.
        prefix: what goes before every source.
    """
    return _TEMPLATES.get_template("snippet.py.jinja").render(address=address, prefix=prefix)


def _failures(folder: Path, student: Row, recipe: Recipe) -> dict[str, Any]:
    """Count the failures of the student's translations, and the segments, for the template."""
    sources, references, hypotheses = (
        results.read_compressed(folder / name)
        for name in (results.SOURCES, results.REFERENCES, f"hypotheses/{student.name}.txt.gz")
    )
    languages = recipe.corpus.source_language, recipe.corpus.target_language
    kinds = failure_kinds(languages, references)
    found = find_failures(sources, references, hypotheses, kinds)
    counts = [f"{kinds[name].title} {len(places)}" for name, places in found.items() if places]
    return {"segments": f"{len(sources):,}", "failures": ", ".join(counts)}


def _metadata(
    name: str, recipe: Recipe, student: Row, licence: str | None, base: str | None
) -> Any:
    languages = [recipe.corpus.source_language, recipe.corpus.target_language]
    measured = [
        EvalResult(
            task_type="translation",
            dataset_type="custom",
            dataset_name=f"{'-'.join(languages)}, {recipe.evaluation.split}",
            metric_type=metric,
            metric_value=round(getattr(student, metric), 2),
        )
        for metric in ("bleu", "chrf")
    ]
    return ModelCardData(
        language=languages,
        license=licence,
        library_name="transformers",
        pipeline_tag="translation",
        base_model=base,
        datasets=_hub_datasets(recipe.corpus.train) or None,
        tags=["knowledge-distillation", "align-to-distill"],
        model_name=name,
        eval_results=measured,
    )


def _hub_datasets(spec: object) -> list[str]:
    """List the datasets of a corpus that are on the hub, not in folders."""
    if isinstance(spec, Mapping):
        name = spec.get("dataset")
        return [str(name)] if name is not None and not Path(str(name)).exists() else []
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [name for item in spec for name in _hub_datasets(item)]
    return []
