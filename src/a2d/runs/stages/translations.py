"""Stages of translations: each model translates the evaluated set, and is scored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from a2d.families import Geometry, sizes_of
from a2d.files import write_text
from a2d.models.decoding import translate
from a2d.models.loading import count_parameters, load_to_run
from a2d.models.tokenizer import load_tokenizer
from a2d.progress import Event, Report
from a2d.runs.lines import one_line, read_lines, write_lines
from a2d.runs.model import Model
from a2d.runs.run import Run
from a2d.runs.run_stage import RunStage
from a2d.runs.settings import EvaluationSettings
from a2d.runs.shards import SHARDS
from a2d.runs.stages.corpus import Corpus
from a2d.runs.stages.models import Teacher, translator_of
from a2d.runs.stages.students import models_of
from a2d.runs.stages.vocabulary import Vocabulary
from a2d.text.evaluation import score

HYPOTHESES = "hypotheses.txt"
SCORES = "scores.json"


@dataclass(frozen=True)
class Translations(RunStage):
    """Translations of a model, one per line, and their scores.

    Attributes:
        model: model that translates.
    """

    expensive: ClassVar = f"*/{SHARDS}"

    model: Model

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """List a stage for each model."""
        search = run.recipe.evaluation
        settings = search.model_dump(exclude={"samples"})
        return [
            cls(
                run.folder / "translations" / search.split / model.name,
                {"model": model.fingerprint, **settings},
                model,
            )
            for model in models_of(run)
        ]

    @classmethod
    def carry_out(cls, run: Run) -> None:
        """Translate with the unfinished models, as many at once as the recipe allows."""
        search, corpus = run.recipe.evaluation, run.one(Corpus)
        data = corpus.sources(search.split), corpus.references(search.split)
        vocabulary = run.one(Vocabulary).folder
        futures = []
        for stage in run.all(cls):
            if stage.done:
                continue
            if stage.model.foreign:
                stage.make(run)
            else:
                arguments = stage, vocabulary, *data, search
                futures.append(run.workers.submit(translate_and_score, *arguments))
        for future in futures:
            future.result()

    def make(self, run: Run) -> None:
        """Write the translations of an external system, with scores if none is missing."""
        split = run.recipe.evaluation.split
        with self.work() as folder:
            shards = folder / split
            shards.mkdir(exist_ok=True)
            hypotheses = list(translator_of(run)(run.evaluated, shards))
            references = run.one(Corpus).references(split)
            figures = score(list(map(one_line, hypotheses)), references)._asdict()
            if not run.has_translations(split):
                figures |= {"bleu": None, "chrf": None}
            _write(folder, hypotheses, {**figures, "parameters": None})

    @property
    def hypotheses(self) -> list[str]:
        """Translations, one line each."""
        return read_lines(self.folder / HYPOTHESES)

    @property
    def figures(self) -> dict[str, Any]:
        """Scores with their signatures, layers, heads, widths and parameters."""
        figures: dict[str, Any] = json.loads((self.folder / SCORES).read_text("utf-8"))
        return figures


def translate_and_score(
    stage: Translations,
    tokenizer: Path,
    sources: list[str],
    references: list[str],
    search: EvaluationSettings,
    report: Report,
) -> None:
    """Translate with a model that a2d can load, and score the translations, in any process.

    Args:
        stage: stage of the model.
        tokenizer: folder of the tokenizer.
        sources: sources of the evaluated set.
        references: reference of each source.
        search: settings of the evaluation.
        report: receiver of progress events.
    """
    name = f"translating: {stage.model.name}"
    report(Event(name, 0, len(sources)))
    network = load_to_run(stage.model.path)
    hypotheses = translate(
        network,
        load_tokenizer(tokenizer),
        sources,
        beams=search.beams,
        max_tokens=search.max_tokens,
        progress=lambda count: report(Event(name, count, len(sources))),
    )
    # The scores are those of the written lines, so that anyone can compute them again.
    scores = score([one_line(text) for text in hypotheses], references)
    geometry = Geometry.of(network.config)
    sizes = sizes_of(network.config)
    heads = dict.fromkeys((geometry.encoder_heads, geometry.decoder_heads))
    figures = {
        **scores._asdict(),
        "encoder_layers": geometry.encoder_layers,
        "decoder_layers": geometry.decoder_layers,
        "heads": "+".join(map(str, heads)),
        **{name: sizes[name] for name in ("width", "feed_forward")},
        "parameters": count_parameters(network),
    }
    with stage.work() as folder:
        _write(folder, hypotheses, figures)


SIZES = ("encoder_layers", "decoder_layers", "heads", "width", "feed_forward")
"""Sizes in the figures of models that a2d can load; those of earlier versions have no widths."""


def sizes_in_short(run: Run) -> dict[str, str]:
    """Describe layers and heads of each loadable model; widths too, if the models have several."""
    sizes, widths = {}, {}
    for stage in run.all(Translations):
        model, figures = stage.model, stage.figures
        if model.foreign:
            continue
        layers = "{encoder_layers}+{decoder_layers}x{heads}".format(**figures)
        sizes[model.name] = model.size or layers
        if "width" in figures:
            widths[model.name] = "-{width}-{feed_forward}".format(**figures)
    if len(set(widths.values())) > 1:
        for name, width in widths.items():
            if "-" not in sizes[name]:  # a student's size may have them already
                sizes[name] += width
    return sizes


def translations_of(run: Run) -> dict[str, Translations]:
    """Return model name → stage of its translations."""
    return {stage.model.name: stage for stage in run.all(Translations)}


def teacher_translations(run: Run) -> Translations:
    """Return the stage of the teacher's translations."""
    return translations_of(run)[run.one(Teacher).name]


def _write(folder: Path, hypotheses: list[str], figures: dict[str, Any]) -> None:
    write_lines(folder / HYPOTHESES, hypotheses)
    write_text(folder / SCORES, json.dumps(figures, indent=1) + "\n")
