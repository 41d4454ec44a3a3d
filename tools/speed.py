"""Fill the tables of docs/speed.md and docs/scale.md from the results of the benchmarks.

A region of the page is called `FILE VIEW`: a file of benchmarks/results and one of `VIEWS`.

    python tools/speed.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import regions

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / name for name in ("speed.md", "scale.md")]
RESULTS = ROOT / "benchmarks" / "results"

CORPUS = "the embedded corpus"

COMPARED = (
    "a2d ÷ vanilla kd",
    "a2d ÷ our kd",
    "a2d ÷ naive a2d",
    "a2d, cached ÷ student",
    "attention transfer ÷ a2d",
)
"""Ratios of the table that compares lengths, batches and vocabularies."""

MACHINES = {"latest": "AMD EPYC 25/17", "epyc": "another AMD EPYC", "amx": "Intel Xeon, AMX"}
"""Files of the table that compares CPUs, and their columns."""

STEP = "1024 tokens of 25, vocabulary 8000"
ON_MACHINES = {
    f"fp32 {STEP}": ("a2d ÷ vanilla kd", "a2d, bf16 teacher ÷ vanilla kd", "a2d ÷ our kd"),
    f"bf16 {STEP}": ("a2d ÷ vanilla kd", "a2d ÷ our kd", "a2d, cached ÷ student"),
    "fp32 2048 tokens of 512, vocabulary 8000": ("peak: a2d ÷ vanilla kd",),
}
"""Settings and ratios of the table that compares CPUs."""

SHARE = re.compile(r"(?P<kind>.*) of (?P<step>.*) ÷ vanilla kd")
"""Name of a share of a step's time, from the profiler."""

SPEED_UP = re.compile(r"(?P<way>.*): speed-up of (?P<shape>.*) over 6\+6")

Figures = dict[str, Any]


def main() -> None:
    """Read the results and fill the page."""
    figures = {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}

    def content(region: str) -> str | None:
        if region == "machines":
            return machines(figures)
        name, _, view = region.partition(" ")
        return VIEWS[view](figures[name]) if name in figures else None

    for page in PAGES:
        regions.fill(page, content)


def by_setting(figures: Figures) -> dict[str, Figures]:
    """Every setting's figures by their names."""
    settings: dict[str, Figures] = {}
    for title, value in figures.items():
        if title != "machine":
            name, setting, *_ = [*re.split(r", (?=(?:fp32|bf16) \d)", title), CORPUS]
            settings.setdefault(setting, {})[name] = value
    return settings


def cell(value: Any) -> str:
    """Median and range of a figure."""
    if not isinstance(value, dict):
        value = {"median": value}
    text = f"{value['median']:.{4 if value['median'] >= 1 else 3}g}"
    return f"{text} ({value['low']:.3g}–{value['high']:.3g})" if "low" in value else text


def rows_of(columns: Iterable[Figures], chosen: Callable[[str], bool]) -> list[list[str]]:
    """A row for every chosen figure, with a cell for every column."""
    columns = list(columns)
    names = dict.fromkeys(name for column in columns for name in column if chosen(name))
    return [
        [name, *(cell(column[name]) if name in column else "" for column in columns)]
        for name in names
    ]


def steps(figures: Figures) -> dict[str, Figures]:
    """Settings in which training steps were timed; ratios of the student alone are added."""
    timed = {s: f for s, f in by_setting(figures).items() if "seconds: naive a2d" in f}
    for values in timed.values():
        medians = (values[f"seconds: {name}"]["median"] for name in ("student", "naive a2d"))
        student, naive = medians
        values["student ÷ naive a2d (of medians)"] = student / naive
    return timed


def ratios(figures: Figures) -> str:
    """Ratios of training steps, a column for every setting."""
    timed = steps(figures)
    rows = rows_of(timed.values(), lambda name: "÷" in name and not SHARE.fullmatch(name))
    return regions.table(["", *timed], rows)


def seconds(figures: Figures) -> str:
    """Seconds of training steps, a column for every setting."""
    timed = steps(figures)
    rows = rows_of(timed.values(), lambda name: name.startswith("seconds"))
    return regions.table(
        ["", *timed], [[row[0].removeprefix("seconds: "), *row[1:]] for row in rows]
    )


def profile(figures: Figures) -> str:
    """Shares of a step's time by kind of work, relative to the whole step of vanilla kd."""
    head, columns = ["share of vanilla kd's step"], []
    kinds: dict[str, None] = {}
    for setting, values in steps(figures).items():
        wholes = {s: values[f"{s} ÷ vanilla kd"]["median"] for s in ("our kd", "a2d")}
        for step, whole in ({"vanilla kd": 1.0} | wholes).items():
            shares = {
                match["kind"]: value["median"]
                for title, value in values.items()
                if (match := SHARE.fullmatch(title)) and match["step"] == step
            }
            kinds |= dict.fromkeys(shares)
            rest = {"everything else": whole - sum(shares.values()), "the whole step": whole}
            head.append(f"{setting[:4]}: {step}")
            columns.append(shares | rest)
    names = [*kinds, "everything else", "the whole step"]
    return regions.table(head, [[name, *(f"{c[name]:.3f}" for c in columns)] for name in names])


