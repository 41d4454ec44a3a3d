"""Cache of the teacher's signals for a training corpus: computed once, read in every epoch.

Distributions over next tokens are stored as the `TOP` likeliest tokens, the rest of the probability
spread evenly over the other tokens; attention maps as float16; hidden states and the last layers'
value vectors, if requested, as bfloat16: some models' (T5's) exceed the range of float16.
Memory-mapped NumPy files hold all sentences end to end, in the dataset's order; the lengths say
where each begins. `cache.json` records what they were made from.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.lib.format import open_memmap
from torch import Tensor
from transformers import PreTrainedModel

from a2d.errors import UserError
from a2d.families import Geometry, attention_width, sizes_of
from a2d.files import MANIFEST, damage, require_space, seal, write_text
from a2d.method.attention import GROUPS, Features
from a2d.method.maps import AttentionMaps, StackedMaps
from a2d.method.token_losses import Prediction, TopTokens
from a2d.models.loading import load_to_run
from a2d.progress import Event, Report
from a2d.text.batching import TokenBatchSampler, lengths, load_tokens
from a2d.training.frozen import frozen_teacher
from a2d.training.signals import Needs, Signals, model_signals

CONTENTS = "cache.json"

ROW = "row"
"""Dataset column with a sentence's index in the cached dataset."""

CACHED = "teacher"
"""Key of the cached signals in a batch."""

TOP = 128
"""Tokens stored of every distribution, fewer where the vocabulary is smaller."""


