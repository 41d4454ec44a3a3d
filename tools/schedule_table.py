"""Fill the tables of docs/schedule.md from the trials in results/schedule.

python tools/schedule_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import regions

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "schedule.md"
TRIALS = ROOT / "results" / "schedule"
COLUMNS = {
    "pairs": lambda t: f"{t['pairs']:,}",
    "width": lambda t: str(t["teacher_width"]),
    "decoder layer from": lambda t: {"random": "–"}.get(t["decoder"], f"the {t['decoder']}"),
    "tokens a batch": lambda t: f"{t['tokens']:,}",
    "rate": lambda t: f"{t['lr']:g}",
    "schedule": lambda t: t.get("schedule", "plateau" if t["patience"] else "linear"),
    "α": lambda t: f"{t['alpha']:g}",
    "updates": lambda t: f"{t['steps']:,}",
    "epochs": lambda t: f"{t['epochs']:.0f}",
    "best BLEU": lambda t: f"{t['bleu']:.1f}",
    "last chrF": lambda t: f"{t['curve'][-1][2]:.1f}",
}
LAYERS = {
    "student": lambda t: t["layers"].replace("x", "+"),
    "encoder from": lambda t: t["encoder"],
    "decoder from": lambda t: t["decoder"],
    "BLEU": lambda t: f"{t['bleu']:.1f}",
    "chrF": lambda t: f"{t['chrf']:.1f}",
}
METHODS = {
    "corpus": lambda t: t["corpus"].replace("-", "→"),
    "student": lambda t: t.get("shape") or t["layers"],
    "start": lambda t: "pruned and fitted" if "shape" in t else "copied layers",
    "method": lambda t: f"`{t['method']}`",
    "β": lambda t: describe_beta(t) if t["method"] != "kd" else "–",
    "seed": lambda t: str(t["seed"]),
    "BLEU": lambda t: f"{t['bleu']:.1f}",
    "chrF": lambda t: f"{t['chrf']:.1f}",
}
START_NAMES = {"teacher": "pruned and fitted", "sliced": "pruned", "random": "random"}
STARTS = {
    "pairs": lambda t: f"{t['pairs']:,}",
    "student": lambda t: t["shape"],
    "method": lambda t: f"`{t['method']}`",
    "start": lambda t: START_NAMES[t["start"]],
    "rate": lambda t: f"{t['lr']:g}",
    "a quarter": lambda t: f"{t['curve'][len(t['curve']) // 4 - 1][1]:.1f}",
    "half": lambda t: f"{t['curve'][len(t['curve']) // 2 - 1][1]:.1f}",
    "all": lambda t: f"{t['curve'][-1][1]:.1f}",
    "chrF": lambda t: f"{t['curve'][-1][2]:.1f}",
}

RULE = {
    "corpus": lambda t: t["corpus"].replace("-", "→"),
    "pairs": COLUMNS["pairs"],
    "student": lambda t: t["shape"],
    "tokens a batch": COLUMNS["tokens a batch"],
    "rate": COLUMNS["rate"],
    "α": COLUMNS["α"],
    "updates": COLUMNS["updates"],
    "method": lambda t: f"`{t['method']}`",
    "BLEU": LAYERS["BLEU"],
    "chrF": LAYERS["chrF"],
}

STEPS = {
    "student": lambda t: t["shape"],
    "first step": lambda t: f"{t['through']}, {t['first']:,} updates" if t["through"] else "–",
    "updates": COLUMNS["updates"],
    "seconds": lambda t: f"{t['seconds']:,.0f}",
    "BLEU": LAYERS["BLEU"],
    "chrF": LAYERS["chrF"],
}

BETAS = {
    "student": lambda t: t["shape"],
    "start": lambda t: {"teacher": "teacher", "random": "random"}[t["start"]],
    "updates": lambda t: f"{t['updates']:,}",
    "method": lambda t: f"`{t['method']}`",
    "β": lambda t: describe_beta(t) if t["method"] != "kd" else "–",
    **{name: STARTS[name] for name in ("a quarter", "half", "all", "chrF")},
}


def describe_beta(trial: dict[str, Any]) -> str:
    """How a trial weights attention transfer."""
    beta = f"{trial['beta']:g}"
    if trial.get("release"):
        return f"{beta}, 0 once the attention loss stops falling"
    if trial.get("until"):
        return f"{beta} → 0 after {trial['until']:.0%}"
    return beta if trial.get("decay", 1) == 1 else f"{beta} · {trial['decay']:g} per epoch"


def table(trials: list[dict[str, Any]], columns: dict[str, Any]) -> str:
    """The trials as a table in Markdown."""
    rows = [[cell(trial) for cell in columns.values()] for trial in trials]
    return regions.table(list(columns), rows, left=0)


def read(name: str) -> list[dict[str, Any]]:
    """The trials of a corpus."""
    return [json.loads(line) for line in (TRIALS / name).read_text("utf-8").splitlines()]


def main() -> None:
    """Fill the tables."""
    trials = read("de-dsb.jsonl")
    trials.sort(key=lambda t: (t["decoder"] == "random", t["teacher_width"], t["pairs"]))
    tables = {"trials": table(trials, COLUMNS), "layers": table(read("en-pt.jsonl"), LAYERS)}
    methods = read("methods.jsonl")
    methods.sort(key=lambda t: (t["corpus"], "shape" in t, t["method"], t.get("until", 0)))
    tables["methods"] = table(methods, METHODS)
    starts = read("starts.jsonl")
    starts.sort(key=lambda t: (t["pairs"], t["shape"], t["method"], t["start"]))
    tables["starts"] = table(starts, STARTS)
    betas = read("betas.jsonl")
    betas.sort(key=lambda t: (t["shape"], t["start"], t["updates"], t["method"] != "kd"))
    tables["betas"] = table(betas, BETAS)
    rule = read("rule.jsonl")
    order = ("corpus", "shape", "pairs", "method", "tokens", "alpha", "lr")
    rule.sort(key=lambda trial: [trial[name] for name in order])
    tables["rule"] = table(rule, RULE)
    tables["steps"] = table(read("steps.jsonl"), STEPS)
    regions.fill(PAGE, tables.get)


if __name__ == "__main__":
    main()
