"""Write docs/speed.md from benchmarks/results: what bench.py, cache.py and decoding.py measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import fill
from typing import Any

from tables import RESULTS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"

GOALS: dict[str, dict[str, tuple[str, float]]] = {
    "a2d ÷ vanilla kd": {"fp32": ("≤", 0.92), "bf16": ("≤", 0.65), "card": ("≤", 1.05)},
    "a2d, bf16 teacher ÷ vanilla kd": {"fp32": ("≤", 0.92)},
    "a2d ÷ our kd": {"fp32": ("≤", 1.05), "bf16": ("≤", 1.05)},
    "a2d ÷ naive a2d": {"card": ("≤", 0.5)},
    "attention loss ÷ a2d": {"fp32": ("≤", 0.05), "bf16": ("≤", 0.05)},
    "a2d, cached ÷ student": {"fp32": ("≤", 1.10), "bf16": ("≤", 1.10)},
    "authors' code ÷ a2d": {"bf16": ("≥", 4)},
    "peak: a2d ÷ vanilla kd": {"fp32": ("≤", 1.25)},
    "padding share at 512 tokens": {"corpus": ("≤", 0.05)},
}
"""What we wish for, by precision on a processor, and on a card, with large batches."""

HEAD = """# Speed

What distillation costs in time, memory and space, and what its students gain. `make bench`
measures the first part in under ten minutes and writes this page; [`benchmarks/`](../benchmarks)
holds it all, and `benchmarks/results` every figure. Ratios are formed round by round from steps
that run in turn: median, and lowest–highest of the rounds.
"""

TRAINING = """## A training step

Forward and backward pass of the student, what it needs of the teacher, and the update. *student*:
on references alone; *vanilla kd*: word-level distillation, both with the library's means (SDPA,
its losses). *a2d* and *our kd* are steps of `A2DTrainer`; *a2d, bf16 teacher* has
`teacher_bf16=True` under a student in fp32; *a2d, cached* reads what the teacher said from disk;
*naive a2d* is the method from nothing but library calls, the definition that tests compare with.
The library's steps share one process and ours another, since `A2DTrainer` has its process keep the
memory that steps free. Two batches take turns: memory has come to rest, as in a long training.
Medians of two runs of it all differ by up to 4%: what is that close to its goal (✓, ✗) is sometimes
on one side, sometimes on the other.
The paper's sizes: teacher 6+6 layers × 4 heads, student 3+3 × 8, width 512, feed-forward 1024.
"""

OTHER = """## On other processors

What is decided above, as `make bench` measured it elsewhere: how much of a step matrix products
take, and so what can be saved beside them, differs from processor to processor.
"""

ELSEWHERE = {
    "epyc": """On another AMD EPYC, whose model was not noted, faster in bf16: commit 660fff6.
""",
    "amx": """On an Intel Xeon with units for matrix products in bf16 (AMX): commit 6a5ea06, before
teachers' matrices were packed; the attention loss measured was that of `formula="paper"`, which
takes a logarithm less than the default.
""",
}
"""What there is to say of each of the other processors' results."""

MORE = """## Other lengths, batches and vocabularies

Medians of some of the full set, by `python benchmarks/bench.py --full --rounds 5 --name NAME --only
REGEX` with what stands above each table. With 60,000 words, teacher and student are of OPUS-MT's
sizes: 6+6 and 6+2 layers × 8 heads, feed-forward 2048. Attention maps grow with the square of the
length: it is in long sentences that the alignment costs most.
"""

SOME = {
    "more": "^bf16 (1024 tokens of (12|100|512), vocabulary 8000|(4096|16384) tokens of 25, "
    "vocabulary 8000|1024 tokens of 25, vocabulary 60000)",
    "more-fp32": "^(fp32 1024 tokens of ((12|100|512), vocabulary 8000|25, vocabulary "
    "(32000|60000))|bf16 1024 tokens of 25, vocabulary 32000)",
}
"""Results that are parts of the full set, and which settings they have."""

COMPARED = (
    "a2d ÷ vanilla kd",
    "a2d ÷ our kd",
    "a2d ÷ naive a2d",
    "a2d, cached ÷ student",
    "attention transfer ÷ a2d",
)

CARD = """## The same on a graphics card

Small steps leave a card idle: it waits for kernels to be started one by one, which takes as long
for few sentences as for many. *a2d, cached* is read between two steps here, and beside them with
`dataloader_num_workers`. By `python benchmarks/bench.py --only bf16` of commit 9daa10b, before the
attention loss took fewer kernels; now one adds `--name card`.
"""

