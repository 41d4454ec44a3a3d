"""Figures of a report, computed from the translations alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple, TypeVar

from a2d.report.comparison import Comparison, Gain, System
from a2d.text.evaluation import Estimate, Scores, estimate, estimate_means, score, sentence_chrf
from a2d.text.failures import Failure, failure_kinds, find_failures
from a2d.text.scripts import is_unspaced

T = TypeVar("T")

METRICS = {"bleu": "BLEU", "chrf": "chrF"}
"""Metrics that every page has."""
COMET = "comet"
_LENGTHS = (0, 5, 10, 20, 40)
"""Bounds of the ranges of source lengths, in words, or in characters where there are no spaces."""
_COUNTS = (0, 1, 10, 100)
"""Bounds of the ranges of the rarest word's count: a range begins at one."""
_MIN_BUCKET = 5
"""Smallest number of segments whose score is shown."""
_MAX_DOMAINS = 10
"""Largest number of domains that are shown; the others are one."""


class Buckets(NamedTuple):
    """Scores of systems by a property of the segments.

    Attributes:
        title: the property.
        labels: ranges of the property.
        sizes: number of segments in each range.
        chrf: system → chrF in each range.
        ordered: whether the ranges follow one another; domains do not.
    """

    title: str
    labels: list[str]
    sizes: list[int]
    chrf: dict[str, list[float]]
    ordered: bool = True


class Group(NamedTuple):
    """Systems that differ in the seed only.

    Attributes:
        systems: the systems, at least one.
        scores: metric → mean score.
        spreads: metric → standard deviation over seeds; with one seed half the width of the 95%
            confidence interval.
        p_values: metric → largest p-value of the differences from the first system; None for it.
        failures: kind → mean number of failures.
        gains: label of an opponent → mean gain in BLEU, and the largest p-value.
    """

    systems: list[System]
    scores: dict[str, float]
    spreads: dict[str, float]
    p_values: dict[str, float | None]
    failures: dict[str, float]
    gains: dict[str, Gain]

    @property
    def first(self) -> System:
        """The first seed's system, which stands for the group where one is shown."""
        return self.systems[0]


@dataclass(frozen=True)
class Analysis:
    """Figures of a comparison.

    Attributes:
        metrics: metric → its name on the page.
        estimates: system → metric → score with its uncertainty.
        kinds: kinds of failures that were judged.
        failures: system → kind → indices of segments.
        segments: metric → system → score of each segment, for metrics that score segments; only
            the first system of each group has these.
        groups: systems by label and shape, in order of appearance.
        buckets: scores by length, and by rarity and domain where they are known.
        signatures: metric → sacreBLEU's signature.
        copied: scores of the sources themselves, as if nothing were translated.
    """

    metrics: dict[str, str]
    estimates: dict[str, dict[str, Estimate]]
    kinds: dict[str, Failure]
    failures: dict[str, dict[str, list[int]]]
    segments: dict[str, dict[str, list[float]]]
    groups: list[Group]
    buckets: list[Buckets]
    signatures: dict[str, str]
    copied: Scores

    def beats_copying(self, group: Group) -> bool:
        """Return whether a group's scores are above those of the sources themselves."""
        return all(group.scores[m] > getattr(self.copied, m) for m in METRICS)


def analyse(comparison: Comparison, comet: Mapping[str, Sequence[float]] | None = None) -> Analysis:
    """Score the systems, test their differences, and find their failures.

    Args:
        comparison: the systems.
        comet: system → COMET score of each segment; None: without.
    """
    sources, references = comparison.sources, comparison.references
    first, *others = comparison.systems
    columns = estimate(first.hypotheses, {s.name: s.hypotheses for s in others}, references)
    if comet is not None:
        columns[COMET] = estimate_means(comet[first.name], [comet[s.name] for s in others])
    estimates = {
        system.name: {metric: column[place] for metric, column in columns.items()}
        for place, system in enumerate(comparison.systems)
    }
    kinds = failure_kinds(comparison.pair, references)
    failures = {
        system.name: find_failures(sources, references, system.hypotheses, kinds)
        for system in comparison.systems
    }
    groups = [_group(systems, estimates, failures) for systems in _by_label(comparison.systems)]
    shown = {group.first.name: group.first.hypotheses for group in groups}
    if is_unspaced("".join(sources)):
        unit, lengths = "characters", [len(source) for source in sources]
    else:
        unit, lengths = "words", [len(source.split()) for source in sources]
    buckets = [_bucket(f"{unit} in the source", lengths, _length_label, shown, references)]
    if comparison.rarest is not None:
        title = "occurrences of the source's rarest word in the training data"
        buckets.append(_bucket(title, comparison.rarest, _count_label, shown, references))
    if comparison.domains is not None:
        label = _domain_label(comparison.domains)
        domains = _bucket("domain or file", comparison.domains, label, shown, references)
        buckets.append(domains._replace(ordered=False))
    segments = {"chrf": {name: sentence_chrf(lines, references) for name, lines in shown.items()}}
    if comet is not None:
        segments[COMET] = {name: list(comet[name]) for name in shown}
    return Analysis(
        METRICS | ({} if comet is None else {COMET: "COMET"}),
        estimates,
        kinds,
        failures,
        segments,
        groups,
        buckets,
        score(first.hypotheses, references).signatures,
        score(sources, references),
    )


