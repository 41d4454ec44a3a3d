"""From a pretrained teacher and parallel text to a small model, in one go."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from rich.console import Console
from rich.markup import escape
from transformers import GenerationConfig

from a2d.errors import UserError, first_line
from a2d.models.decoding import set_beams
from a2d.models.loading import load_config
from a2d.models.students import sizes_of
from a2d.progress import silence_libraries
from a2d.runs import pipeline
from a2d.runs.card import write_card
from a2d.runs.recipe import make_recipe
from a2d.runs.trainings import HISTORY
from a2d.stage import RECORD
from a2d.text.corpus import places

_OF_THE_RUN = (RECORD, HISTORY)
"""What a model's folder holds for the run alone."""


def distill(
    teacher: str,
    data: Sequence[str],
    languages: tuple[str, str],
    output: Path,
    console: Console,
    *,
    layers: str,
    heads: int | None = None,
    width: int | None = None,
    feed_forward: int | None = None,
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    teacher_languages: tuple[str, str] | None = None,
    source_prefix: str = "",
    method: str = "a2d",
    start: str = "teacher",
    trim: bool = False,
    epochs: float = 5.0,
    seed: int = 1,
    licence: str | None = None,
    overrides: Iterable[str] = (),
    push_to: str | None = None,
) -> None:
    """Distil a student from a pretrained teacher, score both, and write the student's folder.

    The work is a run (`a2d.runs.pipeline`) in the folder `output`.run, which an interrupted call
    continues; the student is copied to `output` at the end, with a model card.

    Args:
        teacher: folder or hub name.
        data: one corpus (`a2d.text.corpus.read_corpus`), or its two files.
        languages: codes of source and target.
        output: folder to write; it must not exist.
        console: where to show what happens.
        layers: of the student, as in `6x2`: encoder, decoder.
        heads, width, feed_forward: of the student; None: the teacher's.
        valid, test: as `data`; empty: some of the data is held out.
        teacher_languages: the codes of a multilingual teacher's tokenizer.
        source_prefix: what the teacher expects before every source.
        method: of `a2d.training.distillation.METHODS`.
        start: the student's: `teacher`, `random` or `marian` (`a2d.models.students.student_of`).
        trim: reduce the vocabulary to the tokens of the data.
        epochs: over the data.
        seed: of all that is random.
        licence: for the model card.
        overrides: settings of the run's recipe (`training.learning_rate=1e-4`).
        push_to: name of a repository on the hub to upload the folder to.

    Raises:
        UserError: bad input, before anything is trained.
    """
    silence_libraries()
    if output.exists():
        raise UserError(f"{output} exists already: choose another --output, or move it away.")
    shape = _shape(load_config(teacher), layers, heads, width, feed_forward)
    raw: dict[str, Any] = {
        "name": re.sub(r"[^\w.+-]", "-", output.name),
        "corpus": {
            "source_language": languages[0],
            "target_language": languages[1],
            "train": _spec(data),
            "valid": _spec(valid),
            "test": _spec(test),
        },
        "teacher": {
            "path": teacher,
            "languages": list(teacher_languages) if teacher_languages else None,
            "source_prefix": source_prefix,
            "trim": trim,
        },
        "students": [shape],
        "methods": [{"method": method, "student_start": start}],
        "distillation": {"beta": 1.0 if start == "teacher" else 3.0},
        "seeds": [seed],
        "training": {"epochs": epochs, "warmup_steps": 0.05, "schedule": "linear", "clip_norm": 1},
    }
    recipe = make_recipe(raw, overrides, "distill")
    if len(recipe.students) * len(recipe.methods) * len(recipe.seeds) != 1:
        raise UserError(
            "distill makes one student: give one method and one seed, or compare several by "
            "`a2d run`."
        )
    run = output.with_name(output.name + ".run")
    plan, splits = pipeline.run(recipe, run, console)
    names = " and ".join(Path(place).name for place in places(recipe.corpus.train))
    words = f"{len(splits.train):,} sentence pairs ({names})"
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    ignored = shutil.ignore_patterns(*_OF_THE_RUN)
    shutil.copytree(plan.students[0].stage.folder, partial, ignore=ignored)
    settings = GenerationConfig.from_pretrained(partial)
    set_beams(settings, recipe.evaluation.beams)  # those of the scores, if other than in training
    settings.save_pretrained(partial)
    found = run / "results" / recipe.evaluation.split
    address = push_to or output.name
    write_card(partial, output.name, recipe, found, licence, words, address)
    os.replace(partial, output)
    console.print(f"The student is in {escape(str(output))}.")
    if push_to is not None:
        _push(output, push_to)
        console.print(f"Uploaded to https://huggingface.co/{push_to}.")


def _shape(
    config: Any, layers: str, heads: int | None, width: int | None, feed_forward: int | None
) -> dict[str, int]:
    """The student's, from the teacher's and what differs."""
    found = re.fullmatch(r"(\d+)[x×+](\d+)", layers)
    if not found:
        raise UserError(
            f"{layers!r} are no layers of a student: give encoder's and decoder's, as in 6x2."
        )
    theirs = sizes_of(config)
    depths = {"encoder_layers": int(found[1]), "decoder_layers": int(found[2])}
    shape = depths | {"width": width or theirs["width"]}
    for size, own in (("heads", heads), ("feed_forward", feed_forward)):
        shape[size] = own or theirs[size]
        decoder = theirs.get(f"decoder_{size}", theirs[size])
        if own is None and decoder != theirs[size]:
            shape[f"decoder_{size}"] = decoder
    return shape


def _spec(paths: Sequence[str]) -> str | list[str] | None:
    if not paths:
        return None
    return paths[0] if len(paths) == 1 else list(paths)


def _push(folder: Path, name: str) -> None:
    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # whatever the network and the hub raise
        raise UserError(
            f"{folder} could not be uploaded to {name!r} ({first_line(error)}): it is "
            "complete, upload it with `hf upload`."
        ) from error
