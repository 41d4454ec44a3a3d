"""Attention maps of sample sentences, which the report shows: teacher's, student's and aligned."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2d.families import Geometry
from a2d.method.alignment import FILE_NAME, AttentionAlignment
from a2d.method.attention import GROUPS, Features, enable_capture
from a2d.method.formulas import FORMULAS, Formula
from a2d.models.loading import decoder_inputs, load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.runs.run import Run
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.students import Student
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.text.batching import tokenise
from a2d.text.pairs import Pair
from a2d.training.outputs import Needs, model_outputs

SENTENCES = 4
"""Number of sentences whose maps are shown."""
_WORDS = range(5, 13)
"""Numbers of words of the sentences that are shown: their maps can be read at a glance."""
_MAX_TOKENS = 32
"""Longest sentence that is shown, in tokens."""


def sample_sentences(sources: Sequence[str], count: int) -> list[int]:
    """Choose sentences of medium length, evenly spread; return their indices."""
    indices = [i for i, text in enumerate(sources) if len(text.split()) in _WORDS]
    return indices[:: max(1, len(indices) // count)][:count] if count else []


def sample_maps(run: Run) -> list[dict[str, Any]]:
    """Compute the attention maps of sample sentences, with their references as targets.

    The student is the first one with an alignment, or else the first one.

    Args:
        run: a finished run.

    Returns:
        For each sentence its texts, tokens and maps, serialisable as JSON; nothing if the teacher
        is an external system. Maps are bytes in base64, one map after the other, 255 for all
        attention.
    """
    teacher, students = run.one(Teacher), run.all(Student)
    if teacher.foreign:
        return []
    student = next((s for s in students if (Path(s.path) / FILE_NAME).exists()), students[0])
    path = Path(student.path) / FILE_NAME
    alignment = AttentionAlignment.load(path) if path.exists() else None
    tokenizer = load_tokenizer(run.one(Vocabulary).folder)
    corpus, split = run.one(Corpus), run.recipe.evaluation.split
    pairs = list(map(Pair, corpus.sources(split), corpus.references(split)))
    chosen = [pairs[index] for index in sample_sentences([p.source for p in pairs], SENTENCES)]
    models = [load_to_run(model.path).eval() for model in (teacher, student)]
    for model in models:
        enable_capture(model)
    formula = FORMULAS[student.method.formula]
    shapes = [Geometry.of(model.config) for model in models]
    sentences = []
    for pair in chosen:
        batch = encode(pair, tokenizer)
        if max(batch[name].shape[1] for name in ("input_ids", "labels")) > _MAX_TOKENS:
            continue
        features = [features_of(model, batch) for model in models]
        sentences.append(
            {
                "source": pair.source,
                "reference": pair.target,
                "student": student.name,
                **tokens_of(batch, models[0], tokenizer),
                "groups": {
                    group: _group(group, features, shapes, alignment, formula) for group in GROUPS
                },
            }
        )
    return sentences


def encode(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Encode a pair as a batch: `input_ids` and `attention_mask` (1, S), `labels` (1, T)."""
    (row,) = tokenise([pair], tokenizer)
    ids = torch.tensor([row["input_ids"]])
    labels = torch.tensor([row["labels"]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@torch.inference_mode()
def features_of(model: PreTrainedModel, batch: dict[str, Tensor]) -> Features:
    """Compute a model's features for a batch; the model needs `enable_capture` beforehand."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    features = model_outputs(model, batch, Needs(complete_maps=True)).features
    assert features is not None
    return features


def tokens_of(
    batch: dict[str, Tensor], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[str]]:
    """Name the tokens of a batch: those of the source, the target, and the decoder's inputs."""
    ids = {
        "sourceTokens": batch["input_ids"],
        "targetTokens": batch["labels"],
        "inputTokens": decoder_inputs(model, batch["labels"]),
    }
    return {name: tokenizer.convert_ids_to_tokens(each[0].tolist()) for name, each in ids.items()}


def _group(
    group: str,
    features: Sequence[Features],
    geometries: Sequence[Geometry],
    alignment: AttentionAlignment | None,
    formula: Formula,
) -> dict[str, Any]:
    """Describe one group's maps, and for each teacher map the student head to show beside it.

    Args:
        group: name of the group.
        features, geometries: of the teacher and of the student.
        alignment: the student's alignment, if it has one.
        formula: the formula that the alignment was trained with.
    """
    teacher_maps, student_maps = (f.maps[group].stacked().float().cpu() for f in features)
    described = {
        name: {**_packed(maps), "heads": geometry.heads(group)}
        for name, maps, geometry in zip(
            ("teacher", "student"), (teacher_maps, student_maps), geometries, strict=True
        )
    }
    if alignment is None:
        ratio = student_maps.shape[1] / teacher_maps.shape[1]
        strongest = [int(channel * ratio) for channel in range(teacher_maps.shape[1])]
        return {**described, "strongest": strongest}
    weights = alignment.weights[group].detach().float().cpu()
    keys = torch.ones(student_maps.shape[2:], dtype=torch.bool)
    aligned = formula.intermediate(
        weights, student_maps, keys.tril() if group == "decoder" else keys
    )
    strongest = weights.argmax(-1).tolist()
    return {**described, "aligned": _packed(aligned), "strongest": strongest}


def _packed(maps: Tensor) -> dict[str, Any]:
    """Write maps (1, C, Q, K) as bytes in base64."""
    _, channels, queries, keys = maps.shape
    data = (255 * maps).round().clamp(0, 255).to(torch.uint8).numpy().tobytes()
    sizes = {"channels": channels, "queries": queries, "keys": keys}
    return {**sizes, "maps": b64encode(data).decode()}
