"""Cache of the teacher's outputs for a training corpus: computed once, read in every epoch.

A distribution over next tokens is stored as its `TOP` likeliest tokens; the remaining probability
is spread evenly over the other tokens. Of attention maps, the square roots are stored in 8 bits,
which keeps small weights; rows are scaled to the sum 1 again. Hidden states and the last layers'
value vectors are optional, and stored as bfloat16, because those of T5 exceed the range of float16.

Each output has a memory-mapped NumPy file with all sentences one after the other, in the dataset's
order. The lengths of the sentences give their offsets. `cache.json` holds checksums of the teacher
and the dataset.
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
from a2d.training.outputs import Needs, Outputs, model_outputs

CONTENTS = "cache.json"

FORMAT = 2
"""Version of the files. Caches of another version are built again."""

ROW = "row"
"""Dataset column with a sentence's index in the cached dataset."""

CACHED = "teacher"
"""Key of the cached outputs in a batch."""

TOP = 128
"""Number of stored tokens per distribution; smaller vocabularies are stored completely."""


class TeacherCache:
    """Reader of a cache that `build` wrote.

    Args:
        folder: folder of the cache.
        dataset: tokenised corpus that the cache was built from.
        teacher: model that the cache was built from.

    Raises:
        UserError: the files are missing or damaged, or belong to other data or another teacher.
    """

    def __init__(self, folder: Path, dataset: Dataset, teacher: PreTrainedModel) -> None:
        contents = _read_contents(folder)
        if contents is None:
            raise UserError(f"{folder} holds no teacher cache: build one with open_or_build.")
        if contents["made_from"] != _checksums(teacher, dataset):
            raise UserError(
                f"{folder} was built from another corpus or teacher: choose another folder, or "
                "delete it."
            )
        self._folder = folder
        self._geometry = Geometry.of(teacher.config)
        self._layout = _Layout(lengths(dataset), self._geometry)
        try:
            self._files = _open_files(folder, contents["arrays"])
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} is damaged: delete it ({error}).") from error

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, with the names of the files only."""
        return {**self.__dict__, "_files": list(self._files)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the files in this process."""
        self.__dict__ = {**state, "_files": _open_files(state["_folder"], state["_files"])}

    def check_states(self) -> None:
        """Check that the cache holds hidden states and value vectors.

        Raises:
            UserError: it holds none.
        """
        if not _holds_states(self._files):
            raise UserError(
                f"{self._folder} holds no hidden states, which the method compares: delete it, and "
                "build it again with open_or_build(…, states=True)."
            )

    def check_sizes(self, sizes: np.ndarray) -> None:
        """Check that a dataset has the sentence lengths of the cached one.

        Args:
            sizes: source and target tokens of each sentence (N, 2).

        Raises:
            UserError: the number of sentences or a length differs.
        """
        if not np.array_equal(sizes, self._layout.lengths):
            raise UserError(
                f"{self._folder} was built from another dataset than train_dataset: build a cache "
                "of train_dataset with open_or_build."
            )

    def read(
        self, rows: Sequence[int], groups: Iterable[str] = GROUPS, *, states: bool = False
    ) -> dict[str, Tensor]:
        """Read the outputs of sentences, without padding.

        Args:
            rows: indices of the sentences in the dataset.
            groups: groups whose attention maps are read.
            states: read hidden states and value vectors too.

        Returns:
            Name → values of all sentences one after the other, for `unpack`.
        """
        names = ["tokens", "log_probabilities", *groups, *(_STATES if states else ())]
        return {name: self._read_values(name, rows) for name in names}

    def _read_values(self, name: str, rows: Sequence[int]) -> Tensor:
        file, layout = self._files[name], self._layout
        array = np.concatenate([file[layout.part(name, row)] for row in rows])
        if name == "tokens":  # PyTorch supports few operations on unsigned integers
            array = array.astype(np.int32)
        flat = torch.from_numpy(array)
        return flat.view(torch.bfloat16) if name in _STATES else flat

    def unpack(self, cached: Mapping[str, Tensor], source: Tensor, target: Tensor) -> Outputs:
        """Pad the outputs of a batch.

        Args:
            cached: result of `read` for the sentences of the batch, on any device.
            source: True at source tokens (B, S).
            target: True at target tokens (B, T).

        Returns:
            The teacher's outputs, in float32.
        """
        sides, geometry = (source, target), self._geometry
        top = TopTokens(
            _scatter(cached["tokens"], target).long(), _scatter(cached["log_probabilities"], target)
        )
        maps: dict[str, AttentionMaps] = {}
        hidden, values = {}, {}
        for group in GROUPS:
            if group in cached:
                queries, keys = (sides[side] for side in _SIDES[group])
                area = queries[:, None, :, None] & keys[:, None, None, :]
                area = area.expand(-1, geometry.channels(group), -1, -1)
                maps[group] = StackedMaps(_decode_maps(_scatter(cached[group], area)))
        for stack, side in (("encoder", source), ("decoder", target)):
            if f"hidden-{stack}" in cached:
                states = _scatter(cached[f"hidden-{stack}"], side)
                hidden[stack] = list(states.chunk(geometry.layers(stack), dim=-1))
                vectors = _scatter(cached[f"values-{stack}"], side)
                values[stack] = vectors.unflatten(2, (geometry.heads(stack), -1)).transpose(1, 2)
        return Outputs(top, Features(maps, values, hidden))


