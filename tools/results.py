"""Fill the tables and draw the pictures of docs/results.md from the files in results/.

Each folder is an experiment: the `results` folder of a run of `a2d run`, or several of them, and
`about.yaml` with the command and the comparisons. `parts` names folders with a table each, `runs`
folders whose students share a table; `settings` has what distinguishes methods of several runs, by
their names. The page's region `NAME` (see regions.py) has the figures of an experiment, `NAME
command` its command, device and time. All translations are scored again first; the program exits
if a figure differs.

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
from ranking import ranking

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
    """Return the figures of one experiment, and its command, device and time, as Markdown."""
    lines: list[str] = []
    rows: list[Row] = []
    for part in about.get("parts", [""]):
        runs = [folder / part / run for run in about.get("runs", [""])]
        scored = read(runs, about.get("settings", {}))
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
    if about.get("ranking"):
        lines.append(ranking(rows))
    if "duels" in about:
        lines.append(f"Compared directly: {'; '.join(duels(folder, rows, about['duels']))}.")
    return "\n\n".join(lines), facts(rows, about)


def read(folders: list[Path], settings: dict[str, str]) -> list[Row]:
    """Read runs under one teacher, whose translations are the same.

    Args:
        folders: folders of results.
        settings: settings by the names of methods; a run's own are those in which its students
            differ.
    """
    rows: dict[str, Row] = {}
    for folder in folders:
        scored = results.read(folder)
        check(folder, scored)
        for row in scored:
            if row.name in rows and row.bleu != rows[row.name].bleu:
                sys.exit(f"{folder}: {row.name} has another BLEU than in the runs before.")
            method = row.name.removesuffix(f"-{row.student}-seed{row.seed}")
            setting = settings.get(method, row.setting)
            rows.setdefault(row.name, replace(row, setting=setting))
    return list(rows.values())


def check(folder: Path, rows: list[Row]) -> None:
    """Score every translation again; exit if a score differs from the file's."""
    references = results.read_compressed(folder / "references.txt.gz")
    for row in rows:
        if row.bleu is None or row.chrf is None:  # a teacher without translations
            continue
        hypotheses = results.read_compressed(folder / "hypotheses" / f"{row.name}.txt.gz")
        actual = score(hypotheses, references)
        if abs(actual.bleu - row.bleu) > 1e-9 or abs(actual.chrf - row.chrf) > 1e-9:
            sys.exit(
                f"{folder}: {row.name} scores {actual.bleu:.4f} BLEU and {actual.chrf:.4f} chrF; "
                f"scores.json has {row.bleu:.4f} and {row.chrf:.4f}."
            )


def table(rows: list[Row], measured: str) -> str:
    """Make a Markdown table, a row per method, setting and student, with the best BLEU in bold."""
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
    """Mean gain over a rival, and the number of seeds in which it is significant."""
    count = group.count_significant(rival)
    if count is None:
        return ""
    return f"{group.mean(f'gain_vs_{rival}'):+.2f} ({count}/{len(group.rows)})"


def recovered(group: Group, baseline: Group | None, teacher: float | None) -> str:
    """Gain over the first baseline as a share of the teacher's gain; empty if the latter is ≤ 0."""
    if teacher is None or baseline in (None, group) or group.label == "teacher":
        return ""
    lead = teacher - baseline.mean("bleu")
    return f"{(group.mean('bleu') - baseline.mean('bleu')) / lead:.0%}" if lead > 0 else ""


def duels(folder: Path, rows: list[Row], pairs: list[tuple[str, str]]) -> Iterator[str]:
    """Compare pairs of methods: mean gain, and number of seeds in which it is significant."""
    references = results.read_compressed(folder / "references.txt.gz")
    named = {row.name: row for row in rows}

    def hypotheses(row: Row) -> list[str]:
        return results.read_compressed(folder / "hypotheses" / f"{row.name}.txt.gz")

    for method, rival_method in pairs:
        gains, p = [], []
        for row in rows:
            suffix = f"-{row.student}-seed{row.seed}"
            if row.name == method + suffix:
                rival = named[rival_method + suffix]
                assert row.bleu is not None
                assert rival.bleu is not None
                gains.append(row.bleu - rival.bleu)
                values = p_values(hypotheses(rival), {method: hypotheses(row)}, references)
                p.append(values[method])
        wins = results.count_significant(gains, p)
        yield f"`{method}` over `{rival_method}`: {mean(gains):+.2f} ({wins}/{len(gains)})"


def curves(folder: Path, rows: list[Row], labels: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield each label with its points (seconds, validation BLEU), averaged over seeds."""
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
    """Command, hardware and time of an experiment, as Markdown."""
    devices = sorted({row.device for row in rows if row.device})
    seconds = sum(row.train_seconds or 0 for row in rows)
    command = about["command"].strip()
    return (
        f"```bash\n{command}\n```\n\nTrained on: {'; '.join(devices)}. Training time of all models "
        f"together: {clock(seconds)}."
    )


def clock(seconds: float) -> str:
    """Format a duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    main()
