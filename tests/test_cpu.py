"""Dropout by random words: it drops what it should, unbiased, and leaves PyTorch as it was.
Freed memory is used again, and code for shapes gone by is not kept."""

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from a2d.training.config import bf16_is_fast
from a2d.training.cpu import dropout, fast_dropout

LIBRARY = functional.dropout


@given(
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.lists(st.integers(0, 7), max_size=3),
    st.floats(0.01, 0.99),
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_values_are_dropped_or_scaled_and_gradients_with_them(dtype, shape, p, seed):
    torch.manual_seed(seed)
    values = (torch.rand(shape, dtype=torch.float64) + 1).to(dtype).requires_grad_()
    found = dropout(values, p)
    assert (found.shape, found.dtype) == (values.shape, dtype)
    scaled = values.double() / (1 - p)
    exact = 1e-2 if dtype == torch.bfloat16 else 1e-3
    kept = found != 0
    torch.testing.assert_close(found.double()[kept], scaled[kept], rtol=exact, atol=0)
    found.sum().backward()
    torch.testing.assert_close(values.grad * values, found, rtol=exact, atol=0)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_drops_independently_at_its_rate(p):
    """Against the binomial distribution, by rows of words, of columns, and by neighbours."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1000, 403), p) != 0).double()
    deviation = math.sqrt(p * (1 - p))
    assert abs(kept.mean() - (1 - p)) < 4 * deviation / math.sqrt(kept.numel())
    for axis, others in ((0, 1000), (1, 403)):
        standard = (kept.mean(axis) - (1 - p)) / (deviation / math.sqrt(others))
        assert 0.85 < standard.std() < 1.15
    flat = (kept.flatten() - (1 - p)) / deviation
    for distance in (1, 2, 3, 4, 403):  # four share a word
        correlation = (flat[distance:] * flat[:-distance]).mean()
        assert abs(correlation) < 4 / math.sqrt(len(flat))


def test_keeps_the_mean():
    torch.manual_seed(0)
    values = torch.rand(400_000) + 1
    error = (dropout(values, 0.3) - values).mean() / values.mean()
    assert abs(error) < 4 * math.sqrt(0.3 / 0.7) / math.sqrt(400_000)


def test_a_seed_gives_the_same_twice():
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(dropout(torch.ones(1000), 0.5))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.3, False), (1.0, True)])
def test_what_leaves_nothing_to_chance(p, training):
    values = torch.rand(5, 3)
    torch.testing.assert_close(dropout(values, p, training), LIBRARY(values, p, training))


def test_models_drop_by_it_within_the_block_alone():
    layer, values = nn.Dropout(0.5), torch.ones(64)
    expected, found = [], []
    for context_free, results in ((dropout, expected), (layer, found)):
        torch.manual_seed(3)
        with fast_dropout():
            results.append(context_free(values))
    assert torch.equal(expected[0], found[0])
    with pytest.raises(KeyError), fast_dropout(), fast_dropout():
        raise KeyError
    assert functional.dropout is LIBRARY


MEMORY = """
import ctypes, resource, sys
from a2d.training.cpu import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    size = 8 * 2**20
    blocks = [ctypes.c_void_p(library.malloc(size)) for _ in range(20)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


print([faults() for _ in range(4)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have ways of their own")
def test_freed_memory_is_used_again():
    """Pages that the system has to clear for 160 MB, when as much was just freed."""
    found = {
        way: int(subprocess.check_output([sys.executable, "-c", MEMORY, way]))
        for way in ("kept", "handed back")
    }
    assert 10 * found["kept"] < found["handed back"]


KERNELS = """
import sys
from pathlib import Path

import torch

from a2d.training.cpu import limit_kernel_cache

if sys.argv[1] == "few":
    limit_kernel_cache()
torch.set_num_threads(1)
weight = torch.randn(2000, 256).bfloat16()


def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
    return int(kilobytes)


def multiply(lengths):
    for length in lengths:
        inputs = torch.randn(length, 256).bfloat16()
        (inputs @ weight.T).T @ inputs


multiply([500, *range(100, 180)])
before = resident()
multiply(range(180, 480))
print(resident() - before)
"""


@pytest.mark.skipif(not bf16_is_fast(), reason="nothing is multiplied in bf16 here")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_code_for_shapes_gone_by_is_dropped():
    # Temporary tensors are not to count.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)  # as other tests leave it
    found = {
        way: int(subprocess.check_output([sys.executable, "-c", KERNELS, way], env=environment))
        for way in ("few", "many")
    }
    assert 2 * found["few"] < found["many"]