class CachedOutputsCollator:
    """Collator that pads sentences and reads their cached outputs, in the loader's processes.

    Args:
        pad: collator of the sentences without outputs.
        cache: cache of the dataset; `ROW` is the index of a sentence in it.
        groups, states: arguments of `TeacherCache.read`.
    """

    def __init__(
        self, pad: Callable[..., Any], cache: TeacherCache, groups: tuple[str, ...], states: bool
    ) -> None:
        self.pad = pad
        self.cache = cache
        self.groups = groups
        self.states = states

    def __call__(self, sentences: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, with the cached outputs under `CACHED`."""
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
    """Open the cache in a folder. Build it if it is missing, damaged, or of other data.

    Args:
        folder: folder of the cache.
        teacher, dataset, max_tokens, states: as in `build`.
        progress: as in `build`; None: no progress is reported.

    Raises:
        UserError: as in `build`.
    """
    contents = _read_contents(folder)
    usable = (
        contents is not None
        and contents["made_from"] == _checksums(teacher, dataset)
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
    """Run the teacher over a corpus, and write the cache of its outputs.

    Args:
        folder: existing folder to write to.
        teacher: model, which runs on its current device.
        dataset: tokenised sentence pairs with the columns `input_ids` and `labels`.
        max_tokens: padded tokens per batch.
        progress: called after each batch with the number of finished sentences.
        states: store hidden states and value vectors too, for methods that compare them.

    Raises:
        UserError: the disk has too little space, or the dataset holds padding.
    """
    model = frozen_teacher(teacher, teacher.device)
    (folder / MANIFEST).unlink(missing_ok=True)
    layout = _Layout(lengths(dataset), Geometry.of(teacher.config))
    files = _create_files(folder, layout, teacher.config, states)
    padding, finished = teacher.config.pad_token_id, 0
    columns = dataset.with_format(None)
    budget = max(max_tokens, int(layout.lengths.max(initial=0)))
    for rows in TokenBatchSampler(layout.lengths, budget, shuffle=False):
        batch = columns[rows]
        source, target = (
            _pad(batch[column], padding).to(teacher.device) for column in ("input_ids", "labels")
        )
        mask = _attention_mask(layout.lengths[rows, 0], source)
        inputs = {"input_ids": source, "attention_mask": mask, "labels": target}
        _write_outputs(
            files, layout, rows, model_outputs(model, inputs, Needs(hidden_states=states))
        )
        finished += len(rows)
        progress(finished)
    for file in files.values():
        file.flush()
    checksums = _checksums(teacher, dataset)
    contents = {"format": FORMAT, "made_from": checksums, "arrays": list(files)}
    write_text(folder / CONTENTS, json.dumps(contents, indent=1) + "\n")
    seal(folder)


def _write_outputs(
    files: Mapping[str, np.ndarray], layout: _Layout, rows: Sequence[int], outputs: Outputs
) -> None:
    """Write the outputs of a batch, the sentences `rows`, without padding."""
    prediction, features = outputs
    assert isinstance(prediction, Prediction)
    assert features is not None
    count = files["tokens"].shape[1]
    top = prediction.logits.float().log_softmax(-1).topk(count, dim=-1)
    by_token = {"tokens": top.indices, "log_probabilities": top.values}
    by_token |= _pack_states(features)
    maps = {group: features.maps[group].stacked() for group in GROUPS}
    for index, row in enumerate(rows):
        for name, tensor in by_token.items():
            part = layout.part(name, row)
            files[name][part] = tensor[index, : part.stop - part.start].cpu().numpy()
        for group in GROUPS:
            _, queries, keys = layout.shape(group, row)
            sentence = _encode_maps(maps[group][index, :, :queries, :keys])
            files[group][layout.part(group, row)] = sentence.flatten().cpu().numpy()


def build_from(
    data: Sequence[Path], teacher: str, folder: Path, max_tokens: int, states: bool, report: Report
) -> None:
    """Load a dataset and a teacher, and build the cache of its outputs.

    Args:
        data: folders of a tokenised dataset, concatenated in order.
        teacher: folder or hub name of the teacher.
        folder, max_tokens, states: as in `build`.
        report: receiver of progress events.

    Raises:
        UserError: as in `build`, or the teacher cannot be loaded.
    """
    dataset = load_tokens(data)
    name = "teacher's outputs: " + "+".join(part.name for part in data)

    def report_sentences(finished: int) -> None:
        report(Event(name, finished, len(dataset)))

    build(folder, load_to_run(teacher), dataset, max_tokens, report_sentences, states)


_SIDES = {"encoder": (0, 0), "decoder": (1, 1), "cross": (1, 0)}
"""Group → sides (0: source, 1: target) of its queries and keys."""

_BY_TOKEN = {
    "tokens": 1,
    "log_probabilities": 1,
    "hidden-encoder": 0,
    "values-encoder": 0,
    "hidden-decoder": 1,
    "values-decoder": 1,
}
"""File with one row per token → side (0: source, 1: target) of the tokens."""

_STATES = [name for name in _BY_TOKEN if name.startswith(("hidden", "values"))]


def _holds_states(files: Container[str]) -> bool:
    return all(name in files for name in _BY_TOKEN)


def cache_size(sizes: np.ndarray, config: Any, states: bool) -> int:
    """Return the bytes of the cache of a corpus.

    Args:
        sizes: source and target tokens of each sentence (N, 2).
        config: configuration of the teacher.
        states: whether hidden states and value vectors are stored.
    """
    shapes = _file_shapes(_Layout(sizes, Geometry.of(config)), config, states)
    return sum(dtype.itemsize * prod(shape) for dtype, shape in shapes.values())


def _file_shapes(
    layout: _Layout, config: Any, states: bool
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return the type and the shape of each file's array."""
    top, geometry = min(TOP, config.vocab_size), Geometry.of(config)
    float16, bfloat16 = np.dtype(np.float16), np.dtype(np.int16)  # NumPy has no bfloat16
    formats: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "tokens": (np.min_scalar_type(config.vocab_size - 1), (top,)),
        "log_probabilities": (float16, (top,)),
        **dict.fromkeys(GROUPS, (np.dtype(np.uint8), ())),
    }
    for stack in ("encoder", "decoder") if states else ():
        width = sizes_of(config)["width"]
        formats[f"hidden-{stack}"] = bfloat16, (geometry.layers(stack) * width,)
        formats[f"values-{stack}"] = bfloat16, (attention_width(config),)
    return {name: (kind, (layout.size(name), *rest)) for name, (kind, rest) in formats.items()}


