"""What a run adds to the comparison of its systems on the page of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NotRequired

from pydantic import AllowInfNan
from typing_extensions import TypedDict

Figure = Annotated[float, AllowInfNan(True)]
"""A figure of a training log, which may be infinite or not a number."""


class GroupAlignment(TypedDict):
    """Alignment of one group of attention maps.

    Attributes:
        weights: teacher heads × student heads.
        student, teacher: heads per layer.
    """

    weights: list[list[float]]
    student: int
    teacher: int


class PackedMaps(TypedDict):
    """Attention maps (channels, queries, keys) as bytes in base64; 255 means all attention."""

    channels: int
    queries: int
    keys: int
    maps: str


class ModelMaps(PackedMaps):
    """Attention maps of a model, with its heads per layer."""

    heads: int


class GroupMaps(TypedDict):
    """Attention maps of one group.

    Attributes:
        teacher, student: maps of the models.
        aligned: one map per teacher map, made by the alignment from the student's.
        strongest: student map to show beside each teacher map.
    """

    teacher: ModelMaps
    student: ModelMaps
    aligned: NotRequired[PackedMaps]
    strongest: list[int]


class SentenceMaps(TypedDict):
    """Attention maps of one sentence pair, by group, with its tokens."""

    source: str
    reference: str
    student: str
    sourceTokens: list[str]
    targetTokens: list[str]
    inputTokens: list[str]
    groups: dict[str, GroupMaps]


class ExportScores(TypedDict):
    """Scores of an export and of its original on the validation set.

    Attributes:
        name: name of the export.
        sentences, changed: number of translated sentences, and of those that differ.
        bleu, chrf, original_bleu, original_chrf: scores.
        problem: why the export was refused, if it was.
    """

    name: str
    sentences: int
    changed: int
    bleu: float
    chrf: float
    original_bleu: float
    original_chrf: float
    problem: NotRequired[str | None]


@dataclass(frozen=True)
class Details:
    """What a run adds to a comparison; empty parts have no section on the page.

    Attributes:
        verdict: why the student is not fit for use, with what would help; empty if it is fit, or
            if nothing is known.
        curves: training → entries of its log, one per step.
        alignments: student → group → alignment.
        attention: sentences with attention maps.
        exports: scores of exports.
        funnel: rows of what became of the corpus: description and number of pairs.
        recipe: the run's recipe as YAML.
        facts: names and values of versions, hardware and metrics.
        commands: what a command computes, and the command.
    """

    verdict: Sequence[str] = ()
    curves: Mapping[str, Sequence[Mapping[str, Figure]]] = field(default_factory=dict)
    alignments: Mapping[str, Mapping[str, GroupAlignment]] = field(default_factory=dict)
    attention: Sequence[SentenceMaps] = ()
    exports: Sequence[ExportScores] = ()
    funnel: Sequence[tuple[str, int]] = ()
    recipe: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[tuple[str, str]] = ()
