"""Tuning for CPUs: unbiased, temporary fast dropout; reused memory; a limited oneDNN cache."""

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
def test_values_and_gradients_are_zero_or_scaled(dtype, shape, p, seed):
    torch.manual_seed(seed)
    values = (torch.rand(shape, dtype=torch.float64) + 1).to(dtype).requires_grad_()
    output = dropout(values, p)
    assert (output.shape, output.dtype) == (values.shape, dtype)
    scaled = values.double() / (1 - p)
    exact = 1e-2 if dtype == torch.bfloat16 else 1e-3
    mask = output != 0
    torch.testing.assert_close(output.double()[mask], scaled[mask], rtol=exact, atol=0)
    output.sum().backward()
    torch.testing.assert_close(values.grad * values, output, rtol=exact, atol=0)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_values_are_dropped_independently_at_the_rate(p):
    """Counts of rows, columns and neighbours follow the binomial distribution."""
    torch.manual_seed(0)
    mask = (dropout(torch.ones(1000, 403), p) != 0).double()
    deviation = math.sqrt(p * (1 - p))
    assert abs(mask.mean() - (1 - p)) < 4 * deviation / math.sqrt(mask.numel())
    for axis, count in ((0, 1000), (1, 403)):
        standard = (mask.mean(axis) - (1 - p)) / (deviation / math.sqrt(count))
        assert 0.85 < standard.std() < 1.15
    flat = (mask.flatten() - (1 - p)) / deviation
    for distance in (1, 2, 3, 4, 403):  # four values share a word
        correlation = (flat[distance:] * flat[:-distance]).mean()
        assert abs(correlation) < 4 / math.sqrt(len(flat))


def test_keeps_the_mean():
    torch.manual_seed(0)
    values = torch.rand(400_000) + 1
    error = (dropout(values, 0.3) - values).mean() / values.mean()
    assert abs(error) < 4 * math.sqrt(0.3 / 0.7) / math.sqrt(400_000)


def test_a_seed_determines_the_result():
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(dropout(torch.ones(1000), 0.5))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.3, False), (1.0, True)])
def test_deterministic_cases_equal_pytorch(p, training):
    values = torch.rand(5, 3)
    torch.testing.assert_close(dropout(values, p, training), LIBRARY(values, p, training))


def test_fast_dropout_replaces_the_function_inside_the_block():
    layer, values = nn.Dropout(0.5), torch.ones(64)
    expected, results_of_layer = [], []
    for function, results in ((dropout, expected), (layer, results_of_layer)):
        torch.manual_seed(3)
        with fast_dropout():
            results.append(function(values))
    assert torch.equal(expected[0], results_of_layer[0])
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
def test_freed_memory_is_reused():
    """Count the pages that the system clears for 160 MB after 160 MB were freed."""
    page_faults = {
        way: int(subprocess.check_output([sys.executable, "-c", MEMORY, way]))
        for way in ("kept", "handed back")
    }
    assert 10 * page_faults["kept"] < page_faults["handed back"]


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
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
@pytest.mark.full
def test_kernel_cache_is_limited():
    # Temporary tensors must not count.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)  # other tests may have set it
    growth = {
        way: int(subprocess.check_output([sys.executable, "-c", KERNELS, way], env=environment))
        for way in ("few", "many")
    }
    assert 2 * growth["few"] < growth["many"]
