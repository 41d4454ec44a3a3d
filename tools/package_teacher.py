"""Put the teacher of a run of `experiments/en-pt-teacher.yaml` into the package, in half precision.

`python tools/package_teacher.py RUN` writes weights, configuration and tokenizer to
`src/a2d/teachers/en-pt`; README.md and LICENSE there are written by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from a2d.models.decoding import set_generation_defaults
from a2d.models.loading import count_parameters, load_model
from a2d.models.tokenizer import load_tokenizer

PLACE = Path(__file__).parent.parent / "src" / "a2d" / "teachers" / "en-pt"
MOST_BYTES = 8_000_000
LONGEST = 100
"""Tokens of the longest sentences that it has learnt from, about."""


def main() -> None:
    """Convert and save; refuse what would make the package too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run / "models" / "teacher"
    model = load_model(folder).to(torch.float16)
    set_generation_defaults(model, LONGEST, LONGEST)
    model.save_pretrained(PLACE)
    load_tokenizer(folder).save_pretrained(PLACE)
    size = (PLACE / "model.safetensors").stat().st_size
    print(f"{count_parameters(model):,} parameters, {size / 1e6:.1f} MB in {PLACE}")
    if size > MOST_BYTES:
        raise SystemExit(f"the weights take more than {MOST_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
