"""Plan of a run: what its stages will take in time and disk space (`a2d plan`).

The preparation is carried out, and one training and one translation of each kind are tried with
random weights. All else follows from their times: a training takes its updates times the time of
one, a translation its sentences times the time of one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from datasets import load_from_disk
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from a2d.families import positions_of
from a2d.files import size_in_words, temporary_folder
from a2d.machine import peak_memory
from a2d.models.activations import SENTENCES
from a2d.models.export import export
from a2d.models.loading import load_config, load_model, new_model
from a2d.models.students import student_of
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Bars, Event, Report, log_to, silence_libraries
from a2d.runs.engines import count_workers
from a2d.runs.execution import open_run
from a2d.runs.model import Model
from a2d.runs.parts import MONOLINGUAL
from a2d.runs.recipe import Recipe
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.shards import SHARD
from a2d.runs.speeds import Timed, TimedExport, TimedModel, sample_for
from a2d.runs.stages import AFTER_PREPARATION, PREPARATION
from a2d.runs.stages.exports import Export
from a2d.runs.stages.models import Teacher
from a2d.runs.stages.prepared import teacher_path
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.speed import Speed
from a2d.runs.stages.students import Student, StudentStart, space_needed
from a2d.runs.stages.teacher_outputs import TeacherOutputs
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.stages.translations import Translations
from a2d.runs.stages.vocabulary import Tokens, Vocabulary
from a2d.runs.training import make_config, random_student
from a2d.runs.trials import time_cache, try_updates
from a2d.runs.workers import threads_for
from a2d.text.batching import sample_rows
from a2d.text.pairs import Pair


class Estimate(NamedTuple):
    """What the stages of one kind will take.

    Attributes:
        stage: name of the kind.
        tasks: seconds of each task.
        disk: bytes that stay on the disk.
    """

    stage: str
    tasks: Sequence[float]
    disk: int = 0

    def seconds(self, workers: int) -> float:
        """Estimate the time of the tasks if some of them run at once."""
        return max(max(self.tasks, default=0.0), sum(self.tasks) / workers)


_CACHED = 64
"""Pairs of the cache that is tried."""
_START_SHARE = 8
"""Share of the sample text, as its denominator, by which the pruning of the teacher is tried."""
_SPEED_SECONDS = 6.0
"""Time in which the speed of a shape or an export is measured (`a2d.runs.speeds`)."""


class Plan(NamedTuple):
    """What a run will take on this machine.

    Attributes:
        preparation: seconds of reading, cleaning, vocabulary and tokens, which were carried out.
        estimates: the stages after the preparation.
        workers: number of tasks that run at once.
        disk: bytes that the run needs at most, with checkpoints.
        memory: largest memory of this process while it tried the tasks, in bytes.
        gpu_memory: the same of the GPU; 0 without one.
        unknown: what cannot be estimated.
    """

    preparation: float
    estimates: list[Estimate]
    workers: int
    disk: int
    memory: int
    gpu_memory: int
    unknown: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Time of the whole run."""
        return self.preparation + sum(each.seconds(self.workers) for each in self.estimates)


def plan_run(recipe: Recipe, console: Console) -> Plan:
    """Estimate what a run will take, from its preparation and a short calibration.

    Args:
        recipe: the recipe.
        console: console for progress.

    Raises:
        UserError: invalid input, as in the run itself.
    """
    silence_libraries()
    threads = torch.get_num_threads()
    workers = count_workers(recipe.compute)
    torch.set_num_threads(threads_for(recipe.compute.parallel))
    try:
        with TemporaryDirectory(dir=temporary_folder()) as folder:
            start = time.perf_counter()
            run = open_run(recipe, Path(folder) / "run", console)
            with run, Bars(console) as bars, log_to(logging.NullHandler()):  # of random weights
                for kind in PREPARATION:
                    kind.carry_out(run)
                preparation = time.perf_counter() - start
                disk = space_needed(run)
                calibration = Calibration(run, bars.show)
                kinds = [kind for kind in AFTER_PREPARATION if run.all(kind)]
                estimates = [ESTIMATES[kind](calibration) for kind in kinds if kind in ESTIMATES]
                calibration.end()
    finally:
        torch.set_num_threads(threads)
    disk += sum(estimate.disk for estimate in estimates)
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    unknown = [f"stage {kind.__name__}" for kind in kinds if kind not in ESTIMATES]
    if recipe.teacher.foreign:
        unknown.append("translations of the teacher, which a2d does not load")
    return Plan(preparation, estimates, workers, disk, peak_memory(), gpu, unknown)


