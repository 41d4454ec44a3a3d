"""What a run adds to the comparison of its systems on the page of a report."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NotRequired

from pydantic import AfterValidator, AllowInfNan, Field, FiniteFloat
from typing_extensions import TypedDict

Figure = Annotated[float, AllowInfNan(True)]
"""A figure of a training log, which may be infinite or not a number."""


Positive = Annotated[int, Field(ge=1, lt=2**31)]


class GroupAlignment(TypedDict):
    """Alignment of one group of attention maps.

    Attributes:
        weights: teacher heads × student heads.
        student, teacher: heads per layer.
    """

    weights: Annotated[list[Annotated[list[FiniteFloat], Field(min_length=1)]], Field(min_length=1)]
    student: Positive
    teacher: Positive


class PackedMaps(TypedDict):
    """Attention maps (channels, queries, keys) as bytes in base64; 255 means all attention."""

    channels: Positive
    queries: Positive
    keys: Positive
    maps: str


class ModelMaps(PackedMaps):
    """Attention maps of a model, with its heads per layer."""

    heads: Positive


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


class Groups(TypedDict):
    """Attention maps of all groups."""

    encoder: GroupMaps
    decoder: GroupMaps
    cross: GroupMaps


class SentenceMaps(TypedDict):
    """Attention maps of one sentence pair, by group, with its tokens."""

    source: str
    reference: str
    student: str
    sourceTokens: list[str]
    targetTokens: list[str]
    inputTokens: list[str]
    groups: Groups


def _check_sizes(sentence: SentenceMaps) -> SentenceMaps:
    """Check that the maps of a sentence have the sizes of its tokens, and their bytes."""
    sizes = {side: len(sentence[f"{side}Tokens"]) for side in ("source", "target", "input")}  # type: ignore[literal-required]
    expected = {
        "encoder": (sizes["source"], sizes["source"]),
        "decoder": (sizes["target"], sizes["input"]),
        "cross": (sizes["target"], sizes["source"]),
    }
    groups: dict[str, GroupMaps] = dict(sentence["groups"])  # type: ignore[arg-type]
    for name, group in groups.items():
        maps = [group["teacher"], group["student"], group.get("aligned", group["teacher"])]
        for each in maps:
            shape = each["channels"], each["queries"], each["keys"]
            if shape[1:] != expected[name] or len(b64decode(each["maps"])) != math.prod(shape):
                raise ValueError(f"maps of the group {name} have wrong sizes")
        strongest, channels = group["strongest"], group["student"]["channels"]
        if len(strongest) != group["teacher"]["channels"] or not all(
            0 <= channel < channels for channel in strongest
        ):
            raise ValueError(f"the strongest maps of the group {name} are not those of a student")
    return sentence


CheckedMaps = Annotated[SentenceMaps, AfterValidator(_check_sizes)]
"""Maps of a sentence from a file."""


class ExportScores(TypedDict):
    """Scores of an export and of its original on the validation set.

    Attributes:
        name: name of the export.
        sentences, changed: number of translated sentences, and of those that differ.
        bleu, chrf, original_bleu, original_chrf: scores.
        problem: why the export was refused, if it was.
        doubt: which loss may be chance, if it is more than the limit.
    """

    name: str
    sentences: int
    changed: int
    bleu: FiniteFloat
    chrf: FiniteFloat
    original_bleu: FiniteFloat
    original_chrf: FiniteFloat
    problem: NotRequired[str | None]
    doubt: NotRequired[str | None]


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
