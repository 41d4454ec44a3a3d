"""Faster training on CPU: cheaper random numbers, and less work for the memory allocator."""

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
    """Keep freed memory in the process, and limit oneDNN's cache, until the process ends."""
    keep_freed_memory()
    limit_kernel_cache()


@contextmanager
def fast_dropout() -> Iterator[None]:
    """Replace `torch.nn.functional.dropout` by `dropout` inside a `with` block.

    PyTorch draws random numbers one by one, which takes an eighth of a training step in bfloat16.
    The function is replaced in its module, where models look it up. A `TorchFunctionMode` would
    intercept all functions of PyTorch, which costs half of the gain.
    """
    functional.dropout = dropout
    try:
        yield
    finally:
        functional.dropout = _library_dropout


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Compute `torch.nn.functional.dropout` with 16 random bits per value.

    PyTorch's own function is called on GPU, under `torch.compile`, and if `inplace` is set.

    Args:
        input: values of any shape.
        p: probability of setting a value to zero, rounded to 1/65536; others are divided by 1 - p.
        training: False returns the input unchanged.
        inplace: change `input` itself.

    Returns:
        Values of the shape and dtype of `input`.
    """
    dropped = round(p * 2**16)
    applies = training and 0 < dropped < 2**16 and not inplace
    if input.device.type != "cpu" or not applies or torch.compiler.is_compiling():
        return _library_dropout(input, p, training, inplace)
    words = torch.empty(math.ceil(input.numel() / 4), dtype=torch.int64, device=input.device)
    words.random_(-(2**63), None)
    numbers = words.view(torch.int16)[: input.numel()].view(input.shape)  # at least -2**15
    # The comparison writes floats, because converting booleans is slow.
    mask = torch.ge(numbers, dropped - 2**15, out=torch.empty_like(input, requires_grad=False))
    return input * mask.mul_(2**16 / (2**16 - dropped))


def keep_freed_memory() -> None:
    """Make glibc keep the memory that a training step frees, for the next step.

    By default it returns memory to the system after each step, and the next step waits until the
    system has cleared every page again. Other C libraries are not changed.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_… in malloc.h
        set_option(trim_threshold, 2**31 - 1)
        # glibc raises this threshold to the same value by itself, unless another threshold is set.
        # With a higher value the heap keeps growing, because large tensors rarely fit its holes.
        set_option(mmap_threshold, 2**25)


def limit_kernel_cache() -> None:
    """Limit oneDNN's cache to the code of 64 matrix products instead of 1024.

    oneDNN generates code for every shape, and shapes differ between batches, so that the cache
    grows by one or two gigabytes in a training. The limit is an environment variable, which oneDNN
    reads at its first product and child processes inherit. An existing value stays.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # the variable's older name
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