def show_plan(plan: Plan, console: Console) -> None:
    """Print a plan as a table."""
    table = Table(title="Plan", title_justify="left", box=box.SIMPLE)
    table.add_column("stage")
    for title in ("tasks", "longest", "time"):
        table.add_column(title, justify="right")
    table.add_row("preparation", "", "", duration(plan.preparation))
    for each in plan.estimates:
        if each.tasks:
            longest = duration(max(each.tasks))
            table.add_row(
                each.stage, f"{len(each.tasks):,}", longest, duration(each.seconds(plan.workers))
            )
    table.add_row("all", "", "", duration(plan.seconds), style="bold")
    console.print(table)
    for name in plan.unknown:
        console.print(f"Not estimated: {name}.", highlight=False)
    console.print(
        f"{plan.workers} at once. Disk: at most {size_in_words(plan.disk)}. Memory: "
        f"{size_in_words(plan.memory)} for each task.",
        highlight=False,
    )
    if plan.gpu_memory:
        hours = sum(sum(each.tasks) for each in plan.estimates) / 3600
        console.print(
            f"GPU: {hours:.1f} hours, {size_in_words(plan.gpu_memory)} of memory.", highlight=False
        )


def duration(seconds: float) -> str:
    """Write a duration as hours, minutes and seconds.

    Example:
        >>> [duration(seconds) for seconds in (0.2, 75, 7384)]
        ['1 s', '1:15 min', '2:03 h']
    """
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60}:{round(seconds) % 60:02} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02} h"


class Calibration:
    """Measurements of a run's models with random weights, by this machine and process.

    Args:
        run: a run whose preparation is finished, in a temporary folder. Its teacher is written
            with random weights, unless it is pretrained.
        report: receives progress events.

    Attributes:
        run: the run.
        train: its tokenised training pairs.
        teacher: folder or hub name of its teacher; empty for an external system.
    """

    def __init__(self, run: Run, report: Report) -> None:
        self.run = run
        self._report = report
        self.train = load_from_disk(str(run.one(Tokens).folder))["train"]
        self.teacher = teacher_path(run)
        self._tokenizer = load_tokenizer(run.one(Vocabulary).folder)
        self._steps = 0
        self._rates: dict[tuple[str, int, str], float] = {}
        self._students: dict[str, str] = {}
        teacher = run.one(Teacher)
        if teacher.shape is not None:
            model = new_model(self._tokenizer, **teacher.shape.model_dump())
            self._save(model, Path(self.teacher))

    def training(self, model: Model) -> float:
        """Estimate the seconds of a training, with its validations."""
        assert model.training is not None
        self._show(f"training {model.name}")
        run, training = self.run, model.training
        config = make_config(model.method, training, model.seed, self.train, run.folder / "unused")
        validations = config.max_steps // int(config.eval_steps)
        path = self.teacher if isinstance(model, Teacher) else self.student(model)
        validation = len(run.splits.valid) * self.seconds_per_sentence(path, 1, run.splits.valid)
        seconds: float = config.max_steps * try_updates(model, Student.inputs(run)).seconds
        seconds += validations * validation
        return seconds if training.max_hours is None else min(seconds, 3600 * training.max_hours)

    def student(self, model: Model) -> str:
        """Write a student of a model's shape with random weights; return its folder."""
        size = str(model.size)
        if size not in self._students:
            template = load_model(self.teacher) if self.teacher else None
            folder = self.run.folder / "random" / size
            self._save(random_student(model, self._tokenizer, template), folder)
            self._students[size] = str(folder)
        return self._students[size]

    def seconds_per_sentence(
        self, path: str, beams: int, pairs: Sequence[Pair], quantization: str = ""
    ) -> float:
        """Measure the time in which a model translates a sentence, in batches.

        Args:
            path: folder or hub name of the model.
            beams: width of the beam.
            pairs: sentences with their references, whose lengths the translations have.
            quantization: data type of the export to CTranslate2 that translates; empty: PyTorch.
        """
        key = path, beams, quantization
        if key not in self._rates:
            self._show(f"translating with {Path(path).name} {quantization}".rstrip())
            timed: Timed = TimedModel(path, beams)
            if quantization:
                folder = self.run.folder / "exported" / str(len(self._rates))
                export(path, folder, quantization)
                timed = TimedExport(folder, beams)
            longest = self.run.recipe.evaluation.max_tokens, positions_of(load_config(path))
            batches = sample_for(timed, self._tokenizer, pairs, *longest)
            count = sum(len(batch.inputs["input_ids"]) for batch in batches)
            self._rates[key] = timed.seconds(batches) / count
        return self._rates[key]

    def _save(self, model: PreTrainedModel, folder: Path) -> None:
        model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def end(self) -> None:
        """Report the end."""
        self._report(Event("trying", self._steps, self._steps))

    def _show(self, note: str) -> None:
        self._steps += 1
        self._report(Event("trying", self._steps, self._steps + 1, note))


