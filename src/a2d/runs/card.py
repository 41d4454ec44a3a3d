"""A student's model card: what it is, what it was made of, how good and how fast it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from a2d.runs import results
from a2d.runs.recipe import Recipe
from a2d.runs.report import millions, times
from a2d.runs.results import Group, Row
from a2d.runs.verdict import Verdict
from a2d.teachers import BUILTIN

_METRICS = {"bleu": "BLEU", "chrf": "chrF"}


def write_card(
    folder: Path,
    name: str,
    recipe: Recipe,
    found: Path,
    licence: str | None,
    data: str,
    verdict: Verdict,
    address: str,
) -> None:
    """Write `README.md` into a student's folder.

    Args:
        folder: the student's.
        name: what to call it.
        recipe: what it was made by: one student.
        found: the run's folder of results.
        licence: an identifier of the hub (`apache-2.0`), if it is known.
        data: what the student has learned from, in words.
        verdict: how good it is beside its teacher.
        address: the folder or repository that readers load it from.
    """
    teacher, student = results.read(found)
    run = json.loads((found / "run.json").read_text("utf-8"))
    assert recipe.teacher.path is not None
    local = Path(recipe.teacher.path).exists()
    teacher_name = Path(recipe.teacher.path).name if local else recipe.teacher.path
    on_hub = not local and not teacher_name.startswith(BUILTIN)
    metadata = _metadata(name, recipe, student, licence, teacher_name if on_hub else None)
    text = _TEXT.format(
        name=name,
        teacher=teacher_name,
        source=recipe.corpus.source_language,
        target=recipe.corpus.target_language,
        method=student.label,
        data=data,
        verdict=_verdict(verdict),
        rows="\n".join(_line(row, teacher) for row in (teacher, student)),
        split=recipe.evaluation.split,
        signatures="; ".join(f"{_METRICS[k]}: `{v}`" for k, v in run["signatures"].items()),
        device=student.device,
        snippet=snippet(address, recipe.teacher.source_prefix),
        beams=recipe.evaluation.beams,
        recipe=json.dumps(run["recipe"], indent=1, ensure_ascii=False),
    )
    (folder / "README.md").write_text(f"---\n{metadata.to_yaml()}\n---\n\n{text}", "utf-8")


def snippet(address: str, prefix: str = "") -> str:
    """Program that translates standard input with a student and plain transformers, as we do.

    Args:
        address: the student's folder or repository.
        prefix: what goes before every source.
    """
    place = json.dumps(address, ensure_ascii=False)
    before = f"{json.dumps(prefix, ensure_ascii=False)} + " if prefix else ""
    return _SNIPPET.format(address=place, prefix=before)


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
        for metric in _METRICS
    ]
    return ModelCardData(
        language=languages,
        license=licence,
        library_name="transformers",
        pipeline_tag="translation",
        base_model=base,
        tags=["knowledge-distillation", "align-to-distill"],
        model_name=name,
        eval_results=measured,
    )


def _verdict(verdict: Verdict) -> str:
    if verdict.passed:
        return verdict.summary
    advice = "".join(f"\n- {sentence}" for sentence in verdict.advice)
    return f"**Not fit for use.** {verdict.summary} What would help:\n{advice}"


def _line(row: Row, teacher: Row) -> str:
    cells = [
        "teacher" if row is teacher else "**this model**",
        row.student.replace("x", "×"),
        millions(row),
        f"{row.bleu:.2f}",
        f"{row.chrf:.2f}",
        times(Group([row]).speed_up(Group([teacher]))),
    ]
    return f"| {' | '.join(cells)} |"


_SNIPPET = """import sys

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained({address})
tokenizer = AutoTokenizer.from_pretrained({address})
for line in sys.stdin:
    inputs = tokenizer({prefix}line.strip(), truncation=True, return_tensors="pt")
    output = model.generate(**inputs)
    print(" ".join(tokenizer.decode(output[0], skip_special_tokens=True).split()))
"""

_TEXT = """# {name}

A small model that translates from `{source}` to `{target}`, distilled from `{teacher}` with
[Align-to-Distill](https://arxiv.org/abs/2403.01479) (method: {method}). It has learned from {data}.

{verdict}

| | layers×heads | parameters | BLEU | chrF | speed |
|---|---|--:|--:|--:|--:|
{rows}

Scores are sacreBLEU's, of the {split} set's translations with a beam of {beams} ({signatures}).
Speed is over the teacher's, in PyTorch, for outputs as long as the references. Trained on {device}.

This translates standard input, one sentence a line, as the model was measured; beams and limits
stand in `generation_config.json`:

```python
{snippet}```

<details><summary>Every setting</summary>

```json
{recipe}
```
</details>
"""
