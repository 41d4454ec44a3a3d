"""A run: corpus → vocabulary → teacher → students → translations → report.

Every arrow is a `Stage`: done ones are skipped, half-done ones resumed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from datasets import DatasetDict
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedTokenizerBase

from a2d.errors import UserError
from a2d.families import positions_of
from a2d.files import require_space, write_text
from a2d.models.loading import load_config
from a2d.models.teachers import prepare_teacher
from a2d.models.tokenizer import (
    check_fits,
    check_languages_named,
    check_same_vocabulary,
    load_tokenizer,
    train_tokenizer,
)
from a2d.progress import Bars, Event, WarningEvents, doing, log_file, logged, silence_libraries
from a2d.runs import foreign, report
from a2d.runs.command import check_command
from a2d.runs.environment import RECIPE, settle
from a2d.runs.plan import (
    DISTILLED,
    MONOLINGUAL,
    TOKENS,
    Plan,
    make_plan,
    space_needed,
)
from a2d.runs.recipe import Recipe, load_recipe
from a2d.runs.schedule import sized
from a2d.runs.sequences import SHARDS, Task, translate_shards, translate_training_source
from a2d.runs.speeds import measure_speeds
from a2d.runs.splits import Splits, read_splits
from a2d.runs.trainings import Inputs, check, remove_checkpoints, train_models
from a2d.runs.translations import one_line, translate_and_score, write_lines
from a2d.runs.verdict import measure_yardstick
from a2d.runs.workers import Workers
from a2d.stage import Stage
from a2d.text.batching import lengths, tokenise
from a2d.text.cleaning import overlap
from a2d.text.pairs import Pair
from a2d.text.storage import StoredPairs, Texts
from a2d.training import teacher_cache

logger = logging.getLogger(__name__)

LOG = "run.log"


class Prepared(NamedTuple):
    """A run that is ready for its trainings: its stages, its corpus, and what trainings read."""

    recipe: Recipe
    plan: Plan
    splits: Splits
    tokenizer: PreTrainedTokenizerBase
    inputs: Inputs


def run(
    recipe: Recipe,
    folder: Path,
    console: Console,
    preview: Callable[[Prepared], None] | None = None,
    dry: bool = False,
) -> Prepared:
    """Carry out a recipe, or what is left of it, and report.

    Args:
        recipe: the experiment.
        folder: where everything is written; a run of the same recipe there is continued.
        console: where to show progress, table and samples.
        preview: called when everything is ready for the trainings.
        dry: stop before the trainings.

    Returns:
        What was carried out.

    Raises:
        UserError: bad input; raised before any training starts, with nothing overwritten.
    """
    silence_libraries()
    if recipe.teacher.command is not None:
        check_command(recipe.teacher.command)
    if not dry:
        console.print(f"Log: {escape(str(folder / LOG))}", highlight=False, soft_wrap=True)
    splits = read_corpus(recipe, console)
    recipe = settle(sized(recipe, splits), folder)
    plan = make_plan(recipe, folder, splits)
    for stage in plan.stages:
        stage.check()
    require_space(folder, space_needed(plan, recipe))
    with _locked(folder), logged(log_file(folder / LOG)):
        write_text(folder / RECIPE, yaml.safe_dump(recipe.model_dump(), sort_keys=False))
        for warning in splits.warnings:
            _warn(warning, console)
        _restore([stage for stage in plan.stages if stage not in plan.caches.values()], console)
        _prepare_corpus(plan, splits, console)
        _prepare_teacher(plan, recipe, splits, console)
        with doing(console, "Preparing the vocabulary…"):
            tokenizer = _prepare_vocabulary(plan, recipe, splits)
            _prepare_tokens(plan, splits, tokenizer)
        prepared = Prepared(recipe, plan, splits, tokenizer, _inputs(plan, recipe, folder))
        check(plan.trained, prepared.inputs)
        if preview is not None:
            preview(prepared)
        if not dry:
            _train(prepared, folder, console)
            pairs = getattr(splits, recipe.evaluation.split)
            _translate(prepared, folder, console)
            with Bars(console) as bars:  # now that no worker slows the models down
                command = recipe.teacher.command
                measure_speeds(plan, pairs, recipe.evaluation, bars.show, command)
            report.write(folder, plan, recipe, console)
    return prepared


def read_corpus(recipe: Recipe, console: Console) -> Splits:
    """Read and clean a recipe's corpus; keep the warnings for the run's log.

    Raises:
        UserError: a part is missing, malformed, or empty after cleaning.
    """
    events: list[Event] = []
    with doing(console, "Reading the corpus…"), logged(WarningEvents("corpus", events.append)):
        splits = read_splits(recipe)
    return splits._replace(warnings=tuple(event.warning for event in events))


def assist(folder: Path, console: Console) -> None:
    """Help a run to translate its training source, from another process or another machine.

    Shards that nobody is translating are taken, one after the other; the run waits for what is
    under way here, and does itself what was left. Started by `torchrun` or `accelerate launch`,
    every process uses its own graphics card.

    Args:
        folder: of the run; this process sees it and the corpus by the same names.
        console: where to show progress.

    Raises:
        UserError: no run is there, or it has not come to that.
    """
    silence_libraries()
    written = folder / RECIPE
    if not written.exists():
        raise UserError(f"{folder} holds no run: give the --output of `a2d run`.")
    recipe = load_recipe(str(written), [])
    splits = read_splits(recipe)
    plan = make_plan(recipe, folder, splits)
    work = [(plan.distilled, splits.train), (plan.monolingual, splits.monolingual)]
    begun = [(s, pairs) for s, pairs in work if s and (s.done or s.partial.exists())]
    if not begun or splits.known is not None:
        raise UserError(
            f"the run in {folder} is not translating its training source: help it when it is."
        )
    for stage, _ in begun:
        stage.check()
    if all(stage.done for stage, _ in begun):
        console.print("Everything is translated already.")
        return
    processes, rank = recipe.compute.parallel, os.environ.get("LOCAL_RANK")
    if rank is not None:
        processes = 1
        cards = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[int(rank) % len(cards)] or rank
    with Bars(console) as bars, Workers(processes, folder / LOG, bars.show) as pool:
        for stage, pairs in begun:
            translate_shards(pairs, stage.partial, _task(plan, recipe), pool, wait=False)
    console.print("Nothing is left to begin.")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the system frees the lock of a killed one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"another run is working in {folder}: wait for it, or choose another --output."
        ) from None


def _prepare_corpus(plan: Plan, splits: Splits, console: Console) -> None:
    cleaning = splits.cleaning.as_dict()
    console.print(
        f"Corpus: {len(splits.train):,} training pairs ({cleaning['read']:,} read, dropped: "
        f"{_dropped(cleaning)}), {len(splits.valid):,} validation, {len(splits.test):,} test."
    )
    if splits.monolingual_cleaning is not None:
        counts = splits.monolingual_cleaning.as_dict()
        told = (
            f"Monolingual text: {len(splits.monolingual):,} sentences ({counts['read']:,} read, "
            f"dropped: {_dropped(counts)})."
        )
        logger.info(told)
        console.print(told)
    for name, split in (("validation", splits.valid), ("test", splits.test)):
        shared = overlap(splits.train, split)
        if shared:
            _warn(f"{shared:,} {name} sentences also occur in the training data.", console)
    if plan.corpus.done:
        return
    with plan.corpus.work() as folder:
        write_text(folder / "cleaning.json", json.dumps(cleaning, indent=1) + "\n")
        for name, split in (("valid", splits.valid), ("test", splits.test)):
            write_lines(folder / f"{name}.source.txt", [pair.source for pair in split])
            write_lines(folder / f"{name}.reference.txt", [pair.target for pair in split])


def _dropped(counts: Mapping[str, int]) -> str:
    rules = {rule: n for rule, n in counts.items() if n and rule not in ("read", "kept")}
    return ", ".join(f"{n:,} {rule.replace('_', ' ')}" for rule, n in rules.items()) or "none"


def _prepare_teacher(plan: Plan, recipe: Recipe, splits: Splits, console: Console) -> None:
    if plan.prepared is None or plan.prepared.done:
        return
    given = recipe.teacher
    assert given.path is not None
    pairs = splits.learnable if given.trim else None
    with doing(console, "Preparing the teacher…"), plan.prepared.work() as folder:
        before, after = prepare_teacher(
            given.path, folder, given.languages, given.source_prefix, pairs
        )
    if given.trim:
        console.print(f"Vocabulary: {after:,} of the teacher's {before:,} tokens.")


def _prepare_vocabulary(plan: Plan, recipe: Recipe, splits: Splits) -> PreTrainedTokenizerBase:
    stage = plan.vocabulary
    if not stage.done:
        pretrained = plan.teacher.path if recipe.teacher.path is not None else None
        given = [path for path in (recipe.vocabulary.path, pretrained) if path is not None]
        with stage.work() as folder:
            if given:
                tokenizers = [load_tokenizer(path) for path in given]
                check_same_vocabulary(tokenizers[-1], tokenizers[0])
                tokenizer = tokenizers[-1]  # the teacher's has its languages and prefix
                if pretrained is not None:
                    config = load_config(pretrained)
                    check_fits(tokenizer, config, pretrained)
                    check_languages_named(tokenizer, pretrained)
                    positions = positions_of(config)
                    if positions is not None:
                        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
                tokenizer.save_pretrained(folder)
            else:
                texts = Texts(splits.learnable)
                train_tokenizer(texts, recipe.vocabulary.size).save_pretrained(folder)
    return load_tokenizer(stage.folder)


def _prepare_tokens(plan: Plan, splits: Splits, tokenizer: PreTrainedTokenizerBase) -> None:
    if plan.tokens.done:
        return
    with plan.tokens.work() as folder:
        tokens = {
            "train": tokenise(splits.train, tokenizer),
            "valid": tokenise(splits.valid, tokenizer),
        }
        DatasetDict(tokens).save_to_disk(str(folder))


def _inputs(plan: Plan, recipe: Recipe, folder: Path) -> Inputs:
    return Inputs(
        plan.vocabulary.folder,
        plan.tokens.folder,
        {
            TOKENS: plan.tokens.folder / "train",
            DISTILLED: plan.distilled.folder,
            **({MONOLINGUAL: plan.monolingual.folder} if plan.monolingual else {}),
        },
        {parts: stage.folder for parts, stage in plan.caches.items()},
        plan.teacher.path,
        recipe.teacher.path is not None,
        plan.yardstick.folder,
        folder / "tensorboard",
        recipe.evaluation.beams,
    )


def _train(prepared: Prepared, folder: Path, console: Console) -> None:
    recipe, plan, splits, tokenizer, inputs = prepared
    done = [model.name for model in plan.trained if model.stage.done]
    if done:
        console.print(f"Trained already: {', '.join(done)}.")
    with Bars(console) as bars, Workers(recipe.compute.parallel, folder / LOG, bars.show) as pool:
        # What students read of the teacher is made once, between the teacher and its students. The
        # mistakes of a system elsewhere show then, which must be before any training.
        if not plan.teacher.foreign:
            train_models([m for m in plan.trained if m.taught_by is None], inputs, pool)
        measure_teacher(prepared, pool)
        translator = _translator(plan, splits, recipe, pool)
        if plan.needs_distilled and not plan.distilled.done:
            _distil_sequences(plan.distilled, splits.train, recipe, tokenizer, translator, console)
        if plan.monolingual and not plan.monolingual.done:
            text = splits.monolingual
            _distil_sequences(plan.monolingual, text, recipe, tokenizer, translator, console)
        _prepare_caches(plan, inputs, recipe, console, pool)
        train_models(plan.trained, inputs, pool)
    for model in plan.trained:
        remove_checkpoints(model)  # of a run that was killed before it came to that


def measure_teacher(prepared: Prepared, pool: Workers) -> None:
    """Carry out the stage of the yardstick, unless it is done or the teacher has no translations.

    It translates the validation set in its own way: greedily, if a2d translates with it.
    """
    plan, splits = prepared.plan, prepared.splits
    if plan.yardstick.done or not splits.translated("valid"):
        return
    if plan.teacher.foreign:
        translator = _translator(plan, splits, prepared.recipe, pool)
        foreign.measure_yardstick(plan.yardstick, splits.valid, translator)
    else:
        inputs = plan.teacher.path, plan.vocabulary.folder, splits.valid
        pool.submit(measure_yardstick, plan.yardstick, *inputs).result()


def _prepare_caches(
    plan: Plan, inputs: Inputs, recipe: Recipe, console: Console, pool: Workers
) -> None:
    for parts, stage in plan.caches.items():
        if not plan.needs_cache(parts):
            continue
        _restore([stage], console)  # gigabytes, which are read only if they are needed
        if not stage.done:
            data = [inputs.data[part] for part in parts]
            with stage.work() as place:
                states = stage.settings.get("states", False)
                how = recipe.evaluation.max_tokens, states
                pool.submit(teacher_cache.build_from, data, plan.teacher.path, place, *how).result()


def _task(plan: Plan, recipe: Recipe) -> Task:
    command = recipe.teacher.command
    return Task(plan.teacher.path, recipe.evaluation, recipe.sequences, command)


def _translator(plan: Plan, splits: Splits, recipe: Recipe, pool: Workers) -> foreign.Translator:
    known, task = splits.known, _task(plan, recipe)
    if known is not None:
        return lambda pairs, _: [known.find(pair.source) for pair in pairs]
    return lambda pairs, folder: translate_training_source(pairs, folder, task, pool)


def _distil_sequences(
    stage: Stage,
    pairs: Sequence[Pair],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    translator: foreign.Translator,
    console: Console,
) -> None:
    """Carry out a stage of sources with the teacher's translations in the place of references."""
    with stage.work(keep=SHARDS) as folder:
        targets = translator(pairs, folder)
        taught = zip(pairs, targets, strict=True)
        learned = StoredPairs(Pair(pair.source, target) for pair, target in taught if target)
        if not learned:
            raise UserError(f"{stage.folder.name}: the teacher has no translation of any source.")
        if len(learned) < len(pairs):
            missing, total = len(pairs) - len(learned), len(pairs)
            _warn(
                f"{stage.folder.name}: the teacher has no translation of {missing:,} of {total:,} "
                "sources, which are left out.",
                console,
            )
        data = tokenise(learned, tokenizer)
        # A teacher that runs on and on, as bad ones do, teaches nothing and fits in no batch.
        fitting = np.flatnonzero(lengths(data).max(axis=1) <= recipe.training.max_tokens)
        data.select(fitting).save_to_disk(str(folder))