def _by_label(systems: Sequence[System]) -> list[list[System]]:
    groups: dict[tuple[str, str], list[System]] = {}
    for system in systems:
        groups.setdefault((system.label, system.shape), []).append(system)
    return list(groups.values())


def _group(
    systems: list[System],
    estimates: Mapping[str, Mapping[str, Estimate]],
    failures: Mapping[str, Mapping[str, Sequence[int]]],
) -> Group:
    metrics = estimates[systems[0].name]
    columns = {m: [estimates[system.name][m] for system in systems] for m in metrics}
    scores = {m: [e.score for e in column] for m, column in columns.items()}
    p_values = {m: [e.p_value for e in column] for m, column in columns.items()}
    kinds = failures[systems[0].name]
    return Group(
        systems,
        {m: mean(values) for m, values in scores.items()},
        {
            m: stdev(values) if len(values) > 1 else columns[m][0].margin
            for m, values in scores.items()
        },
        {
            m: None if None in values else max(p for p in values if p is not None)
            for m, values in p_values.items()
        },
        {kind: mean(len(failures[s.name][kind]) for s in systems) for kind in kinds},
        {
            rival: Gain(
                mean(system.gains[rival].bleu for system in systems),
                max(system.gains[rival].p_value for system in systems),
            )
            for rival in systems[0].gains
            if all(rival in system.gains for system in systems)
        },
    )


def _length_label(words: int) -> tuple[int, str]:
    """Return the place and the name of a source's range of lengths."""
    place = max(i for i, bound in enumerate(_LENGTHS) if words > bound or i == 0)
    if place == len(_LENGTHS) - 1:
        return place, f"over {_LENGTHS[-1]}"
    return place, f"{_LENGTHS[place] + 1}–{_LENGTHS[place + 1]}"


def _count_label(count: int) -> tuple[int, str]:
    """Return the place and the name of a count's range."""
    place = max(i for i, bound in enumerate(_COUNTS) if count >= bound)
    if place == 0:
        return place, "none"
    if place == len(_COUNTS) - 1:
        return place, f"{_COUNTS[-1]} or more"
    return place, f"{_COUNTS[place]}–{_COUNTS[place + 1] - 1}"


def _domain_label(domains: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    """Return a function from a domain to its place and name; the largest domain has the place 0."""
    largest = [name for name, _ in Counter(domains).most_common(_MAX_DOMAINS)]

    def label(domain: str) -> tuple[int, str]:
        if domain not in largest:
            return len(largest), "others"
        return largest.index(domain), domain

    return label


def _bucket(
    title: str,
    values: Sequence[T],
    label: Callable[[T], tuple[int, str]],
    shown: Mapping[str, Sequence[str]],
    references: Sequence[str],
) -> Buckets:
    """Score systems by ranges of a value; ranges of fewer than `_MIN_BUCKET` segments are left out.

    Args:
        title: name of the value.
        values: value of each segment.
        label: function from a value to the place and the name of its range.
        shown: name of a system → its translations.
        references: reference of each segment.
    """
    ranges: dict[tuple[int, str], list[int]] = {}
    for index, value in enumerate(values):
        ranges.setdefault(label(value), []).append(index)
    chosen = {k: ranges[k] for k in sorted(ranges) if len(ranges[k]) >= _MIN_BUCKET}
    chrf = {
        name: [
            score([lines[i] for i in indices], [references[i] for i in indices]).chrf
            for indices in chosen.values()
        ]
        for name, lines in shown.items()
    }
    return Buckets(title, [name for _, name in chosen], list(map(len, chosen.values())), chrf)
