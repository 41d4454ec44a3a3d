"""A run: corpus → vocabulary → teacher → students → translations → report.

Every arrow is a `Stage`: done ones are skipped, half-done ones resumed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import yaml
from datasets import DatasetDict
from filelock import FileLock, Timeout
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from a2d import report
from a2d.attention import Geometry
from a2d.batching import tokenise
from a2d.corpus import Pair, overlap
from a2d.decoding import translate
from a2d.errors import UserError
from a2d.evaluation import score
from a2d.models import count_parameters, load_model
from a2d.plan import Model, Plan, Splits, make_plan, read_splits, space_needed
from a2d.progress import Bars, Event, log_file, logged, silence_libraries
from a2d.recipe import Evaluation, Recipe
from a2d.stage import require_space, write_text
from a2d.tokenizer import check_same_vocabulary, load_tokenizer, train_tokenizer
from a2d.training import Inputs, remove_checkpoints, train_models

logger = logging.getLogger(__name__)

LOG = "run.log"


def run(recipe: Recipe, folder: Path, console: Console) -> None:
    """Carry out a recipe, or what is left of it, and report.

    Args:
        recipe: the experiment.
        folder: where everything is written; a run of the same recipe there is continued.
        console: where to show progress, table and samples.

    Raises:
        UserError: bad input; raised before any training starts, with nothing overwritten.
    """
    silence_libraries()
    with console.status("Reading the corpus…"):
        splits = read_splits(recipe)
    plan = make_plan(recipe, folder, splits)
    for stage in plan.stages:
        stage.check()
    require_space(folder, space_needed(recipe))
    with _locked(folder), logged(log_file(folder / LOG)):
        write_text(folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False))
        _prepare_corpus(plan, splits, console)
        with console.status("Preparing the vocabulary…"):
            tokenizer = _prepare_vocabulary(plan, recipe, splits)
            _prepare_tokens(plan, splits, tokenizer)
        _train(plan, recipe, folder, console)
        _translate(plan, splits.test, recipe.evaluation, tokenizer, console)
        report.write(folder, plan, console, samples=recipe.evaluation.samples)


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
    dropped = {rule: n for rule, n in cleaning.items() if n and rule not in ("read", "kept")}
    reasons = ", ".join(f"{n:,} {rule.replace('_', ' ')}" for rule, n in dropped.items())
    console.print(
        f"Corpus: {len(splits.train):,} training pairs ({cleaning['read']:,} read, dropped: "
        f"{reasons or 'none'}), {len(splits.valid):,} validation, {len(splits.test):,} test."
    )
    for name, split in (("validation", splits.valid), ("test", splits.test)):
        shared = overlap(splits.train, split)
        if shared:
            _warn(f"{shared:,} {name} sentences also occur in the training data.", console)
    if plan.corpus.done:
        return
    with plan.corpus.work() as folder:
        write_text(folder / "cleaning.json", json.dumps(cleaning, indent=1) + "\n")
        write_text(folder / "test.source.txt", _lines(pair.source for pair in splits.test))
        write_text(folder / "test.reference.txt", _lines(pair.target for pair in splits.test))


def _prepare_vocabulary(plan: Plan, recipe: Recipe, splits: Splits) -> PreTrainedTokenizerBase:
    stage = plan.vocabulary
    if not stage.done:
        given = [p for p in (recipe.vocabulary.path, recipe.teacher.path) if p is not None]
        with stage.work() as folder:
            if given:
                tokenizers = [load_tokenizer(path) for path in given]
                check_same_vocabulary(tokenizers[-1], tokenizers[0])
                tokenizers[0].save_pretrained(folder)
            else:
                texts = (text for pair in splits.train for text in pair)
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


def _train(plan: Plan, recipe: Recipe, folder: Path, console: Console) -> None:
    done = [model.name for model in plan.trained if model.stage.done]
    if done:
        console.print(f"Trained already: {', '.join(done)}.")
    inputs = Inputs(
        plan.vocabulary.folder,
        plan.tokens.folder,
        plan.teacher.path,
        folder / "tensorboard",
        folder / LOG,
    )
    with Bars(console) as bars:
        train_models(plan.trained, inputs, recipe.compute.parallel, bars.show)
    for model in plan.trained:
        remove_checkpoints(model)  # of a run that was killed before it came to that


def _translate(
    plan: Plan,
    test: list[Pair],
    settings: Evaluation,
    tokenizer: PreTrainedTokenizerBase,
    console: Console,
) -> None:
    with Bars(console) as bars:
        for model in plan.models:
            if not model.translations.done:
                _translate_with(model, test, settings, tokenizer, bars)


def _translate_with(
    model: Model,
    test: list[Pair],
    settings: Evaluation,
    tokenizer: PreTrainedTokenizerBase,
    bars: Bars,
) -> None:
    def show(done: int) -> None:
        bars.show(Event(f"translating: {model.name}", done, len(test)))

    network = load_model(model.path)
    sources = [pair.source for pair in test]
    decode = partial(
        translate, network, tokenizer, beams=settings.beams, max_tokens=settings.max_tokens
    )
    decode(sources[:16])  # not timed: first calls are slower
    start = time.perf_counter()
    hypotheses = decode(sources, progress=show)
    seconds = time.perf_counter() - start
    # What is scored is what is written, so that anyone can score it again.
    hypotheses = [_line(text) for text in hypotheses]
    scores = score(hypotheses, [_line(pair.target) for pair in test])
    geometry = Geometry.of(network.config)
    figures = {
        **scores._asdict(),
        "encoder_layers": geometry.encoder_layers,
        "decoder_layers": geometry.decoder_layers,
        "heads": geometry.decoder_heads,
        "parameters": count_parameters(network),
        "sentences_per_second": len(sources) / seconds,
    }
    with model.translations.work() as folder:
        write_text(folder / "test.txt", _lines(hypotheses))
        write_text(folder / "scores.json", json.dumps(figures, indent=1) + "\n")


def _warn(message: str, console: Console) -> None:
    logger.warning(message)
    console.print(f"[yellow]Warning:[/] {message}")


def _line(text: str) -> str:
    # One sentence a line, whatever line breaks a text had.
    return " ".join(text.split())


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{_line(text)}\n" for text in texts)
