"""Put the teacher of a run of `experiments/en-pt-teacher.yaml` into the package, in half precision.

`python tools/package_teacher.py RUN` writes weights, configuration and tokenizer to
`src/a2d/teachers/en-pt`; README.md and LICENSE there are written by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from a2d.models.loading import count_parameters, load_model
from a2d.models.search_settings import set_generation_defaults
from a2d.models.tokenizer import load_tokenizer

FOLDER = Path(__file__).parent.parent / "src" / "a2d" / "teachers" / "en-pt"
MAX_BYTES = 8_000_000
MAX_LENGTH = 100
"""Approximate number of tokens of the longest training sentences."""


def main() -> None:
    """Convert and save the model; exit if it is too large for the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run / "models" / "teacher"
    model = load_model(folder).to(torch.float16)
    set_generation_defaults(model, MAX_LENGTH, MAX_LENGTH)
    model.save_pretrained(FOLDER)
    load_tokenizer(folder).save_pretrained(FOLDER)
    size = (FOLDER / "model.safetensors").stat().st_size
    print(f"{count_parameters(model):,} parameters, {size / 1e6:.1f} MB in {FOLDER}")
    if size > MAX_BYTES:
        raise SystemExit(f"the weights take more than {MAX_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
