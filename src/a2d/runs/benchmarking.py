"""Measurement of finished models: speed, latency, memory, load time and size, in alternation.

Each model has a process of its own, which alone tells its peak memory and load time. The processes
take turns: only one of them works at any time.
"""

from __future__ import annotations

import multiprocessing
import platform
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from rich import box
from rich.table import Table
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_base import (
    ADDED_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
)
from transformers.utils import cached_file

import a2d
from a2d.defaults import BENCH_ROUNDS
from a2d.endings import portable
from a2d.errors import UserError
from a2d.interruptions import end_with_parent
from a2d.machine import cpu_name, peak_memory
from a2d.models.exported import WEIGHTS as EXPORTED
from a2d.models.exported import is_exported
from a2d.models.folders import CONFIG, INDEX, SETTINGS
from a2d.models.translator import LongSentence, Translator, open_translator
from a2d.plugin_errors import plugin_error
from a2d.plugins import load_same, loaded_files
from a2d.progress import Event, Report, silence_libraries
from a2d.quoting import escaped
from a2d.teachers import model_path
from a2d.text.streams import open_input

_SINGLE = 40
"""Sentences of a round that are translated one by one as well."""

_TOKENIZER_FILES = (
    ADDED_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
)
"""Files that tokenizers of all classes may have, beside `SETTINGS` and those of their class."""

_MAX_LINES, _MAX_CHARACTERS = 100_000, 50_000_000
"""Lines of the file that sentences are chosen from."""


class Sample(NamedTuple):
    """Sentences to translate.

    Attributes:
        file: name of their file.
        sentences: plain text.
        lines: number of each sentence's line in the file, from 1.
    """

    file: str
    sentences: Sequence[str]
    lines: Sequence[int]


@dataclass
class Measurement:
    """Figures of a model.

    Attributes:
        model: folder or hub name.
        engine: "CTranslate2" or "transformers".
        beams: width of the beam.
        load_seconds: time to load the model and to translate one word, without the time to import
            libraries.
        disk_bytes: size of the files of weights, settings and tokenizer.
        peak_bytes: largest memory of the process, with Python and its libraries; without that of
            a GPU.
        sentences_per_second, tokens_per_second: of all sentences together, by round; tokens are
            generated ones.
        p50_seconds, p95_seconds: percentiles of the time for a single sentence, by round.
    """

    model: str
    engine: str = ""
    beams: int = 0
    load_seconds: float = 0.0
    disk_bytes: int = 0
    peak_bytes: int = 0
    sentences_per_second: list[float] = field(default_factory=list)
    tokens_per_second: list[float] = field(default_factory=list)
    p50_seconds: list[float] = field(default_factory=list)
    p95_seconds: list[float] = field(default_factory=list)


def read_sample(path: Path, count: int) -> Sample:
    """Choose evenly spaced lines of a text file, among those that are not empty.

    Raises:
        UserError: the file cannot be read, or has no text.
    """
    stream = open_input(path)
    lines = islice(enumerate(chain.from_iterable(stream.chunks()), 1), _MAX_LINES)
    full, characters = [], 0
    for number, line in lines:
        characters += len(line)
        if characters > _MAX_CHARACTERS:
            raise UserError(
                f"{stream.name} has more than {_MAX_CHARACTERS:,} characters in its first "
                f"{number:,} lines: give a smaller file."
            )
        if line.strip():
            full.append((number, line))
    if not full:
        raise UserError(f"{stream.name} has no sentences: give a file with one per line.")
    places = np.linspace(0, len(full) - 1, min(count, len(full))).round().astype(int)
    numbers, sentences = zip(*(full[place] for place in places), strict=True)
    return Sample(stream.name, sentences, numbers)


def measure(
    models: Sequence[str],
    sample: Sample,
    report: Report,
    *,
    rounds: int = BENCH_ROUNDS,
    threads: int | None = None,
    **options: Any,
) -> list[Measurement]:
    """Measure models in alternation.

    Args:
        models: folders of models or of their exports, or hub names.
        sample: the sentences.
        report: receives progress.
        rounds: number of rounds after a warm-up.
        threads: CPU threads of each model; None: PyTorch's number.
        options: further arguments of `a2d.models.translator.open_translator`.

    Raises:
        UserError: a model cannot be loaded, or a sentence is too long for it.
    """
    threads = threads or torch.get_num_threads()
    steps = len(models) * (rounds + 1)
    measurements = [Measurement(model) for model in models]
    with ExitStack() as stack:
        processes = []
        for number, measurement in enumerate(measurements):
            report(Event("benchmark", number, steps, f"loading {measurement.model}"))
            process = stack.enter_context(_Process())
            figures = process.call(_load, measurement.model, {"threads": threads, **options})
            vars(measurement).update(figures)
            _run(process, _warm_up, sample, measurement)
            processes.append(process)
        for number in range(rounds):
            # Every other round is in reverse order, so that no model always follows the same one.
            order = list(zip(processes, measurements, strict=True))[:: -1 if number % 2 else 1]
            for place, (process, measurement) in enumerate(order):
                done = len(models) * (number + 1) + place
                report(Event("benchmark", done, steps, measurement.model))
                for name, value in _run(process, _round, sample, measurement).items():
                    getattr(measurement, name).append(value)
        for process, measurement in zip(processes, measurements, strict=True):
            measurement.peak_bytes = process.call(peak_memory)
    report(Event("benchmark", steps, steps))
    return measurements


Result = TypeVar("Result")


def _run(
    process: _Process,
    task: Callable[[Sequence[str]], Result],
    sample: Sample,
    measurement: Measurement,
) -> Result:
    try:
        return process.call(task, sample.sentences)
    except LongSentence as error:
        line = sample.lines[error.index]
        raise UserError(
            f"{sample.file}, line {line:,} {error.problem} The model is {measurement.model}."
        ) from error


