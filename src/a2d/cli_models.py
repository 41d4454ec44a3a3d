"""Commands that use finished models: `a2d translate`, `a2d export` and `a2d bench`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from a2d import endings, plugins
from a2d.defaults import BATCH_TOKENS, BENCH_ROUNDS, BENCH_SENTENCES, MAX_LOSS
from a2d.errors import UserError
from a2d.text.entities import printable

if TYPE_CHECKING:
    from a2d.models.hypotheses import Hypothesis
    from a2d.models.translator import Translator
    from a2d.progress import CountLine
    from a2d.text.streams import LineStream

BatchTokens = Annotated[
    int,
    typer.Option(
        help="Source tokens that are translated at once, at most. PyTorch takes fewer on CPU if "
        "that is faster.",
        min=1,
        max=2**31 - 1,
    ),
]


def translate(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a model or of its export to CTranslate2, or a hub name."),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            help="Text file in UTF-8, one sentence per line.",
            show_default="standard input",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write line by line; an existing one needs --overwrite.",
            show_default="standard output",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    beams: Annotated[
        int | None,
        typer.Option(
            help="Width of the beam; 1 is greedy search.",
            min=1,
            show_default="from the model's generation settings, or else 5",
        ),
    ] = None,
    n_best: Annotated[
        int | None,
        typer.Option(
            help="Write this many translations of every line, as marian-decoder does: "
            "'NUMBER ||| TEXT ||| F0= LOG-PROBABILITY ||| SCORE', lines numbered from 0. At most "
            "the width of the beam.",
            min=1,
            show_default=False,
        ),
    ] = None,
    scores: Annotated[
        bool,
        typer.Option(
            "--scores",
            help="Write the score before every translation, with a tab between them. A score is "
            "the mean log-probability of a token, with every engine.",
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", min=1, max=1024, show_default="all cores")
    ] = None,
    batch_tokens: BatchTokens = BATCH_TOKENS,
    device: Annotated[
        str,
        typer.Option(help="auto (a GPU if there is one), cpu, cuda, or cuda:1 for GPU 1."),
    ] = "auto",
) -> None:
    """Translate text, one sentence per line. Translations come out while later lines are read.

    Empty lines stay empty. A line that is too long for the model is split at the ends of its
    sentences, and its translations are joined again; a sentence that is too long is refused.

    Example: a2d translate small-de-en < in.de > out.en

    Example: a2d translate small-de-en --input in.de --output best.txt --beams 8 --n-best 8
    """
    from a2d.interruptions import leave
    from a2d.models.translator import open_translator
    from a2d.progress import CountLine, silence_libraries
    from a2d.text.streams import LineOutput, ReaderLeft, open_input

    silence_libraries()
    plugins.load_plugins()
    stream = open_input(source)
    lines_out = LineOutput(output, overwrite, stream)
    translator = open_translator(
        model, device=device, threads=threads, beams=beams, batch_tokens=batch_tokens
    )
    if n_best is not None and n_best > translator.beams:
        raise UserError(
            f"--n-best {n_best} needs a beam of that width, and it is {translator.beams}: add "
            f"--beams {n_best}."
        )
    lines_out.open()
    form = partial(_lines, n_best=n_best, scores=scores)
    with CountLine(shown=not lines_out.is_terminal) as progress:
        try:
            for texts in _translations(translator, stream, n_best, scores, progress):
                lines_out.write("".join(form(texts)))
            lines_out.write("")  # replaces an old output if there are no lines
        except ReaderLeft:
            leave(endings.READER_LEFT)


def _translations(
    translator: Translator,
    stream: LineStream,
    n_best: int | None,
    scores: bool,
    progress: CountLine,
) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
    """Translate a stream chunk by chunk.

    Yields:
        Number from 0, and hypotheses, of every line of a chunk.

    Raises:
        UserError: as `LineStream.chunks`, or a sentence is too long. The translations of all lines
            before have been yielded.
    """
    from a2d.models.translator import LongSentence

    number = 0
    search = partial(
        translator.n_best,
        count=n_best or 1,
        scored=scores or n_best is not None,
        progress=lambda done: progress.show(number + done),
    )
    for lines in stream.chunks():
        try:
            yield list(enumerate(search(lines), number))
        except LongSentence as error:
            if error.index:
                yield list(enumerate(search(lines[: error.index]), number))
            place = f"{stream.name}, line {number + error.index + 1:,}"
            raise UserError(f"{place} {error.problem}") from error
        number += len(lines)
        progress.show(number)


def _lines(
    translations: list[tuple[int, list[Hypothesis]]], n_best: int | None, scores: bool
) -> Iterator[str]:
    for number, hypotheses in translations:
        for hypothesis in hypotheses:
            # Each translation stays on one line, without characters that control a terminal.
            text = printable(" ".join(hypothesis.text.split()))
            if n_best is not None:
                total, mean = hypothesis.log_probability, hypothesis.score
                yield f"{number} ||| {text} ||| F0= {total:.6f} ||| {mean:.6f}\n"
            else:
                yield f"{hypothesis.score:.6f}\t{text}\n" if scores else f"{text}\n"


def export(
    model: Annotated[str, typer.Argument(help="Folder of a student, or a hub name.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    quantization: Annotated[
        str,
        typer.Option(
            help="Data type of the weights: float32, float16, bfloat16, int16, int8, int8_float32 "
            "or int8_float16; auto: the first of int8 and float32 that translates as the "
            "model does."
        ),
    ] = "float32",
    valid: Annotated[
        list[str] | None,
        typer.Option(
            help="Parallel text to prove the export with, as --data of `a2d distill`.",
            show_default="the validation set of the model's run",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Language code of the source, where --valid needs it.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Language code of the target, where --valid needs it.")
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option(
            help="Largest loss of BLEU and of chrF that is accepted; up to 1 if it may be chance.",
            min=0,
        ),
    ] = MAX_LOSS,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Export without the proof.")
    ] = False,
) -> None:
    """Convert a student to CTranslate2, which translates faster, and prove the result.

    The model and its export translate validation text. An export that differs too much is refused.
    `a2d translate` reads the new folder too.

    Example: a2d export small-de-en --output fast-de-en --quantization int8
    """
    from rich.console import Console

    from a2d.models import export as exporting
    from a2d.progress import silence_libraries
    from a2d.runs.exporting import AUTO, export_checked
    from a2d.text.languages import check_pair

    silence_libraries()
    plugins.load_plugins()
    languages = check_pair(source, target)
    if unchecked and quantization == AUTO:
        raise UserError("--quantization auto chooses by the proof: remove --unchecked.")
    if unchecked:
        exporting.export(model, output, quantization)
    else:
        quantization = export_checked(
            model, output, quantization, valid or (), languages, max_loss, Console()
        )
    typer.echo(f"wrote {output} ({quantization})")


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Folders of models or of their exports to CTranslate2, or hub names.",
            metavar="MODEL...",
        ),
    ],
    source: Annotated[
        Path,
        typer.Option(
            "--input", "-i", help="Text file in UTF-8 to translate, one sentence per line."
        ),
    ],
    sentences: Annotated[
        int,
        typer.Option(
            help="Sentences to translate, evenly spaced in the first 100,000 lines.", min=1
        ),
    ] = BENCH_SENTENCES,
    rounds: Annotated[int, typer.Option(help="Rounds after a warm-up.", min=1)] = BENCH_ROUNDS,
    beams: Annotated[
        int | None,
        typer.Option(
            help="Width of the beam; 1 is greedy search.",
            min=1,
            show_default="from each model's generation settings, or else 5",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of each model.", min=1, max=1024, show_default="all cores"),
    ] = None,
    batch_tokens: BatchTokens = BATCH_TOKENS,
    device: Annotated[
        str,
        typer.Option(help="auto (a GPU if there is one), cpu, cuda, or cuda:1 for GPU 1."),
    ] = "auto",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="File for all figures as JSON; an existing one is replaced."),
    ] = None,
) -> None:
    """Measure models: speed, latency, memory, load time and size on disk.

    Models take turns in every round, and nothing else should run on the machine. The table has the
    median of the rounds, above the lowest and the highest value: sentences and generated tokens
    per second (all sentences together), and times of single sentences (p50, p95). The memory is
    the largest of the model's process, with Python and its libraries. The load time is without
    that of libraries.

    Example: a2d bench Helsinki-NLP/opus-mt-de-en small-de-en small-de-en-int8 --input in.de
    """
    import json

    from rich.console import Console

    from a2d.files import check_output, write_text
    from a2d.models.search_settings import check_beams
    from a2d.progress import Bars, silence_libraries
    from a2d.runs.benchmarking import as_dict, legend_of, measure, read_sample, table_of

    silence_libraries()
    plugins.load_plugins()
    if beams is not None:
        check_beams(beams, "--beams")
    if json_file is not None:
        check_output(json_file, overwrite=True)
        if json_file.exists() and source.exists() and json_file.samefile(source):
            raise UserError(f"{json_file} is the input, too: choose another --json.")
    sample = read_sample(source, sentences)
    options = {"beams": beams, "batch_tokens": batch_tokens, "device": device}
    with Bars(Console(stderr=True)) as bars:
        figures = measure(models, sample, bars.show, rounds=rounds, threads=threads, **options)
    summary = as_dict(figures, sample, threads)
    console = Console()
    console.print(table_of(figures))
    console.print(legend_of(figures), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{len(sample.sentences):,} sentences, rounds: {rounds}, threads: {summary['threads']}.",
        highlight=False,
    )
    if json_file is not None:
        write_text(json_file, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Folders of models or exports, or hub names, such as a teacher and its student.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 7860,
    characters: Annotated[int, typer.Option(help="Longest text.", min=1)] = 2000,
    seconds: Annotated[
        float, typer.Option(help="Time after which a translation stops between two lines.", min=0)
    ] = 30.0,
    requests: Annotated[
        int, typer.Option(help="Most requests of one address in a minute.", min=1)
    ] = 30,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each model.", min=1, max=1024)
    ] = None,
) -> None:
    """Try models side by side in a browser, or by JSON.

    The page shows translations, times and attention. `/gradio_api/call/translate` is the JSON
    interface; "Use via API" on the page explains it. Needs pip install '.[serve]'.

    Example: a2d serve builtin:en-pt small-en-pt small-en-pt-int8
    """
    from a2d.progress import silence_libraries
    from a2d.serving import Limits
    from a2d.serving import serve as work

    silence_libraries()
    plugins.load_plugins()
    limits = Limits(characters=characters, seconds=seconds, requests_per_minute=requests)
    work(models, host, port, limits, threads)