class TeacherCache:
    """Reads what `build` wrote.

    Args:
        folder: the cache.
        dataset: the tokenised corpus that it was built from.
        teacher: the model that it was built from.

    Raises:
        UserError: the files are missing, or belong to other data or another teacher.
    """

    def __init__(self, folder: Path, dataset: Dataset, teacher: PreTrainedModel) -> None:
        contents = _contents(folder)
        if contents is None:
            raise UserError(f"{folder} holds no teacher cache: make one with open_or_build.")
        if contents["made_from"] != _origin(teacher, dataset):
            raise UserError(
                f"{folder} was made from another corpus or teacher: choose another folder, or "
                "delete it."
            )
        self._folder = folder
        self._geometry = Geometry.of(teacher.config)
        self._layout = _Layout(lengths(dataset), self._geometry)
        try:
            self._files = _opened(folder, contents["arrays"])
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} is damaged: delete it ({error}).") from error

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: the files' names, not their contents."""
        return {**self.__dict__, "_files": list(self._files)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the files here."""
        self.__dict__ = {**state, "_files": _opened(state["_folder"], state["_files"])}

    def check_states(self) -> None:
        """Make sure that it holds hidden states and values.

        Raises:
            UserError: it does not.
        """
        if not _holds_states(self._files):
            raise UserError(
                f"{self._folder} holds no hidden states, which the method compares: delete it, and "
                "make it anew with open_or_build(…, states=True)."
            )

    def check_sizes(self, sizes: np.ndarray) -> None:
        """Make sure that a dataset has as many sentences as it, of the same lengths.

        Raises:
            UserError: it has not.
        """
        if not np.array_equal(sizes, self._layout.lengths):
            raise UserError(
                f"{self._folder} was made from another dataset than train_dataset: make one from "
                "that with open_or_build."
            )

    def read(
        self, rows: Sequence[int], groups: Iterable[str] = GROUPS, *, states: bool = False
    ) -> dict[str, Tensor]:
        """Read the signals for sentences of the dataset, end to end, as `unpack` takes them.

        Args:
            rows: the sentences' indices.
            groups: the groups whose maps are read.
            states: read hidden states and values as well.
        """
        names = ["tokens", "log_probabilities", *groups, *(_STATES if states else ())]
        return {name: self._read(name, rows) for name in names}

    def _read(self, name: str, rows: Sequence[int]) -> Tensor:
        file, layout = self._files[name], self._layout
        array = np.concatenate([file[layout.part(name, row)] for row in rows])
        if name == "tokens":  # PyTorch supports few operations on unsigned integers
            array = array.astype(np.int32)
        flat = torch.from_numpy(array)
        return flat.view(torch.bfloat16) if name in _STATES else flat

    def unpack(self, cached: Mapping[str, Tensor], source: Tensor, target: Tensor) -> Signals:
        """Return the teacher's signals for a batch, on the device of the arguments.

        Args:
            cached: the result of `read` for the batch's sentences.
            source: True at source tokens (B, S).
            target: True at target tokens (B, T).
        """
        sides, shape = (source, target), self._geometry
        top = TopTokens(
            _padded(cached["tokens"], target).long(), _padded(cached["log_probabilities"], target)
        )
        maps: dict[str, AttentionMaps] = {}
        hidden, values = {}, {}
        for group in GROUPS:
            if group in cached:
                queries, keys = (sides[side] for side in _SIDES[group])
                area = queries[:, None, :, None] & keys[:, None, None, :]
                area = area.expand(-1, shape.channels(group), -1, -1)
                maps[group] = StackedMaps(_padded(cached[group], area))
        for stack, side in (("encoder", source), ("decoder", target)):
            if f"hidden-{stack}" in cached:
                states = _padded(cached[f"hidden-{stack}"], side)
                hidden[stack] = list(states.chunk(shape.layers(stack), dim=-1))
                heads = _padded(cached[f"values-{stack}"], side).unflatten(
                    2, (shape.heads(stack), -1)
                )
                values[stack] = heads.transpose(1, 2)
        return Signals(top, Features(maps, values, hidden))


class CachedSignalsCollator:
    """Pads a batch's sentences and reads their cached signals, in the loader's processes.

    Args:
        pad: makes a batch of sentences.
        cache: of the dataset that they are from; `ROW` is their index in it.
        groups, states: of `TeacherCache.read`.
    """

    def __init__(
        self, pad: Callable[..., Any], cache: TeacherCache, groups: tuple[str, ...], states: bool
    ) -> None:
        self.pad = pad
        self.cache = cache
        self.groups = groups
        self.states = states

    def __call__(self, sentences: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, with the cached signals under `CACHED`."""
        rows = [sentence.pop(ROW) for sentence in sentences]
        cached = self.cache.read(rows, self.groups, states=self.states)
        return {**self.pad(sentences), CACHED: cached}


def open_or_build(
    folder: Path,
    teacher: PreTrainedModel,
    dataset: Dataset,
    *,
    max_tokens: int = 4096,
    states: bool = False,
    progress: Callable[[int], None] | None = None,
) -> TeacherCache:
    """Open the cache in a folder; build it if it is missing, damaged, or of other data.

    Arguments and errors are those of `build`.
    """
    contents = _contents(folder)
    usable = (
        contents is not None
        and contents["made_from"] == _origin(teacher, dataset)
        and (_holds_states(contents["arrays"]) or not states)
        and damage(folder) is None
    )
    if not usable:
        folder.mkdir(parents=True, exist_ok=True)
        build(folder, teacher, dataset, max_tokens, progress or (lambda done: None), states)
    return TeacherCache(folder, dataset, teacher)


@torch.no_grad()
def build(
    folder: Path,
    teacher: PreTrainedModel,
    dataset: Dataset,
    max_tokens: int,
    progress: Callable[[int], None],
    states: bool = False,
) -> None:
    """Run the teacher over a corpus and write its cache.

    Args:
        folder: where to write.
        teacher: the model; on whatever device it is.
        dataset: tokenised sentence pairs with the columns `input_ids` and `labels`.
        max_tokens: padded tokens per batch.
        progress: called after each batch with the number of sentences done so far.
        states: store hidden states and values as well, for the methods that compare them.

    Raises:
        UserError: the disk cannot hold it.
    """
    model = frozen_teacher(teacher, teacher.device)
    (folder / MANIFEST).unlink(missing_ok=True)
    layout = _Layout(lengths(dataset), Geometry.of(teacher.config))
    files = _new_files(folder, layout, teacher.config, states)
    padding, done = teacher.config.pad_token_id, 0
    columns = dataset.with_format(None)
    budget = max(max_tokens, int(layout.lengths.max(initial=0)))
    for rows in TokenBatchSampler(layout.lengths, budget, shuffle=False):
        batch = columns[rows]
        source, target = (_batch(batch[key], padding) for key in ("input_ids", "labels"))
        source, target = source.to(teacher.device), target.to(teacher.device)
        inputs = {
            "input_ids": source,
            "attention_mask": _mask(layout.lengths[rows, 0], source),
            "labels": target,
        }
        prediction, features = model_signals(model, inputs, Needs(hidden_states=states))
        assert isinstance(prediction, Prediction)
        assert features is not None
        count = files["tokens"].shape[1]
        top = prediction.logits.float().log_softmax(-1).topk(count, dim=-1)
        by_token = {"tokens": top.indices, "log_probabilities": top.values}
        by_token |= _packed(features) if states else {}
        maps = {group: features.maps[group].stacked() for group in GROUPS}
        for place, row in enumerate(rows):
            for name, tensor in by_token.items():
                part = layout.part(name, row)
                files[name][part] = tensor[place, : part.stop - part.start].cpu().numpy()
            for group in GROUPS:
                _, queries, keys = layout.shape(group, row)
                sentence = maps[group][place, :, :queries, :keys]
                files[group][layout.part(group, row)] = sentence.flatten().cpu().numpy()
        done += len(rows)
        progress(done)
    for file in files.values():
        file.flush()
    contents = {"made_from": _origin(teacher, dataset), "arrays": list(files)}
    write_text(folder / CONTENTS, json.dumps(contents, indent=1) + "\n")
    seal(folder)


def build_from(
    data: Sequence[Path], teacher: str, folder: Path, max_tokens: int, states: bool, report: Report
) -> None:
    """`build` for a dataset saved in the folders `data` and a teacher's folder or hub name."""
    dataset = load_tokens(data)
    name = "teacher's signals: " + "+".join(part.name for part in data)

    def show(done: int) -> None:
        report(Event(name, done, len(dataset)))

    build(folder, load_to_run(teacher), dataset, max_tokens, show, states)


_SIDES = {"encoder": (0, 0), "decoder": (1, 1), "cross": (1, 0)}
"""Sides (0 source, 1 target) of a group's queries and keys."""

_BY_TOKEN = {
    "tokens": 1,
    "log_probabilities": 1,
    "hidden-encoder": 0,
    "values-encoder": 0,
    "hidden-decoder": 1,
    "values-decoder": 1,
}
"""Files with a row per token → the side (0 source, 1 target) of these tokens."""

_STATES = [name for name in _BY_TOKEN if name.startswith(("hidden", "values"))]


def _holds_states(files: Container[str]) -> bool:
    return all(name in files for name in _BY_TOKEN)


def _new_files(
    folder: Path, layout: _Layout, config: Any, states: bool
) -> dict[str, np.memmap[Any, Any]]:
    """Files of the size that a corpus needs, empty.

    Raises:
        UserError: the disk cannot hold them.
    """
    top, geometry = min(TOP, config.vocab_size), Geometry.of(config)
    float16, bfloat16 = np.dtype(np.float16), np.dtype(np.int16)  # NumPy does not know the latter
    formats: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "tokens": (np.min_scalar_type(config.vocab_size - 1), (top,)),
        "log_probabilities": (float16, (top,)),
        **dict.fromkeys(GROUPS, (float16, ())),
    }
    for stack in ("encoder", "decoder") if states else ():
        width = sizes_of(config)["width"]
        formats[f"hidden-{stack}"] = bfloat16, (geometry.layers(stack) * width,)
        formats[f"values-{stack}"] = bfloat16, (attention_width(config),)
    shapes = {name: (layout.size(name), *columns) for name, (_, columns) in formats.items()}
    require_space(folder, sum(kind.itemsize * prod(shapes[n]) for n, (kind, _) in formats.items()))
    files = {}
    for name, (kind, _) in formats.items():
        path = folder / f"{name}.npy"
        files[name] = open_memmap(path, "w+", kind, shapes[name])
        # Writing into a hole of a mapped file would end the process when the disk is full.
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return files