def _translate(prepared: Prepared, folder: Path, console: Console) -> None:
    recipe, plan, splits = prepared.recipe, prepared.plan, prepared.splits
    split = recipe.evaluation.split
    pairs: list[Pair] = getattr(splits, split)
    # As the corpus' files hold them: what is scored is what anyone gets from those.
    sources, references = ([one_line(pair[side]) for pair in pairs] for side in (0, 1))
    inputs = plan.vocabulary.folder, sources, references, recipe.evaluation
    with Bars(console) as bars, Workers(recipe.compute.parallel, folder / LOG, bars.show) as pool:
        waiting = [model for model in plan.models if not model.translations.done]
        if plan.teacher.foreign and plan.teacher in waiting:
            waiting.remove(plan.teacher)
            translator, complete = _translator(plan, splits, recipe, pool), splits.translated(split)
            foreign.translate_and_score(plan.teacher, split, pairs, translator, complete)
        for future in [pool.submit(translate_and_score, model, *inputs) for model in waiting]:
            future.result()


def _restore(stages: Iterable[Stage], console: Console) -> None:
    """Set damaged stages aside, with a warning each, so that they are carried out again."""
    for stage in stages:
        wrong = stage.restore()
        if wrong is not None:
            _warn(wrong, console)


def _warn(message: str, console: Console) -> None:
    logger.warning(message)
    console.print(f"[yellow]Warning:[/] {escape(message)}")
