"""The float steps of the CUDA kernels, number by number: the integers and floats of the CPU kernels."""

import ctypes

import numpy as np
import pytest
from cuda_shim.device import library
from matrices import words_to_costs
from test_sample import gumbel_numbers, weight_row

EXTREME = [0, 1, 2, 3, 2**23, 2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


def words():
    rng = np.random.default_rng(0)
    near_one = 2**32 - 1 - np.unique(np.geomspace(1, 2**31, 20_000).astype(np.int64))
    near_zero = np.unique(np.geomspace(1, 2**31, 20_000).astype(np.int64))
    found = np.concatenate([EXTREME, near_one, near_zero, rng.integers(0, 2**32, 500_000)])
    return found[: found.size // 16 * 16].astype(np.uint32)


def test_costs_and_gumbel_numbers():
    each = words()
    mine, gumbels = np.empty(each.size, np.int32), np.empty(each.size, np.float32)
    library().each_word(
        address(each), ctypes.c_longlong(each.size), address(mine), address(gumbels)
    )
    theirs = np.empty(each.size, np.int32)
    words_to_costs(each.view(np.int32), theirs)
    assert (mine == theirs).all()
    assert (gumbels.view(np.int32) == gumbel_numbers(each).view(np.int32)).all()


def test_weights():
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [[0.0, -0.0, -1e-30, -22, -30, -31, -1e30, -np.inf, np.nan], -rng.random(200_000) * 40]
    )
    x = x.astype(np.float32)
    mine = np.empty(x.size, np.int32)
    library().each_weight(address(x), ctypes.c_longlong(x.size), address(mine))
    weights, _ = weight_row(x, np.float32(1))  # the greatest is 0: the differences are x itself
    assert (mine == weights).all()


@pytest.mark.slow
def test_the_least_cost_of_every_high_half_has_all_low_bits_set():
    """All 2**32 words: what the int16 bounds of resampled keys rest on; the kernel leaves room for 1."""
    assert library().greatest_gap() == 0