PROFILE = """Where a step's time goes, in parts of vanilla kd's (by PyTorch's profiler):"""

CARD_BOUND = """*student* alone, one kernel started after the other, takes {share:.2f} times what
naive a2d takes: nothing that trains it with PyTorch's kernels is more than {most:.1f} times as
fast, even without a teacher. """

BOUND = """No implementation takes less than the matrix products that it asks for: with PyTorch's,
a2d cannot be far below {a2d:.2f} times vanilla kd at this precision. """

AUTHORS = """The authors' code, which trains in float32, cannot run beside the others; it was
measured once together with *student* in float32, which is the yardstick here. It would take
about {most:.1f} times the time of a2d's products alone. """

CORPUS = "The embedded corpus"

CACHE = """## The teacher cache

`python benchmarks/cache.py RUN`, on a finished run: what the compressed signals change for its
student, without dropout, relative to the live teacher's, in sentences of {source:.0f} source and
{target:.0f} target tokens.
"""

DECODING = """## Translating

`python benchmarks/decoding.py`: 16 sentences of 24 tokens to translations of 24, width
512, 8 heads, vocabulary 8000; random weights, so that only the shape counts.
How many times faster than 6 encoder and 6 decoder layers that translate in the same way:
"""

SHARE = re.compile(r"(?P<kind>.*) of (?P<step>.*) ÷ vanilla kd")

SPEED_UP = re.compile(r"(?P<way>.*): speed-up of (?P<shape>.*) over 6\+6")


def main() -> None:
    """Read, write."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    parts = [HEAD]
    if "latest" in found:
        parts += [TRAINING, training(found["latest"], on_card=False), machine(found["latest"])]
    parts += [OTHER]
    for name in filter(found.get, ELSEWHERE):
        parts += [ELSEWHERE[name], decided(found[name]), machine(found[name])]
    parts += [MORE]
    for name in filter(found.get, SOME):
        command = f"`{name}`: `{SOME[name]}`\n"
        parts += [command, compared(found[name]), machine(found[name])]
    if "card" in found:
        parts += [CARD, training(found["card"], on_card=True), machine(found["card"])]
    if "cache" in found:
        parts += [cache(found["cache"])]
    if "decoding" in found:
        parts += [decoding(found["decoding"]), machine(found["decoding"])]
    PAGE.write_text("\n".join(parts), "utf-8")
    print(f"Written to {PAGE}.")


def training(figures: dict[str, Any], on_card: bool) -> str:
    """For every setting a table, and what bounds its ratios."""
    lines = []
    for setting, found in by_setting(figures).items():
        shares = {title: value for title, value in found.items() if SHARE.fullmatch(title)}
        rest = {title: value for title, value in found.items() if title not in shares}
        lines += [f"### {setting}\n", table(rest, goals=kind_of(setting, on_card))]
        if shares:
            lines += [PROFILE + "\n", profile(shares, found), bound(found)]
        if on_card and "seconds: student" in found:
            share = median(found, "seconds: student") / median(found, "seconds: naive a2d")
            lines += [fill(CARD_BOUND.format(share=share, most=1 / share), 105) + "\n"]
    return "\n".join(lines)


def by_setting(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every setting's figures by their names."""
    settings: dict[str, dict[str, Any]] = {}
    for title, value in figures.items():
        if title != "machine":
            name, setting, *_ = [*re.split(r", (?=(?:fp32|bf16) \d)", title), CORPUS]
            settings.setdefault(setting, {})[name] = value
    return settings


def compared(figures: dict[str, Any]) -> str:
    """A line a setting."""
    lines = ["| | " + " | ".join(COMPARED) + " |", "|---|" + "--:|" * len(COMPARED)]
    for setting, found in by_setting(figures).items():
        cells = [f"{found[name]['median']:.2f}" for name in COMPARED]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def decided(figures: dict[str, Any]) -> str:
    """All that has a goal, in one table."""
    lines = ["| | | median | range | goal |", "|---|---|--:|--:|---|"]
    for setting, found in by_setting(figures).items():
        kind = kind_of(setting, on_card=False)
        chosen = {name: found[name] for name in found if goal(name, kind, 0)}
        rows = table(chosen, goals=kind).splitlines()[2:]
        lines += [f"| {setting} {row}" for row in rows]
    return "\n".join(lines) + "\n"


def median(figures: dict[str, Any], name: str) -> float:
    """Of a figure."""
    value: float = figures[name]["median"]
    return value