def _create_files(
    folder: Path, layout: _Layout, config: Any, states: bool
) -> dict[str, np.memmap[Any, Any]]:
    """Create the files of a cache, in their final size.

    Raises:
        UserError: the disk has too little space.
    """
    require_space(folder, cache_size(layout.lengths, config, states))
    files = {}
    for name, (dtype, shape) in _file_shapes(layout, config, states).items():
        path = folder / f"{name}.npy"
        files[name] = open_memmap(path, "w+", dtype, shape)
        # Without reserved space, writing to a mapped file on a full disk would kill the process.
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return files


def _pack_states(features: Features) -> dict[str, Tensor]:
    """Convert hidden states and their stacks' value vectors to files' rows.

    Returns:
        File → (B, positions, columns), the bits of bfloat16 as int16; empty without hidden states.
    """
    columns = {}
    for stack, hidden in features.hidden.items():
        columns[f"hidden-{stack}"] = torch.cat(hidden, dim=-1)
        columns[f"values-{stack}"] = features.values[stack].transpose(1, 2).flatten(2)
    return {name: states.bfloat16().view(torch.int16) for name, states in columns.items()}


def _encode_maps(maps: Tensor) -> Tensor:
    """Return the square roots of attention weights in 8 bits (uint8)."""
    return maps.float().sqrt().mul(255).round().to(torch.uint8)