def _packed(features: Features) -> dict[str, Tensor]:
    """Hidden states and values as (B, positions, columns), the bits of bfloat16 as int16."""
    packed = {}
    for stack, hidden in features.hidden.items():
        packed[f"hidden-{stack}"] = torch.cat(hidden, dim=-1)
        packed[f"values-{stack}"] = features.values[stack].transpose(1, 2).flatten(2)
    return {name: states.bfloat16().view(torch.int16) for name, states in packed.items()}


def _padded(flat: Tensor, mask: Tensor) -> Tensor:
    """Scatter flat values into a zero-padded tensor where `mask` is True; floats become float32."""
    mask = mask.reshape(*mask.shape, *[1] * (flat.dim() - 1)).expand(*mask.shape, *flat.shape[1:])
    padded = torch.zeros_like(mask, dtype=flat.dtype).masked_scatter_(mask, flat)
    return padded.float() if flat.is_floating_point() else padded


class _Layout:
    """Offsets of each sentence in the files."""

    def __init__(self, sizes: np.ndarray, geometry: Geometry) -> None:
        self.lengths = sizes
        self.channels = {group: geometry.channels(group) for group in GROUPS}
        self._starts = {name: _starts(sizes[:, side]) for name, side in _BY_TOKEN.items()}
        for group, (queries, keys) in _SIDES.items():
            area = sizes[:, queries] * sizes[:, keys]
            self._starts[group] = _starts(self.channels[group] * area)

    def size(self, name: str) -> int:
        return int(self._starts[name][-1])

    def part(self, name: str, row: int) -> slice:
        return slice(int(self._starts[name][row]), int(self._starts[name][row + 1]))

    def shape(self, group: str, row: int) -> tuple[int, int, int]:
        queries, keys = (int(self.lengths[row, side]) for side in _SIDES[group])
        return self.channels[group], queries, keys


