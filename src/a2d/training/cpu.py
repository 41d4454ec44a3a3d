"""Faster training on CPUs: cheaper random numbers, and memory that stays with the process."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

_library_dropout = functional.dropout


def tune_process() -> None:
    """Keep freed memory in this process, and limit oneDNN's cache; both last until it ends."""
    keep_freed_memory()
    limit_kernel_cache()


@contextmanager
def fast_dropout() -> Iterator[None]:
    """Replace `torch.nn.functional.dropout` by `dropout` within the block.

    PyTorch draws random numbers one by one, which takes an eighth of a training step with matrix
    products in bf16. Models look the function up in its module, hence the replacement there. A
    `TorchFunctionMode` would intercept all other functions too, and cost half of the gain.
    """
    functional.dropout = dropout
    try:
        yield
    finally:
        functional.dropout = _library_dropout


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Compute `torch.nn.functional.dropout` with 64 random bits for four values.

    PyTorch's own function is called on GPUs, under `torch.compile` and in place.

    Args:
        input: values of any shape.
        p: share of values to set to zero, rounded to 1/65536; the others are divided by 1 - p.
        training: return the input unchanged if False.
        inplace: whether to change `input`.
    """
    dropped = round(p * 2**16)
    ours = training and 0 < dropped < 2**16 and not inplace
    if input.device.type != "cpu" or not ours or torch.compiler.is_compiling():
        return _library_dropout(input, p, training, inplace)
    words = torch.empty(math.ceil(input.numel() / 4), dtype=torch.int64, device=input.device)
    words.random_(-(2**63), None)
    numbers = words.view(torch.int16)[: input.numel()].view(input.shape)  # from -2**15 on
    # The comparison writes floats: converting booleans takes long.
    mask = torch.ge(numbers, dropped - 2**15, out=torch.empty_like(input, requires_grad=False))
    return input * mask.mul_(2**16 / (2**16 - dropped))


def keep_freed_memory() -> None:
    """Keep the memory that a training step frees in this process, for the next step.

    Otherwise glibc returns it to the system at the end of each step, and the next step waits for
    every page to be cleared again. Other C libraries are left alone.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_… in malloc.h
        set_option(trim_threshold, 2**31 - 1)
        # glibc would raise this threshold up to here by itself, but no longer does once the other
        # one is set. A higher one lets the heap grow without end: large tensors rarely fit holes.
        set_option(mmap_threshold, 2**25)


def limit_kernel_cache() -> None:
    """Limit oneDNN, which multiplies in bf16, to the code of 64 products instead of 1024.

    oneDNN generates code for every shape, and shapes differ from batch to batch: a training would
    grow by one or two gigabytes. The limit is an environment variable that oneDNN reads at its
    first product. A limit that is set already is left. Child processes inherit it.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # its older name
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
