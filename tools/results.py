"""Fill the tables and draw the pictures of docs/results.md from the files in results/ alone.

Every folder there is one experiment: what `a2d run` wrote to its run's `results` folder, or several
such folders side by side, and `about.yaml`, which names its command and what to compare. A region
`NAME` of the page (see regions.py) holds the figures of an experiment, `NAME command` its command,
device and time. All translations are scored again first: figures that do not match them stop the
program.

    python tools/results.py [EXPERIMENT…]
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any

import regions
import yaml

from a2d.runs import plots, results
from a2d.runs.report import millions, spread
from a2d.runs.results import Group, Row
from a2d.text.evaluation import p_values, score

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "results"


def main() -> None:
    """Check the figures and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiments", nargs="*", help="folders in results/; default: all")
    chosen = parser.parse_args().experiments
    filled: dict[str, str] = {}
    for path in sorted((ROOT / "results").glob("*/about.yaml")):
        name = path.parent.name
        if not chosen or name in chosen:
            print(f"{name}: scoring", file=sys.stderr)
            about = yaml.safe_load(path.read_text("utf-8"))
            filled[name], filled[f"{name} command"] = experiment(path.parent, about)
    missing = filled.keys() - set(regions.names(PAGE))
    if missing:
        sys.exit(f"{PAGE} has no region for {', '.join(sorted(missing))}: add it, with its prose.")
    regions.fill(PAGE, filled.get)


def experiment(folder: Path, about: dict[str, Any]) -> tuple[str, str]:
    """Figures of one experiment, and its command, device and time."""
    parts = {part: folder / part for part in about.get("parts", [])} or {"": folder}
    lines: list[str] = []
    rows: list[Row] = []
    for part, place in parts.items():
        scored = results.read(place)
        check(place, scored)
        lines += [*([f"**{part}**"] if part else []), table(scored, about["measured"])]
        rows += [replace(row, student=part or row.student) for row in scored]
    plots.scores(rows, PICTURES / f"{folder.name}.png", about["measured"])
    if "summary" in about:  # for README
        plots.scores(rows, PICTURES / "summary.png", about["measured"], **about["summary"])
    lines.append(f"![BLEU of every method](results/{folder.name}.png)")
    if "curves" in about:
        histories = dict(curves(folder, rows, about["curves"]))
        plots.wall_clock(histories, PICTURES / f"{folder.name}-curves.png")
        lines.append(f"![Validation BLEU by training time](results/{folder.name}-curves.png)")
    if "duels" in about:
        lines.append(f"Compared directly: {'; '.join(duels(folder, rows, about['duels']))}.")
    return "\n\n".join(lines), facts(rows, about)


def check(folder: Path, rows: list[Row]) -> None:
    """Score every translation again; exit where a file says otherwise."""
    references = results.read_compressed(folder / "references.txt.gz")
    for row in rows:
        if row.bleu is None or row.chrf is None:  # a teacher whose translations are not known
            continue
        hypotheses = results.read_compressed(folder / "hypotheses" / f"{row.name}.txt.gz")
        found = score(hypotheses, references)
        if abs(found.bleu - row.bleu) > 1e-9 or abs(found.chrf - row.chrf) > 1e-9:
            sys.exit(
                f"{folder}: {row.name} scores {found.bleu:.4f} BLEU and {found.chrf:.4f} chrF, but "
                f"scores.json says {row.bleu:.4f} and {row.chrf:.4f}."
            )


def table(rows: list[Row], measured: str) -> str:
    """A Markdown table, one line per method, setting and student, the best BLEU in bold."""
    groups = results.group_rows(rows)
    best: dict[str, Group] = {}
    for group in groups:
        rival = best.get(group.student, group)
        if group.label != "teacher" and group.mean("bleu") >= rival.mean("bleu"):
            best[group.student] = group
    scored = [g for g in groups if g.rows[0].bleu is not None]
    teacher = next((g.mean("bleu") for g in scored if g.label == "teacher"), None)
    baselines = {g.student: g for g in reversed(groups) if g.method == "baseline"}
    head = ["method", "student", "params", "seeds", f"BLEU ({measured})", "chrF", "over baseline"]
    head += ["recovered", "over kd", "training"]
    lines = []
    for group in groups:
        several = len(group.rows) > 1
        bleu = spread(group, "bleu", several)
        cells = [
            group.label,
            group.student.replace("x", "×"),
            millions(group.rows[0]),
            str(len(group.rows)),
            f"**{bleu}**" if best.get(group.student) is group else bleu,
            spread(group, "chrf", several),
            gain(group, "baseline"),
            recovered(group, baselines.get(group.student), teacher),
            gain(group, "kd"),
            "–" if group.rows[0].train_seconds is None else clock(group.mean("train_seconds")),
        ]
        lines.append(cells)
    return regions.table(head, lines, left=2)


def gain(group: Group, rival: str) -> str:
    """The mean difference, and in how many seeds it is significant."""
    count = group.count_significant(rival)
    if count is None:
        return ""
    return f"{group.mean(f'gain_vs_{rival}'):+.2f} ({count}/{len(group.rows)})"


def recovered(group: Group, baseline: Group | None, teacher: float | None) -> str:
    """The gain over the first baseline as a share of the teacher's; nothing without a lead."""
    if teacher is None or baseline in (None, group) or group.label == "teacher":
        return ""
    lead = teacher - baseline.mean("bleu")
    return f"{(group.mean('bleu') - baseline.mean('bleu')) / lead:.0%}" if lead > 0 else ""


def duels(folder: Path, rows: list[Row], pairs: list[tuple[str, str]]) -> Iterator[str]:
    """Methods, by name, compared directly: mean gain, and in how many seeds it is significant."""
    references = results.read_compressed(folder / "references.txt.gz")
    named = {row.name: row for row in rows}

    def hypotheses(row: Row) -> list[str]:
        return results.read_compressed(folder / "hypotheses" / f"{row.name}.txt.gz")

    for one, other in pairs:
        gains, chances = [], []
        for row in rows:
            cell = f"-{row.student}-seed{row.seed}"
            if row.name == one + cell:
                rival = named[other + cell]
                assert row.bleu is not None
                assert rival.bleu is not None
                gains.append(row.bleu - rival.bleu)
                found = p_values(hypotheses(rival), {one: hypotheses(row)}, references)
                chances.append(found[one])
        wins = results.count_significant(gains, chances)
        yield f"`{one}` over `{other}`: {mean(gains):+.2f} ({wins}/{len(gains)})"


def curves(folder: Path, rows: list[Row], labels: list[str]) -> Iterator[tuple[str, Any]]:
    """For each label the points (seconds, validation BLEU), averaged over seeds."""
    with (folder / "curves.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    names = {row.name: row.label for row in rows}
    for label in labels:
        logs: dict[str, list[dict[str, str]]] = {}
        for record in records:
            if names.get(record["name"]) == label:
                figures = {key: record[key] for key in ("step", "seconds", "eval_bleu")}
                logs.setdefault(record["name"], []).append(figures)
        yield label, [(e["seconds"], e["eval_bleu"]) for e in results.mean_log(logs.values())]


def facts(rows: list[Row], about: dict[str, Any]) -> str:
    """The command, the hardware and the time."""
    devices = sorted({row.device for row in rows if row.device})
    seconds = sum(row.train_seconds or 0 for row in rows)
    command = about["command"].strip()
    return (
        f"```bash\n{command}\n```\n\nTrained on: {'; '.join(devices)}. Training time of all models "
        f"together: {clock(seconds)}."
    )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    main()