def _decode_maps(codes: Tensor) -> Tensor:
    """Return attention maps (…, queries, keys) in float32, whose rows without padding sum to 1."""
    maps = codes.float().square()
    return maps / maps.sum(dim=-1, keepdim=True).clamp_min(1)


def _scatter(flat: Tensor, mask: Tensor) -> Tensor:
    """Scatter flat values into a zero-padded tensor where `mask` is True; floats become float32."""
    mask = mask.reshape(*mask.shape, *[1] * (flat.dim() - 1)).expand(*mask.shape, *flat.shape[1:])
    padded = torch.zeros_like(mask, dtype=flat.dtype).masked_scatter_(mask, flat)
    return padded.float() if flat.is_floating_point() else padded


class _Layout:
    """Offsets of the sentences in the files.

    Args:
        sizes: source and target tokens of each sentence (N, 2).
        geometry: layers and heads of the teacher.
    """

    def __init__(self, sizes: np.ndarray, geometry: Geometry) -> None:
        self.lengths = sizes
        self.channels = {group: geometry.channels(group) for group in GROUPS}
        self._offsets = {name: _offsets(sizes[:, side]) for name, side in _BY_TOKEN.items()}
        for group, (queries, keys) in _SIDES.items():
            area = sizes[:, queries] * sizes[:, keys]
            self._offsets[group] = _offsets(self.channels[group] * area)

    def size(self, name: str) -> int:
        """Return the number of rows of a file."""
        return int(self._offsets[name][-1])

    def part(self, name: str, row: int) -> slice:
        """Return the rows of a file that belong to a sentence."""
        return slice(int(self._offsets[name][row]), int(self._offsets[name][row + 1]))

    def shape(self, group: str, row: int) -> tuple[int, int, int]:
        """Return channels, queries and keys of a sentence's attention maps."""
        queries, keys = (int(self.lengths[row, side]) for side in _SIDES[group])
        return self.channels[group], queries, keys


def _open_files(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}


def _read_contents(folder: Path) -> dict[str, Any] | None:
    """Read `cache.json`; None if it is missing, damaged or incomplete."""
    try:
        contents: dict[str, Any] = json.loads((folder / CONTENTS).read_text("utf-8"))
        complete = {*contents["arrays"]} >= {"tokens", "log_probabilities", *GROUPS}
        complete = complete and contents["format"] == FORMAT and "made_from" in contents
        return contents if complete else None
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None


def _checksums(teacher: PreTrainedModel, dataset: Dataset) -> dict[str, int]:
    """Compute checksums of a teacher's weights and of a corpus's tokens.

    Raises:
        UserError: the dataset holds padding.
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
                        f"a cache needs sentences without padding, but the dataset's {column} hold "
                        f"padding ({array.min()}): tokenise without padding."
                    )
                tokens = zlib.crc32(array, tokens)
    return {"teacher": weights, "corpus": tokens}


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def _pad(sentences: Sequence[Sequence[int]], padding: int) -> Tensor:
    tensors = [torch.tensor(ids) for ids in sentences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)


def _attention_mask(sizes: np.ndarray, ids: Tensor) -> Tensor:
    mask = torch.arange(ids.shape[1])[None] < torch.from_numpy(sizes)[:, None]
    return mask.long().to(ids.device)
