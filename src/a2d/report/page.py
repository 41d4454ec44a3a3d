"""The page of a report: one HTML file with its data, style and scripts inside.

The file needs no network. Text of corpora reaches the page in two ways only: Jinja escapes it, or
it is part of JSON that the scripts write as text, never as HTML.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from a2d import __version__
from a2d.errors import UserError
from a2d.files import write_text
from a2d.report.analysis import Analysis, Group, analyse
from a2d.report.comparison import Comparison
from a2d.report.details import Details
from a2d.text.failures import LANGUAGE, WRONG_SCRIPT

_TEMPLATES = Environment(
    loader=PackageLoader("a2d.report", "assets"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

_STYLE = "page.css"
_LICENCES = "LICENSES.txt"
_LIBRARIES = ("d3.min.js", "plot.umd.min.js", "diff.min.js")
_SCRIPTS = ("tables.js", "charts.js", "segments.js", "attention.js")


def check_page(path: Path) -> None:
    """Check the name of a page.

    Raises:
        UserError: it does not end in .html, or a folder has this name.
    """
    if path.suffix != ".html":
        raise UserError(f"{path} is not the name of a page: end it in .html.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: choose another --output.")


def write_page(
    path: Path,
    comparison: Comparison,
    details: Details | None = None,
    comet: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write the report of a comparison as one HTML file.

    Args:
        path: file to write.
        comparison: what is compared.
        details: what a run adds.
        comet: system → COMET score of each segment, times 100.
    """
    analysis, details = analyse(comparison, comet), details or Details()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _render(comparison, analysis, details))


def _render(comparison: Comparison, analysis: Analysis, details: Details) -> str:
    page = _TEMPLATES.get_template("page.html.jinja")
    first = analysis.groups[0]
    models = [group for group in analysis.groups[1:] if not group.first.original]
    best = max(models or [first], key=lambda group: group.scores["chrf"])
    return page.render(
        comparison=comparison,
        analysis=analysis,
        only_scripts=analysis.kinds[LANGUAGE].title == WRONG_SCRIPT,
        details=details,
        first=first,
        best=best,
        fastest=max(
            (
                group
                for group in analysis.groups
                if group.first.original == best.first.name
                and group.first.speed
                and not group.first.refused
            ),
            key=lambda group: group.first.speed or 0,
            default=None,
        ),
        metrics=analysis.metrics,
        rivals=list(dict.fromkeys(rival for group in analysis.groups for rival in group.gains)),
        known={
            name: any(getattr(system, name) for system in comparison.systems)
            for name in ("shape", "parameters", "size_bytes", "speed", "train_seconds")
        },
        version=__version__,
        style=_asset(_STYLE),
        licences=_asset(_LICENCES),
        libraries=[_asset(name) for name in _LIBRARIES],
        scripts=[_asset(name) for name in _SCRIPTS],
        data=_embedded(_data(comparison, analysis, details)),
        label=_label_of(analysis.groups),
        times=lambda ratio: f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}",
        millions=_millions,
        signed=lambda value: f"{value:+.2f}".replace("-", "\u2212"),
        clock=_clock,
        megabytes=lambda size: "–" if size is None else f"{size / 1e6:.1f} MB",
    )


def _data(comparison: Comparison, analysis: Analysis, details: Details) -> dict[str, Any]:
    """Collect what the scripts read."""
    shown = [group.first for group in analysis.groups]
    label = _label_of(analysis.groups)
    return {
        "pair": comparison.pair,
        "sources": list(comparison.sources),
        "references": list(comparison.references),
        "systems": [
            {
                "label": label(group),
                "role": group.first.role,
                "parameters": group.first.parameters,
                "bytes": group.first.size_bytes,
                "speed": group.first.speed,
                "minutes": None
                if group.first.train_seconds is None
                else group.first.train_seconds / 60,
                "scores": group.scores,
                "spreads": group.spreads,
                "seeds": len(group.systems),
                "hypotheses": list(group.first.hypotheses),
                "segments": {
                    metric: [round(value, 1) for value in scores[group.first.name]]
                    for metric, scores in analysis.segments.items()
                },
                "failures": analysis.failures[group.first.name],
            }
            for group in analysis.groups
        ],
        "metrics": analysis.metrics,
        "kinds": {name: kind.title for name, kind in analysis.kinds.items()},
        "buckets": [
            {
                "title": bucket.title,
                "labels": bucket.labels,
                "sizes": bucket.sizes,
                "chrf": [bucket.chrf[system.name] for system in shown],
                "ordered": bucket.ordered,
            }
            for bucket in analysis.buckets
        ],
        "curves": {name: list(map(_finite, log)) for name, log in details.curves.items()},
        "alignments": dict(details.alignments),
        "attention": list(details.attention),
    }


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Replace figures that JSON cannot hold: a gradient norm in half precision may be infinite."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _label_of(groups: Sequence[Group]) -> Any:
    """Return a function that names a group: by its label, and its shape where labels repeat."""
    labels = [group.first.label for group in groups]

    def label(group: Group) -> str:
        name = group.first.label
        repeated = labels.count(name) > 1 and group.first.shape
        return f"{name} {group.first.shape}" if repeated else name

    return label


def _embedded(data: Any) -> Markup:
    """Write JSON that may stand in a `<script>` element, whatever text it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _asset(name: str) -> Markup:
    return Markup(files("a2d.report").joinpath("assets", name).read_text("utf-8"))


def _millions(count: int | None) -> str:
    if count is None:
        return "–"
    return f"{count / 1e6:.1f}M" if count >= 100_000 else f"{count / 1e6:.3f}M"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
