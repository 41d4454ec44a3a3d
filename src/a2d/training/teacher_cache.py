"""What the frozen teacher says of a training corpus, computed once and read in every epoch.

The distribution over next tokens is kept as the `TOP` likeliest tokens, the rest of the probability
spread evenly over the other tokens; attention maps as float16. Memory-mapped NumPy files hold all
sentences end to end, in the dataset's order; where each begins follows from the lengths. Written
last, a manifest tells what they were made from, and their checksums.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from numpy.lib.format import open_memmap
from torch import Tensor
from transformers import PreTrainedModel

from a2d.errors import UserError
from a2d.method.attention import GROUPS, Features, Geometry, capture_attention, enable_capture
from a2d.method.token_losses import TopTokens
from a2d.models.loading import decoder_inputs, load_to_run
from a2d.progress import Event, Report
from a2d.stage import require_space, write_text
from a2d.text.batching import TokenBatchSampler, lengths
from a2d.training.distillation import Signals

MANIFEST = "cache.json"

TOP = 128
"""Tokens kept of every distribution, fewer where the vocabulary is smaller."""


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
        manifest = _manifest(folder)
        if manifest is None:
            raise UserError(f"{folder} holds no teacher cache: make one with open_or_build.")
        if manifest["made_from"] != _origin(teacher, dataset):
            raise UserError(
                f"{folder} was made from another corpus or teacher: choose another folder, or "
                "delete it."
            )
        self._layout = _Layout(lengths(dataset), Geometry.of(teacher.config))
        try:
            self._files = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FILES}
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} is damaged: delete it ({error}).") from error

    def signals(self, rows: Sequence[int], groups: Iterable[str] = GROUPS) -> Signals:
        """The teacher's signals for sentences of the dataset, padded as a batch of them is.

        Args:
            rows: the sentences' indices.
            groups: whose maps are read.
        """
        sizes = self._layout.lengths[list(rows)]
        source, target = (int(n) for n in sizes.max(axis=0))
        kept = self._files["tokens"].shape[1]
        top = TopTokens(
            torch.zeros(len(rows), target, kept, dtype=torch.long),
            torch.zeros(len(rows), target, kept),
        )
        for place, row in enumerate(rows):
            where = self._layout.part("tokens", row)
            count = where.stop - where.start
            top.ids[place, :count] = torch.from_numpy(self._files["tokens"][where].astype(np.int64))
            top.log_probabilities[place, :count] = torch.from_numpy(
                self._files["log_probabilities"][where].astype(np.float32)
            )
        maps = {}
        for group in groups:
            queries, keys = (target if side else source for side in _SIDES[group])
            maps[group] = torch.zeros(len(rows), self._layout.channels[group], queries, keys)
            for place, row in enumerate(rows):
                shape = self._layout.shape(group, row)
                flat = self._files[group][self._layout.part(group, row)]
                own = torch.from_numpy(flat.reshape(shape).astype(np.float32))
                maps[group][place, :, : shape[1], : shape[2]] = own
        return Signals(top, Features(maps, {}, {}))


def open_or_build(
    folder: Path,
    teacher: PreTrainedModel,
    dataset: Dataset,
    *,
    max_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> TeacherCache:
    """The cache in a folder; made first where there is none, a damaged one, or one of other data.

    Arguments and errors are those of `build`.
    """
    manifest = _manifest(folder)
    origin = _origin(teacher, dataset)
    if manifest is None or manifest["made_from"] != origin or not intact(folder):
        folder.mkdir(parents=True, exist_ok=True)
        build(folder, teacher, dataset, max_tokens, progress or (lambda done: None))
    return TeacherCache(folder, dataset, teacher)


def intact(folder: Path) -> bool:
    """Whether the files in a folder are, to the byte, those that `build` wrote."""
    manifest = _manifest(folder)
    if manifest is None:
        return False
    try:
        return all(_checksum(folder / f"{n}.npy") == manifest["checksums"][n] for n in _FILES)
    except OSError:
        return False


@torch.no_grad()
def build(
    folder: Path,
    teacher: PreTrainedModel,
    dataset: Dataset,
    max_tokens: int,
    progress: Callable[[int], None],
) -> None:
    """Run the teacher over a corpus and write its cache.

    Args:
        folder: where to write.
        teacher: the model; on whatever device it is.
        dataset: tokenised sentence pairs with the columns `input_ids` and `labels`.
        max_tokens: padded tokens per batch.
        progress: called after each batch with the number of sentences done so far.

    Raises:
        UserError: the disk cannot hold it.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    enable_capture(teacher.eval())
    layout = _Layout(lengths(dataset), Geometry.of(teacher.config))
    size = teacher.config.vocab_size
    kept = min(TOP, size)
    kinds = {"tokens": np.min_scalar_type(size - 1)}
    maps = sum(layout.size(group) for group in GROUPS)
    per_token = kept * (kinds["tokens"].itemsize + 2)
    require_space(folder, 2 * maps + per_token * layout.size("tokens"))
    files = {
        name: open_memmap(
            folder / f"{name}.npy",
            "w+",
            kinds.get(name, np.float16),
            (layout.size(name),) if name in GROUPS else (layout.size(name), kept),
        )
        for name in _FILES
    }
    padding, done = teacher.config.pad_token_id, 0
    columns = dataset.with_format(None)
    budget = max(max_tokens, int(layout.lengths.max(initial=0)))
    for rows in TokenBatchSampler(layout.lengths, budget, shuffle=False):
        batch = columns[rows]
        source, target = (_padded(batch[key], padding) for key in ("input_ids", "labels"))
        source, target = source.to(teacher.device), target.to(teacher.device)
        feed = {
            "input_ids": source,
            "attention_mask": _mask(layout.lengths[rows, 0], source),
            "decoder_input_ids": decoder_inputs(teacher, target),
            "use_cache": False,
        }
        output, features = capture_attention(teacher, feed)
        top = output.logits.log_softmax(-1).topk(kept, dim=-1)
        for place, row in enumerate(rows):
            where = layout.part("tokens", row)
            count = where.stop - where.start
            files["tokens"][where] = top.indices[place, :count].cpu().numpy()
            files["log_probabilities"][where] = top.values[place, :count].cpu().numpy()
            for group in GROUPS:
                _, queries, keys = layout.shape(group, row)
                own = features.maps[group][place, :, :queries, :keys]
                files[group][layout.part(group, row)] = own.flatten().cpu().numpy()
        done += len(rows)
        progress(done)
    for file in files.values():
        file.flush()
    manifest = {
        "made_from": _origin(teacher, dataset),
        "checksums": {name: _checksum(folder / f"{name}.npy") for name in _FILES},
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def build_from(data: Path, teacher: str, folder: Path, max_tokens: int, report: Report) -> None:
    """`build` for a dataset saved in `data` and a teacher's folder or hub name."""
    dataset = load_from_disk(str(data))

    def show(done: int) -> None:
        report(Event(f"teacher's signals: {data.name}", done, len(dataset)))

    build(folder, load_to_run(teacher), dataset, max_tokens, show)


_FILES = ("tokens", "log_probabilities", *GROUPS)
_SIDES = {"encoder": (0, 0), "decoder": (1, 1), "cross": (1, 0)}
"""Sides (0 source, 1 target) of a group's queries and keys."""


class _Layout:
    """Where each sentence lies in the files."""

    def __init__(self, sizes: np.ndarray, geometry: Geometry) -> None:
        self.lengths = sizes
        self.channels = {group: geometry.channels(group) for group in GROUPS}
        self._starts = {"tokens": _starts(sizes[:, 1])}
        for group, (queries, keys) in _SIDES.items():
            area = sizes[:, queries] * sizes[:, keys]
            self._starts[group] = _starts(self.channels[group] * area)
        self._starts["log_probabilities"] = self._starts["tokens"]

    def size(self, name: str) -> int:
        return int(self._starts[name][-1])

    def part(self, name: str, row: int) -> slice:
        return slice(int(self._starts[name][row]), int(self._starts[name][row + 1]))

    def shape(self, group: str, row: int) -> tuple[int, int, int]:
        queries, keys = (int(self.lengths[row, side]) for side in _SIDES[group])
        return self.channels[group], queries, keys


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        return manifest if {"made_from", "checksums"} <= manifest.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _origin(teacher: PreTrainedModel, dataset: Dataset) -> dict[str, int]:
    """Checksums of a teacher's weights and of a corpus's tokens."""
    weights = tokens = 0
    for parameter in teacher.state_dict().values():
        flat = parameter.detach().cpu().contiguous().flatten()
        weights = zlib.crc32(flat.view(torch.uint8).numpy(), weights)
    for part in dataset.with_format("arrow").iter(10_000):
        for column in ("input_ids", "labels"):
            lists = part[column].combine_chunks()
            for numbers in (lists.value_lengths(), lists.flatten()):
                array = numbers.to_numpy(zero_copy_only=False).astype(np.int64)
                tokens = zlib.crc32(array, tokens)
    return {"teacher": weights, "corpus": tokens}


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            found = zlib.crc32(block, found)
    return found


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def _padded(sentences: Sequence[Sequence[int]], padding: int) -> Tensor:
    tensors = [torch.tensor(ids) for ids in sentences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)


def _mask(sizes: np.ndarray, ids: Tensor) -> Tensor:
    mask = torch.arange(ids.shape[1])[None] < torch.from_numpy(sizes)[:, None]
    return mask.long().to(ids.device)
