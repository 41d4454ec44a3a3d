"""Print the table of `docs/schedule.md` from the trials in `results/schedule`.

python tools/schedule_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRIALS = Path(__file__).parent.parent / "results" / "schedule"
COLUMNS = ("pairs", "start", "tokens a batch", "rate", "schedule", "α", "updates", "epochs")


def row(trial: dict[str, Any]) -> str:
    """One line of the table; chrF is the last validation's, at a learning rate of zero."""
    last = trial["curve"][-1]
    cells = (
        trial["corpus"],
        f"{trial['pairs']:,}",
        trial["start"],
        f"{trial['tokens']:,}",
        f"{trial['lr']:g}",
        trial.get("schedule", "plateau" if trial["patience"] else "linear"),
        f"{trial['alpha']:g}",
        f"{trial['steps']:,}",
        f"{trial['epochs']:.0f}",
        f"{trial['bleu']:.1f}",
        f"{last[2]:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print all trials, grouped by corpus, start and size."""
    trials = [
        json.loads(line)
        for file in sorted(TRIALS.glob("*.jsonl"))
        for line in file.read_text("utf-8").splitlines()
    ]
    trials.sort(key=lambda t: (t["corpus"], t["start"] != "teacher", t["pairs"]))
    names = ("corpus", *COLUMNS, "best BLEU", "last chrF")
    print(f"| {' | '.join(names)} |")
    print(f"|{'---|' * 3}{'--:|' * (len(names) - 3)}")
    for trial in trials:
        print(row(trial))


if __name__ == "__main__":
    main()