class _Process:
    """A process that loads one model."""

    def __init__(self) -> None:
        self._others = multiprocessing.active_children()
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _start, (loaded_files(),))

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *error: object) -> None:
        """End the process; after an error or a signal, at once."""
        if error[0] is not None:
            for child in multiprocessing.active_children():
                if child not in self._others:
                    child.kill()
        self._pool.shutdown(wait=error[0] is None, cancel_futures=True)

    def call(self, task: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in the process, and wait for its result.

        Raises:
            UserError: the process was killed.
        """
        # A new process inherits the mask: Ctrl-C reaches it, too, and is for this process only.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future = self._pool.submit(_call, task, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            result: Result = future.result()
            return result
        except BrokenProcessPool as error:
            raise UserError(
                "the process of a model was killed, most likely because memory ran out: give fewer "
                "models, or lower --batch-tokens."
            ) from error


# In the process of a model:
_translator: Translator
_failure: UserError | None = None  # of the start, raised by the first task


def _start(plugins: Mapping[Path, str]) -> None:
    global _failure
    threading.Thread(target=end_with_parent, daemon=True).start()
    silence_libraries()
    try:
        load_same(plugins)
    except UserError as error:  # raised here, it would break the pool
        _failure = error


def _call(task: Callable[..., Any], *arguments: Any) -> Any:
    if _failure is not None:
        raise _failure
    try:
        return task(*arguments)
    except Exception as error:
        raise portable(plugin_error(error) or error) from error


def _load(model: str, options: dict[str, Any]) -> dict[str, Any]:
    global _translator
    start = time.perf_counter()
    _translator = open_translator(model, **options)
    _translator.n_best(["a"])
    seconds = time.perf_counter() - start
    return {
        "engine": _translator.engine,
        "beams": _translator.beams,
        "load_seconds": seconds,
        "disk_bytes": _disk_bytes(model, _translator.tokenizer),
    }


def _warm_up(sentences: Sequence[str]) -> None:
    """Translate everything once, because the first calls are slower, and to find long sentences."""
    _translator.n_best(sentences)


def _round(sentences: Sequence[str]) -> dict[str, float]:
    start = time.perf_counter()
    lists = _translator.n_best(sentences)
    seconds = time.perf_counter() - start
    tokens = sum(hypotheses[0].tokens for hypotheses in lists)
    places = np.linspace(0, len(sentences) - 1, min(_SINGLE, len(sentences))).round().astype(int)
    single = []
    for place in places:
        start = time.perf_counter()
        _translator.n_best([sentences[place]])
        single.append(time.perf_counter() - start)
    p50, p95 = np.percentile(single, [50, 95])
    return {
        "sentences_per_second": len(sentences) / seconds,
        "tokens_per_second": tokens / seconds,
        "p50_seconds": float(p50),
        "p95_seconds": float(p95),
    }


def _disk_bytes(model: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Size of the files that a model is loaded from.

    The folder may hold other files with the same suffixes: records of a training, the weights in
    another format, or an alignment.
    """
    folder = Path(model_path(model))
    if not folder.is_dir():
        folder = Path(str(cached_file(model, CONFIG))).parent
    weights = (EXPORTED, "*vocabulary.*") if is_exported(folder) else ("model*.safetensors", INDEX)
    patterns = {*weights, *SETTINGS, *_TOKENIZER_FILES, *tokenizer.vocab_files_names.values()}
    files = {path for pattern in patterns for path in folder.glob(pattern)}
    return sum(path.stat().st_size for path in files)


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest value."""
    return {"median": median(values), "low": min(values), "high": max(values)}


_BY_ROUND = ("sentences_per_second", "tokens_per_second", "p50_seconds", "p95_seconds")


def as_dict(
    measurements: Sequence[Measurement], sample: Sample, threads: int | None
) -> dict[str, Any]:
    """Return all figures, the sample and the machine, for a JSON file."""
    models = []
    for measurement in measurements:
        figures = asdict(measurement)
        for name in _BY_ROUND:
            values = figures.pop(name)
            figures[name] = summarise(values) | {"rounds": values}
        models.append(figures)
    return {
        "models": models,
        "input": sample.file,
        "sentences": len(sample.sentences),
        "threads": threads or torch.get_num_threads(),
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {
            "a2d": a2d.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "transformers", "ctranslate2")},
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table_of(measurements: Sequence[Measurement]) -> Table:
    """Make a table of medians, with the lowest and the highest value below them.

    Models are numbered, because hub names and paths leave no space for figures (`legend_of`).
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("")
    for name in ("sent/s", "tokens/s", "p50 ms", "p95 ms", "peak MB", "load s", "disk MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(measurements, 1):
        table.add_row(
            str(number),
            _cell(row.sentences_per_second),
            _cell(row.tokens_per_second),
            _cell([1000 * value for value in row.p50_seconds]),
            _cell([1000 * value for value in row.p95_seconds]),
            _number(row.peak_bytes / 1e6),
            _number(row.load_seconds),
            _number(row.disk_bytes / 1e6),
        )
    return table


def legend_of(measurements: Sequence[Measurement]) -> str:
    """Name the models of a table, one per line."""
    return "\n".join(
        f"{number} {escaped(row.model)} ({row.engine}, beam {row.beams})"
        for number, row in enumerate(measurements, 1)
    )


def _cell(values: Sequence[float]) -> str:
    middle, low, high = map(_number, summarise(values).values())
    return f"{middle}\n[dim]{low}–{high}[/]"


def _number(value: float) -> str:
    """Format a positive number with two digits or more."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"
