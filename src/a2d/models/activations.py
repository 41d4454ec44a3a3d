"""Activations of a model on sample text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from a2d.errors import UserError
from a2d.families import family_of, sizes_of
from a2d.models.loading import decoder_inputs
from a2d.text.batching import IGNORE_INDEX, evenly_spaced, sample_rows

Batch = Mapping[str, Tensor]
"""`input_ids` and `attention_mask` (sentences, source length), `labels` (sentences, target length;
`IGNORE_INDEX` where there is no text)."""

SENTENCES = 2000
"""Largest number of sentence pairs of sample text."""

_FLOATS = 2**26
"""Largest size of an activation on sample text: 256 MB in float32."""


def sample_text(data: Dataset, model: PreTrainedModel) -> Batch:
    """Make a batch of evenly spaced sentence pairs, without the longest 5%, sorted by length.

    Args:
        data: columns ``input_ids`` and ``labels`` (`a2d.text.batching.tokenise`).
        model: the model to run on the text.

    Raises:
        UserError: there is no text.
    """
    if len(data) == 0:
        raise UserError("the sample text has no sentence pairs.")
    rows = sample_rows(data, SENTENCES).to_list()
    lengths = [max(len(row["input_ids"]), len(row["labels"])) for row in rows]
    longest = sorted(lengths)[math.ceil(0.95 * len(rows)) - 1]
    rows = [row for row, length in zip(rows, lengths, strict=True) if length <= longest]
    widest = max(sizes_of(model.config)[size] for size in ("width", "feed_forward"))
    rows = evenly_spaced(rows, max(1, _FLOATS // (longest * widest)))
    rows.sort(
        key=lambda row: (len(row["input_ids"]), len(row["labels"]))
    )  # little padding in parts

    def pad(name: str, value: int) -> Tensor:
        return pad_sequence([torch.tensor(row[name]) for row in rows], True, value)

    sources = [torch.ones(len(row["input_ids"]), dtype=torch.long) for row in rows]
    return {
        "input_ids": pad("input_ids", model.config.pad_token_id),
        "attention_mask": pad_sequence(sources, batch_first=True),
        "labels": pad("labels", IGNORE_INDEX),
    }


def projections(model: PreTrainedModel) -> dict[str, str]:
    """List the linear modules of a model's layers: name → role, as in `Family.projections`."""
    roles = family_of(model.config).projections
    last_parts = {name: name.rpartition(".")[2] for name, _ in model.named_modules()}
    return {name: roles[last] for name, last in last_parts.items() if last in roles}


def norms(model: PreTrainedModel) -> dict[str, nn.Module]:
    """List a model's layer norms and RMS norms by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Norm") and hasattr(module, "weight")
    }


def has_bias(module: nn.Module) -> bool:
    """Check whether a norm or a linear module has a bias."""
    return getattr(module, "bias", None) is not None


def normalise(norm: nn.Module, states: Tensor) -> Tensor:
    """Normalise states as a norm does before it applies gain and bias.

    Args:
        norm: a layer norm, or an RMS norm (without a bias).
        states: (tokens, width).
    """
    centred = states - states.mean(-1, keepdim=True) if has_bias(norm) else states
    epsilon: float = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon  # type: ignore[assignment]
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + epsilon)


class Recorder:
    """Calls functions with inputs and outputs of a model's modules on a batch of text.

    Args:
        model: the model. It runs without dropout.
        batch: the text.
    """

    def __init__(self, model: PreTrainedModel, batch: Batch) -> None:
        self.model = model
        self.batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        self._roles = projections(model)
        self._handles: list[Any] = []
        self._decodes = False
        self._part: Batch = {}

    def text(self, name: str) -> Tensor:
        """Mask of the positions with text in a module's inputs: booleans (sentences, length)."""
        source, target = self._part["attention_mask"].bool(), self._part["labels"] != IGNORE_INDEX
        if _is_encoders(name):
            return source
        if self._roles.get(name) not in ("key", "value"):
            return target
        attention = self.model.get_submodule(name.rpartition(".")[0])
        crosses = family_of(self.model.config).group(attention) == "cross"
        return source if crosses else target

    def before(self, name: str, call: Callable[[str, Tensor], None]) -> None:
        """Call ``call(name, inputs)`` before a module runs.

        The inputs have all positions (sentences, length, width) and may be changed in place.
        """
        module = self.model.get_submodule(name)
        hook = module.register_forward_pre_hook(lambda _, inputs: call(name, inputs[0]))
        self._add(name, hook)

    def after(self, name: str, call: Callable[[str, Tensor, Tensor], None]) -> None:
        """Call ``call(name, inputs, outputs)``, (tokens, width) each, after a module has run."""

        def show(_: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            text = self.text(name)
            call(name, inputs[0][text], outputs[text])

        self._add(name, self.model.get_submodule(name).register_forward_hook(show))

    def _add(self, name: str, handle: Any) -> None:
        self._handles.append(handle)
        self._decodes = self._decodes or not _is_encoders(name)

    @torch.no_grad()
    def run(self, sentences: int | None = None) -> None:
        """Run the encoder, and the decoder if functions need it, and remove the functions.

        Args:
            sentences: number of sentences that are run at a time, in their order; None: all.
        """
        training = self.model.training
        self.model.eval()
        count = len(self.batch["labels"])
        try:
            for start in range(0, count, sentences or count):
                self._part = self._cut(slice(start, start + (sentences or count)))
                self._run_part()
        finally:
            self.model.train(training)
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def _cut(self, rows: slice) -> Batch:
        """Take sentences out of the batch, without columns that are padding in all of them."""
        part = {name: tensor[rows] for name, tensor in self.batch.items()}
        source = int(part["attention_mask"].sum(1).max())
        target = int((part["labels"] != IGNORE_INDEX).sum(1).max())
        return {name: t[:, : target if name == "labels" else source] for name, t in part.items()}

    def _run_part(self) -> None:
        mask = self._part["attention_mask"]
        encoded = self.model.get_encoder()(
            input_ids=self._part["input_ids"], attention_mask=mask
        ).last_hidden_state
        if self._decodes:  # without its output layer
            self.model.get_decoder()(
                input_ids=decoder_inputs(self.model, self._part["labels"]),
                encoder_hidden_states=encoded,
                encoder_attention_mask=mask,
                use_cache=False,
            )


def _is_encoders(name: str) -> bool:
    """Check whether a module belongs to the encoder."""
    return "encoder" in name.split(".")