def kind_of(setting: str, on_card: bool) -> str:
    """Which of the goals are a setting's."""
    if on_card:
        return "card" if "16384" in setting else "none"
    return "corpus" if setting == CORPUS else setting[:4]


def profile(shares: dict[str, Any], figures: dict[str, Any]) -> str:
    """What each kind of work takes, and what is left of the whole."""
    ours = {step: figures[f"{step} ÷ vanilla kd"]["median"] for step in ("our kd", "a2d")}
    wholes = {"vanilla kd": 1.0} | ours
    kinds: dict[str, dict[str, float]] = {}
    for title, value in shares.items():
        found = SHARE.fullmatch(title)
        assert found is not None
        kinds.setdefault(found["kind"], {})[found["step"]] = value["median"]
    kinds["everything else"] = {
        step: whole - sum(kind[step] for kind in kinds.values()) for step, whole in wholes.items()
    }
    kinds["the whole step"] = wholes
    lines = ["| | " + " | ".join(wholes) + " |", "|---|" + "--:|" * len(wholes)]
    for kind, spent in kinds.items():
        lines.append(f"| {kind} | " + " | ".join(f"{spent[step]:.3f}" for step in wholes) + " |")
    return "\n".join(lines) + "\n"


def bound(figures: dict[str, Any]) -> str:
    """What no implementation goes below."""
    names = {
        "a2d": "matrix products of a2d ÷ vanilla kd",
        "most": "authors' code ÷ matrix products of a2d",
    }
    given = {key: figures[name]["median"] for key, name in names.items() if name in figures}
    text = BOUND + (AUTHORS if "most" in given else "")
    return fill(text.format(**given), 105) + "\n"


def cache(figures: dict[str, Any]) -> str:
    """Space and errors, of each method that reads another cache."""
    sizes = {side: figures[f"{side} tokens per sentence"] for side in ("source", "target")}
    lines = [CACHE.format(**sizes)]
    for method, what in (
        ("a2d", "distributions, attention maps"),
        ("a2d+hidden", "states as well"),
    ):
        of = {
            n.removeprefix(f"{method}: "): v
            for n, v in figures.items()
            if n.startswith(f"{method}:")
        }
        lines += [
            f"`{method}` ({what}): {of.pop('KB per sentence'):.1f} KB a sentence.\n",
            table(of),
        ]
    return "\n".join(lines)


def decoding(figures: dict[str, Any]) -> str:
    """Speed-ups over the 6+6 layers that translate in the same way: a line a shape."""
    shapes: dict[str, dict[str, str]] = {}
    for title, value in figures.items():
        if found := SPEED_UP.fullmatch(title):
            cell = f"{value['median']:.3g} ({value['low']:.3g}–{value['high']:.3g})"
            shapes.setdefault(found["shape"], {})[found["way"]] = cell
    ways = list(dict.fromkeys(way for cells in shapes.values() for way in cells))
    lines = ["| layers | " + " | ".join(ways) + " |", "|---|" + "--:|" * len(ways)]
    lines += [f"| {shape} | {' | '.join(cells.values())} |" for shape, cells in shapes.items()]
    rest = {title: v for title, v in figures.items() if " as CTranslate2" in title}
    return "\n".join([DECODING, *lines, "", table(rest)])


def table(figures: dict[str, Any], goals: str | None = None) -> str:
    """Markdown, one figure a line, and what was wished for where goals are given."""
    more, rule = (" goal |", "---|") if goals else ("", "")
    lines = [f"| | median | range |{more}", f"|---|--:|--:|{rule}"]
    for name, value in figures.items():
        spread = value if isinstance(value, dict) else {"median": value}
        span = f"{spread['low']:.3g}–{spread['high']:.3g}" if "low" in spread else ""
        cells = [name, f"{spread['median']:.{4 if spread['median'] >= 1 else 3}g}", span]
        if goals:
            cells.append(goal(name, goals, spread["median"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def goal(name: str, kind: str, median: float) -> str:
    """What was wished for, and whether it came."""
    if kind not in GOALS.get(name, {}):
        return ""
    sign, limit = GOALS[name][kind]
    met = median <= limit if sign == "≤" else median >= limit
    return f"{sign} {limit:g} {'✓' if met else '✗'}"


def machine(figures: dict[str, Any]) -> str:
    """What the figures were measured on, in a line."""
    told = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    where = told["card"] or f"{told['processor']} ({told['capability']}), {told['threads']} thread"
    return f"Measured on {where}; {told['rounds']} rounds; {versions}.\n"


if __name__ == "__main__":
    main()
