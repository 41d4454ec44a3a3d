"""What training on a processor spends beside its work, saved: random numbers, memory."""

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


@contextmanager
def fast_dropout() -> Iterator[None]:
    """Let every model that computes on a processor drop values by `dropout`, within the block.

    PyTorch draws random numbers one by one: with matrix products in bf16, an eighth of a step.
    Models call PyTorch's function by its place, so that is where it is put. A `TorchFunctionMode`
    would be told of every other function, too, and cost half of what is won.
    """
    functional.dropout = dropout
    try:
        yield
    finally:
        functional.dropout = _library_dropout


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.dropout`, and just that where it is as fast.

    64 random bits decide on four values at a time.

    Args:
        input: values of any shape.
        p: share of them to set to zero, kept to 1/65536; the others are divided by 1 - p.
        training: whether to do anything.
        inplace: whether to do it in place.
    """
    dropped = round(p * 2**16)
    chosen = training and 0 < dropped < 2**16 and not inplace
    if input.device.type != "cpu" or not chosen or torch.compiler.is_compiling():
        return _library_dropout(input, p, training, inplace)
    words = torch.empty(math.ceil(input.numel() / 4), dtype=torch.int64, device=input.device)
    words.random_(-(2**63), None)
    numbers = words.view(torch.int16)[: input.numel()].view(input.shape)  # from -2**15 on
    # Compared into numbers: truth values take long to be made such.
    kept = torch.ge(numbers, dropped - 2**15, out=torch.empty_like(input, requires_grad=False))
    return input * kept.mul_(2**16 / (2**16 - dropped))


def keep_freed_memory() -> None:
    """Let this process keep the memory that a training step frees, for the next one.

    The C library hands it back to the system when a step ends, and the next step waits for every
    page to be cleared again. Only glibc is told; others have ways of their own.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_… in malloc.h
        set_option(trim_threshold, 2**31 - 1)
        # It would grow up to this by itself, and stays as it is once the other one is set. More
        # would let a heap grow without end: freed holes rarely fit the next large tensor.
        set_option(mmap_threshold, 2**25)


def keep_few_kernels() -> None:
    """Let oneDNN, which multiplies in bf16, keep its code for 64 products, not for 1024.

    It generates code for every shape, and lengths differ from batch to batch: a training would grow
    by up to a gigabyte or two. It reads the limit in the environment at its first product, so this
    has no effect after that; a limit that is set is left. Child processes inherit it.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # its older name
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