def others(figures: Figures) -> str:
    """Measurements other than training steps: memory, padding, whole epochs."""
    untimed = {s: f for s, f in by_setting(figures).items() if "seconds: naive a2d" not in f}
    rows = [
        [setting, *row]
        for setting, values in untimed.items()
        for row in rows_of([values], lambda name: True)
    ]
    return regions.table(["setting", "", "median (range)"], rows, left=2)


def machines(figures: dict[str, Figures]) -> str:
    """Some ratios, a column for every CPU."""
    columns = [by_setting(figures[name]) for name in MACHINES]
    rows = [
        [setting, name, *(cell(column[setting][name]) for column in columns)]
        for setting, names in ON_MACHINES.items()
        for name in names
    ]
    return regions.table(["setting", "", *MACHINES.values()], rows, left=2)


def compared(figures: Figures) -> str:
    """Medians of some ratios, a row for every setting."""
    rows = [
        [setting, *(f"{values[name]['median']:.2f}" for name in COMPARED)]
        for setting, values in by_setting(figures).items()
    ]
    return regions.table(["setting", *COMPARED], rows)


def cache(figures: Figures) -> str:
    """Space and errors of the cache, a column for every method that reads another one."""
    methods = ("a2d", "a2d+hidden")
    columns = [
        {
            name.removeprefix(f"{method}: "): value
            for name, value in figures.items()
            if name.startswith(f"{method}:")
        }
        for method in methods
    ]
    return regions.table(["", *(f"`{m}`" for m in methods)], rows_of(columns, lambda name: True))


def speed_ups(figures: Figures) -> str:
    """Speed-ups over the 6+6 layers that translate in the same way, a row for every shape."""
    shapes: dict[str, dict[str, str]] = {}
    for title, value in figures.items():
        if match := SPEED_UP.fullmatch(title):
            spread = f"{value['median']:.3g} ({value['low']:.3g}–{value['high']:.3g})"
            shapes.setdefault(match["shape"], {})[match["way"]] = spread
    ways = list(dict.fromkeys(way for cells in shapes.values() for way in cells))
    rows = [[shape, *(cells[way] for way in ways)] for shape, cells in shapes.items()]
    return regions.table(["layers", *ways], rows)


def exported(figures: Figures) -> str:
    """Speed-ups of exported models over 6+6 layers in PyTorch."""
    return regions.table(
        ["", "median (range)"], rows_of([figures], lambda name: " as CTranslate2" in name)
    )


def machine(figures: Figures) -> str:
    """One line about the machine of the figures."""
    facts = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    device = facts["gpu"] or (f"{facts['cpu']} ({facts['capability']}), {facts['threads']} thread")
    return f"Measured on {device}; {facts['rounds']} rounds; {versions}."


def preparation(figures: Figures) -> str:
    """Seconds and memory of each step of a corpus's preparation, for each number of pairs."""
    sizes = [name for name in figures if name.endswith("pairs")]
    steps = [name for name in figures[sizes[0]] if name != "table"]
    rows = [
        [step, *(f"{figures[size][step][unit]:,.0f}" for size in sizes for unit in UNITS)]
        for step in steps
    ]
    sums = (sum(figures[size][step]["seconds"] for step in steps) for size in sizes)
    rows.append(["all", *(cell for total in sums for cell in (f"{total:,.0f}", ""))])
    names = {"seconds": "s", "MB": "MB"}
    heads = [f"{size}, {names[unit]}" for size in sizes for unit in UNITS]
    return regions.table(["", *heads], rows)


UNITS = ("seconds", "MB")


def workers(figures: Figures) -> str:
    """Seconds of one worker and of two, and their ratio, a row for every kind of work."""
    rows = [
        [
            kind,
            *(f"{figures[f'{kind}, {count} worker(s), s']['median']:,.0f}" for count in (1, 2)),
            f"{figures[f'{kind}, two workers over one']['median']:.2f}",
        ]
        for kind in ("preparation", "translation")
    ]
    return regions.table(["", "one worker, s", "two workers, s", "ratio"], rows)


VIEWS: dict[str, Callable[[Figures], str]] = {
    "ratios": ratios,
    "seconds": seconds,
    "profile": profile,
    "others": others,
    "compared": compared,
    "errors": cache,
    "speed-ups": speed_ups,
    "exported": exported,
    "machine": machine,
    "preparation": preparation,
    "workers": workers,
}
"""Tables that a region may ask for, by name."""


if __name__ == "__main__":
    main()
