"""Sizes and speeds of students of several shapes, before any of them is trained."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from a2d.errors import UserError, first_line
from a2d.families import positions_of, sizes_of, uneven_heads
from a2d.files import temporary_folder
from a2d.models.export import conversion_obstacle, export
from a2d.models.exported import WEIGHTS
from a2d.models.loading import count_parameters, load_model
from a2d.models.presets import PRESETS, complete_shape, parse_shape
from a2d.models.students import check_start, student_config, student_of
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Bars
from a2d.runs.measured import measured_students, quality_table
from a2d.runs.speeds import Batch, Timed, TimedExport, TimedModel, measure_speeds

SENTENCES, TOKENS = 16, 20
"""Sentences of a batch, and tokens of each sentence and of its translation."""

BEAMS = 5

_TEACHER = "teacher"
_LIMITS = ("encoder_layers", "decoder_layers", "width")
"""Sizes in which a student does not exceed its teacher."""


class ShapeFigures(NamedTuple):
    """Figures of one shape.

    Attributes:
        name: as it was asked for.
        sizes: by the names of `a2d.models.students.student_of`.
        parameters: number of parameters.
        int8_bytes: size of the CTranslate2 model in int8; None if it cannot be exported.
        speed_up, int8_speed_up: speed in PyTorch and in CTranslate2 with int8, over the teacher's
            in PyTorch.
    """

    name: str
    sizes: dict[str, Any]
    parameters: int
    int8_bytes: int | None
    speed_up: float
    int8_speed_up: float | None


def default_shapes(teacher: Any) -> list[str]:
    """List shapes worth a look: fewer layers, half and a quarter of the width, presets that fit.

    Args:
        teacher: configuration of the teacher.
    """
    sizes = sizes_of(teacher)
    encoder, decoder, width = sizes["encoder_layers"], sizes["decoder_layers"], sizes["width"]
    depths = [(encoder, max(1, decoder // 3)), ((encoder + 1) // 2, max(1, decoder // 3))]
    shapes = [f"{(encoder + 1) // 2}x{(decoder + 1) // 2}"]
    for share in (1, 2, 4):
        narrow = width // share
        if not uneven_heads(narrow, sizes["heads"]):
            ending = "" if share == 1 else f"-{narrow}"
            shapes += [f"{layers[0]}x{layers[1]}{ending}" for layers in depths]
    fitting = [
        name
        for name, preset in PRESETS.items()
        if all(preset[size] <= sizes[size] for size in _LIMITS)
    ]
    return list(dict.fromkeys([*fitting, *shapes]))


def measure_shapes(teacher: str, shapes: Sequence[str], console: Console) -> list[ShapeFigures]:
    """Measure students of several shapes, with random weights, and print a table.

    Args:
        teacher: folder or hub name of the teacher.
        shapes: shapes, as `parse_shape` reads them; empty: `default_shapes`.
        console: console for the table.

    Raises:
        UserError: a shape is none, or does not suit the teacher's family.
    """
    model, tokenizer = load_model(teacher), load_tokenizer(teacher)
    names = list(shapes) or default_shapes(model.config)
    sizes = {name: complete_shape(sizes_of(model.config), parse_shape(name)) for name in names}
    for name, shape in sizes.items():
        _check_shape(name, shape, model)
    sample = _sample(model, tokenizer)
    figures, without_int8 = [], defaultdict(list)
    with TemporaryDirectory(dir=temporary_folder()) as place, Bars(console) as bars:
        reference = TimedModel(_save(model, tokenizer, Path(place) / "teacher"), BEAMS)
        sample = _repeat(sample, reference)
        for name in (_TEACHER, *sizes):
            student = student_of(model, **sizes[name], start="random") if name in sizes else model

            def compare(timed: Timed, ending: str = "", name: str = name) -> dict[str, Any]:
                return measure_speeds(reference, timed, sample, name + ending, bars.show)

            with TemporaryDirectory(dir=place) as folder:
                speed = compare(TimedModel(_save(student, tokenizer, Path(folder)), BEAMS))
                int8 = Path(folder) / "int8"
                obstacle = _export_int8(student, tokenizer, Path(folder), int8)
                if obstacle is not None:
                    without_int8[obstacle].append(name)
                exported = TimedExport(int8, BEAMS) if obstacle is None else None
                figures.append(
                    ShapeFigures(
                        name,
                        sizes.get(name, sizes_of(model.config)),
                        count_parameters(student),
                        None if exported is None else (int8 / WEIGHTS).stat().st_size,
                        speed["speed_up"],
                        None if exported is None else compare(exported, ", int8")["speed_up"],
                    )
                )
    console.print(_table(figures))
    console.print(
        "Speeds are over the teacher's in PyTorch "
        f"({speed['teacher_sentences_per_second']:.1f} sentences/s): {SENTENCES} sentences of "
        f"{tokens_of(model)} tokens at a time, translations of the same length, beam {BEAMS}, "
        f"{torch.get_num_threads()} thread(s)."
    )
    for reason, without in without_int8.items():
        line = f"Without int8: {', '.join(without)}. Each {reason}."
        console.print(escape(line), style="yellow", highlight=False)
    console.print("\nQuality needs a training. Students that were measured (docs/shapes.md):\n")
    console.print(quality_table())
    smallest = min(student.share for student in measured_students())
    shares = {row.name: row.parameters / figures[0].parameters for row in figures}
    if smaller := [name for name, share in shares.items() if share < 0.9 * smallest]:
        console.print(
            f"Smaller than every measured student ({smallest:.0%}): {', '.join(smaller)}. They may "
            "keep less.",
            style="yellow",
            highlight=False,
            markup=False,
        )
    return figures


def _check_shape(name: str, shape: dict[str, Any], teacher: PreTrainedModel) -> None:
    """Check, without building it, that a student can start from its teacher and is not larger."""
    try:
        config = student_config(teacher.config, **shape)
        check_start(config, teacher.config)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    with torch.device("meta"):
        student = type(teacher)(config)
    if count_parameters(student) > count_parameters(teacher):
        raise UserError(
            f"a student {name} has {count_parameters(student):,} parameters, more than its teacher "
            f"({count_parameters(teacher):,}): choose a smaller shape."
        )


def _sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    tokens = tokens_of(model)
    # Embeddings may have more rows than the tokenizer has tokens: those have no names.
    named = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    named = [token for token in named if token < model.config.vocab_size]
    places = torch.randint(0, len(named), (SENTENCES, tokens), generator=generator)
    ids = torch.tensor(named)[places]
    end = model.config.eos_token_id
    if end is not None:
        ids[:, -1] = end[0] if isinstance(end, list) else end
    return [
        Batch(BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)}), tokens)
    ]


def _repeat(sample: list[Batch], teacher: Timed) -> list[Batch]:
    """Repeat a sample until the teacher takes half a second, because short times are noise."""
    teacher.seconds(sample)  # not counted, because first calls are slower
    return sample * min(20, math.ceil(0.5 / teacher.seconds(sample)))


def tokens_of(model: PreTrainedModel) -> int:
    """Number of tokens of the sentences that a model is timed with."""
    return min(TOKENS, (positions_of(model.config) or TOKENS + 2) - 2)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _export_int8(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, output: Path
) -> str | None:
    """Export a model, saved in `folder`, to int8; return why it cannot be exported, if so."""
    reason = conversion_obstacle(model.config, tokenizer)
    if reason is None:
        try:
            export(folder, output, "int8")
        except UserError as error:  # CTranslate2 is missing, or fails
            return f"has no export: {first_line(error)}"
    return reason


def _table(figures: Sequence[ShapeFigures]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("shape", vertical="bottom", overflow="fold")
    speeds = "PyTorch\nspeed", "CTranslate2\nint8 speed"
    for name in ("layers", "width", "params", "share", "int8\nsize", *speeds):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    teacher = figures[0]
    for row in figures:
        sizes = row.sizes
        table.add_row(
            row.name,
            f"{sizes['encoder_layers']}+{sizes['decoder_layers']}",
            f"{sizes['width']}/{sizes['feed_forward']}",
            _millions(row.parameters, "M"),
            f"{row.parameters / teacher.parameters:.0%}",
            "–" if row.int8_bytes is None else _millions(row.int8_bytes, " MB"),
            "1×" if row is teacher else f"{row.speed_up:.1f}×",
            "–" if row.int8_speed_up is None else f"{row.int8_speed_up:.1f}×",
        )
    return table


def _millions(count: int, unit: str) -> str:
    """Write a count in millions, with two digits after the point if it is small."""
    return f"{count / 1e6:.{1 if count > 1e5 else 2}f}{unit}"