def _teacher(calibration: Calibration) -> Estimate:
    model = calibration.run.one(Teacher)
    tasks = [calibration.training(model)] if model.trained else []
    return Estimate("training of the teacher", tasks)


def _scores(calibration: Calibration) -> Estimate:
    run = calibration.run
    if run.recipe.teacher.foreign:
        return Estimate("teacher's validation", [])
    rate = calibration.seconds_per_sentence(calibration.teacher, 1, run.splits.valid)
    return Estimate("teacher's validation", [rate * len(run.splits.valid)])


def _sequences(calibration: Calibration) -> Estimate:
    """Estimate the translations of the training source, which workers share."""
    run = calibration.run
    quantization = "float32" if run.recipe.sequences.engine == "ctranslate2" else ""
    tasks: list[float] = []
    for stage in [] if run.recipe.teacher.foreign else run.all(Sequences):
        pairs, beams = stage.pairs(run), run.recipe.evaluation.beams
        rate = calibration.seconds_per_sentence(calibration.teacher, beams, pairs, quantization)
        shards = -(-len(pairs) // SHARD)
        tasks += [rate * len(pairs) / shards] * shards
    return Estimate("teacher's translations", tasks)


def _cache(calibration: Calibration) -> Estimate:
    """Estimate the teacher's caches from one of a few pairs."""
    run, tasks, size = calibration.run, [], 0
    for number, stage in enumerate(run.all(TeacherOutputs)):
        sample = sample_rows(calibration.train, _CACHED)
        folder, budget = run.folder / "cached" / str(number), run.recipe.evaluation.max_tokens
        seconds = time_cache(folder, calibration.teacher, sample, budget, stage.states)
        pairs = sum(_pairs_of(run, part) for part in stage.parts)
        tasks.append(pairs * seconds)
        size += round(pairs / len(sample) * sum(file.stat().st_size for file in folder.iterdir()))
    return Estimate("teacher's cache", tasks, size)


def _pairs_of(run: Run, part: str) -> int:
    return run.corpus.sizes["monolingual" if part == MONOLINGUAL else "train"]


def _starts(calibration: Calibration) -> Estimate:
    """Estimate the pruning of the teacher from a pruning by fewer sentences."""
    run, tasks = calibration.run, []
    count = min(SENTENCES, len(calibration.train))
    sample = calibration.train.select(range(max(1, count // _START_SHARE)))
    for stage in run.all(StudentStart):
        start = time.perf_counter()
        shape = stage.shape.model_dump()
        student_of(load_model(calibration.teacher), **shape, start="teacher", sample=sample)
        tasks.append((time.perf_counter() - start) * count / len(sample))
    return Estimate("starts of students", tasks)


def _students(calibration: Calibration) -> Estimate:
    seconds: dict[tuple[str, str], float] = {}
    tasks = []
    for model in calibration.run.all(Student):
        key = str(model.size), str(model.method.name)
        if key not in seconds:
            seconds[key] = calibration.training(model)
        tasks.append(seconds[key])
    return Estimate("training of students", tasks)


def _translations(calibration: Calibration) -> Estimate:
    run, beams = calibration.run, calibration.run.recipe.evaluation.beams
    paths = [] if run.recipe.teacher.foreign else [calibration.teacher]
    paths += [calibration.student(model) for model in run.all(Student)]
    rates = [calibration.seconds_per_sentence(path, beams, run.evaluated) for path in paths]
    return Estimate("translations of the test set", [rate * len(run.evaluated) for rate in rates])


def _exports(calibration: Calibration) -> Estimate:
    """Estimate exports: the student and the export translate the validation set for the proof."""
    run, beams = calibration.run, calibration.run.recipe.evaluation.beams
    tasks = []
    for stage in run.all(Export):
        path = calibration.student(stage.student)
        slow = calibration.seconds_per_sentence(path, beams, run.evaluated)
        fast = calibration.seconds_per_sentence(path, beams, run.evaluated, stage.quantization)
        count = len(run.splits.valid)
        tasks.append(count * slow + (count + len(run.evaluated)) * fast)
    return Estimate("exports", tasks)


def _speeds(calibration: Calibration) -> Estimate:
    return Estimate("measurement of speeds", [_SPEED_SECONDS * len(calibration.run.all(Speed))])


ESTIMATES: dict[type[RunStage], Callable[[Calibration], Estimate]] = {
    Teacher: _teacher,
    TeacherScores: _scores,
    Sequences: _sequences,
    TeacherOutputs: _cache,
    StudentStart: _starts,
    Student: _students,
    Translations: _translations,
    Export: _exports,
    Speed: _speeds,
}
"""How the stages of each kind are estimated. Speeds are measured one after the other."""