def _opened(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}


def _contents(folder: Path) -> dict[str, Any] | None:
    try:
        contents: dict[str, Any] = json.loads((folder / CONTENTS).read_text("utf-8"))
        whole = {*contents["arrays"]} >= {"tokens", "log_probabilities", *GROUPS}
        return contents if whole and "made_from" in contents else None
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None


def _origin(teacher: PreTrainedModel, dataset: Dataset) -> dict[str, int]:
    """Checksums of a teacher's weights and of a corpus's tokens.

    Raises:
        UserError: there is padding among the tokens.
    """
    weights = tokens = 0
    for parameter in teacher.state_dict().values():
        flat = parameter.detach().cpu().contiguous().flatten()
        weights = zlib.crc32(flat.view(torch.uint8).numpy(), weights)
    for part in dataset.with_format("arrow").iter(10_000):
        for column in ("input_ids", "labels"):
            lists = part[column].combine_chunks()
            for numbers in (lists.value_lengths(), lists.flatten()):
                array = numbers.to_numpy(zero_copy_only=False).astype(np.int64)
                if array.min(initial=0) < 0:
                    raise UserError(
                        f"a cache needs whole sentences, but the dataset's {column} hold padding "
                        f"({array.min()}): tokenise without padding."
                    )
                tokens = zlib.crc32(array, tokens)
    return {"teacher": weights, "corpus": tokens}


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def _batch(sentences: Sequence[Sequence[int]], padding: int) -> Tensor:
    tensors = [torch.tensor(ids) for ids in sentences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)


def _mask(sizes: np.ndarray, ids: Tensor) -> Tensor:
    mask = torch.arange(ids.shape[1])[None] < torch.from_numpy(sizes)[:, None]
    return mask.long().to(ids.device)
