"""Token costs: integers within the rounding of the fixed point, the same at every way to compute them."""

import math

import naive
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import words_to_costs

from wmcore.kernels.constants import EXP_COST_MIN, EXP_SCALE
from wmcore.kernels.cpu import costs as kernel

RNG = np.random.default_rng(20)
SECRET = RNG.integers(0, 2**32, size=8, dtype=np.uint64).astype(np.uint32)


def exp_costs(words):
    words = np.asarray(words, np.uint32)
    padded = np.zeros((len(words) + 15) // 16 * 16, np.uint32)
    padded[: len(words)] = words
    out = np.empty(padded.size, np.int32)
    words_to_costs(padded, out)
    return out[: len(words)]


def test_exp_cost_is_the_rounded_logarithm():
    edges = [b + d for b in [1 << e for e in range(32)] + [0xFFFFFFFF] for d in (-1, 0, 1)]
    words = [w for w in edges if 0 <= w < 2**32]
    words += [0xFFFFFFFF - w for w in words] + RNG.integers(0, 2**32, size=100_000).tolist()
    exact = np.array([EXP_SCALE * naive.exp_cost_nats(w) for w in words])
    # Half a unit for rounding to an integer; 0.02 for the float32 polynomial (0.006) and its rounding.
    assert np.abs(exp_costs(words) - exact).max() <= 0.52


def test_exp_cost_ends():
    assert exp_costs([0]).tolist() == [0]
    assert exp_costs([0xFFFFFFFF]).tolist() == [EXP_COST_MIN]
    assert round(EXP_SCALE * math.log(2.0**-33)) == EXP_COST_MIN


def test_exp_cost_falls_as_the_word_grows():
    # Around every change of exponent, and over the whole range in steps.
    near = [np.arange(max((1 << e) - 500, 0), min((1 << e) + 500, 2**32)) for e in range(33)]
    for words in [*near, np.arange(0, 2**32, 9973)]:
        assert (np.diff(exp_costs(words.astype(np.uint64))) <= 0).all()


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 1023), min_size=1, max_size=5),
    n=st.sampled_from([1, 15, 16, 17, 40]),
)
def test_key_costs_equal_the_twin(tokens, n):
    out = np.empty((len(tokens), n + 16), np.int32)
    kernel.exp_costs(SECRET, np.array(tokens), n, out)
    words = [[naive.exp_key_word(SECRET, 1, j, v) for j in range(n)] for v in tokens]
    expected = [exp_costs(row) for row in words]
    assert (out[:, :n] == expected).all()


def test_table_equals_single_tokens():
    n = 48
    table = np.empty((768, n), np.int32)
    kernel.exp_table(SECRET, 0, 512, table)
    kernel.exp_table(SECRET, 512, 768, table)
    tokens = np.arange(768)
    out = np.empty((768, n + 16), np.int32)
    kernel.exp_costs(SECRET, tokens, n, out)
    assert (table == out[:, :n]).all()


def test_wrap_repeats_rows():
    for n in (1, 5, 16, 20):
        out = np.zeros((3, n + 16), np.int32)
        out[:, :n] = RNG.integers(-9, 9, size=(3, n))
        kernel.wrap(n, out)
        assert (out == out[:, np.arange(n + 16) % n]).all()
