"""Files of the token ids of a corpus. PyTorch is not imported, which takes processes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from a2d.text.pairs import Pair
from a2d.text.parts import in_processes, parts, processes_for
from a2d.text.storage import PART, StoredPairs, write
from a2d.text.words import TOKENS, Encoder

PARTS = 25
"""Most parts of a corpus in a file: the tokens of 250,000 pairs."""


def save_tokens(
    folder: Path,
    splits: Mapping[str, Sequence[Pair]],
    tokenizer: PreTrainedTokenizerBase,
    processes: int = 1,
) -> None:
    """Encode the splits of a corpus as `a2d.text.batching.tokenise` does, and save them.

    Args:
        folder: folder that `datasets.load_from_disk` then reads. Its files do not depend on the
            number of processes.
        splits: sentence pairs by the split's name.
        tokenizer: tokenizer of both languages.
        processes: processes for a large `StoredPairs` (`a2d.text.parts.processes_for`), each of
            which writes files of its own.

    Raises:
        UserError: a process was killed.
    """
    empty = Dataset(TOKENS.empty_table())
    files = {name: _number_of_files(pairs) for name, pairs in splits.items()}
    # The library writes everything but the tokens; it would copy them from file to file.
    DatasetDict(dict.fromkeys(splits, empty)).save_to_disk(str(folder), num_shards=files)
    for name, pairs in splits.items():
        work = _FileWork(Encoder(tokenizer), pairs)
        starts = range(0, files[name] * PARTS, PARTS)
        ranges = [range(start, start + PARTS) for start in starts]
        items = list(zip(sorted((folder / name).glob("*.arrow")), ranges, strict=True))
        count = processes_for(pairs, processes)
        for _ in map(work, items) if count < 2 else in_processes(work, items, count):
            pass


def _number_of_files(pairs: Sequence[Pair]) -> int:
    count = len(pairs.batches()) if isinstance(pairs, StoredPairs) else -(-len(pairs) // PART)
    return max(1, -(-count // PARTS))


@dataclass(frozen=True)
class _FileWork:
    """Function that writes the tokens of some parts of a corpus into a file."""

    encoder: Encoder
    pairs: Sequence[Pair]

    def __call__(self, item: tuple[Path, range]) -> None:
        """Write a file, given its path and the numbers of the parts."""
        path, numbers = item
        write(path, map(self.encoder, parts(self.pairs, numbers)), TOKENS)
