"""Making numbers: ChaCha words, token costs, resampled keys, sampled tokens (`make bench`)."""

import numpy as np
import pytest
from numba import njit

from wmcore.kernels.cpu import chacha, costs, resample, sample

SECRET = np.arange(8, dtype=np.uint32)
N, U = 256, 130


def per_number(benchmark, numbers: int) -> None:
    benchmark.extra_info["ns_per_number"] = round(1e9 * benchmark.stats.stats.median / numbers, 3)


def test_chacha8_words(benchmark):
    out = np.empty((16, 4096), np.uint32)
    benchmark(chacha.keystream, SECRET, 0, 1, 0, 8, out)
    per_number(benchmark, out.size)


def test_exp_table(benchmark):
    out = np.empty((49152, N), np.int32)
    benchmark.pedantic(costs.exp_table, (SECRET, 0, 49152, out), rounds=15, warmup_rounds=2)
    per_number(benchmark, out.size)


def test_exp_costs_of_a_text(benchmark):
    tokens = np.random.default_rng(0).integers(0, 49152, size=U)
    out = np.empty((U, N + 16), np.int32)
    benchmark(costs.exp_costs, SECRET, tokens, N, out)
    per_number(benchmark, U * N)


def test_resampled_exp_bounds_int16(benchmark):
    @njit(nogil=True)
    def run(out):
        resample.exp_bounds(SECRET, 3, U, N, resample.exp_bound_terms(6, 0), out)

    out = np.empty(U * N * 32, np.int16)
    benchmark(run, out)
    per_number(benchmark, out.size)


def test_resampled_exp_costs_int32(benchmark):
    both = np.empty((2, U, N + 64), np.int32)
    benchmark(resample.exp_pair, SECRET, 3, U, N, 0, both[0], both[1])
    per_number(benchmark, 2 * U * N)


@pytest.mark.parametrize("scheme", ["exp", "its", "torch"])
def test_draw_16_tokens(benchmark, scheme):
    logits = np.random.default_rng(0).normal(0, 3, size=(16, 49152)).astype(np.float32)
    out = np.empty(16, np.int64)
    if scheme == "exp":
        benchmark(sample.exp_sample, logits, np.float32(1), SECRET, 1, np.arange(16), out)
    elif scheme == "its":
        order = np.random.default_rng(1).permutation(49152).astype(np.int32)
        words = np.arange(16, dtype=np.uint32) << 28
        benchmark(sample.its_sample, logits, np.float32(1), order, words, out)
    else:
        torch = pytest.importorskip("torch")
        torch.set_num_threads(1)
        tensor = torch.from_numpy(logits)
        benchmark(lambda: torch.multinomial(tensor.softmax(-1), 1))
    per_number(benchmark, logits.size)
