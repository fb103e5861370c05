"""Truncation of 16 rows of 49,152 logits on one core, beside a sort of each row (`make bench`).

Rows: 0.1 has nearly as much entropy as there can be; of 3, some 100 tokens hold 0.9 at T = 0.7, and 2,000 at T = 1.
"""

import time

import numpy as np
import pytest

from wmcore.kernels.cpu import truncate

torch = pytest.importorskip("torch")

ROWS, SIZE = 16, 49152
LIMITS = {"top-p": (0, 0.9), "top-k": (50, 1.0), "both": (50, 0.9)}


def by_sorting(logits, temperature, top_k, top_p):
    """The plain way: each row sorted whole."""
    x = logits / temperature[:, None]
    ordered, order = x.sort(dim=-1, descending=True, stable=True)
    k = torch.where(top_k > 0, top_k, SIZE)
    kth = ordered.gather(1, k[:, None] - 1)
    p = ordered.masked_fill(ordered < kth, -torch.inf).softmax(dim=-1)
    gone = (p.cumsum(dim=-1) - p >= top_p[:, None]) & (top_p < 1)[:, None] | (ordered < kth)
    gone[:, 0] = False
    return torch.empty_like(x).scatter_(1, order, ordered.masked_fill(gone, -torch.inf))


@pytest.mark.parametrize("spread", [0.1, 1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("limits", LIMITS)
def test_truncate_16_rows(benchmark, limits, temperature, spread):
    torch.set_num_threads(1)
    k, p = LIMITS[limits]
    logits = np.random.default_rng(0).normal(0, spread, (ROWS, SIZE)).astype(np.float32)
    columns = [
        np.full(ROWS, value, kind)
        for value, kind in ((temperature, np.float32), (k, np.int64), (p, np.float32))
    ]
    none, out = np.zeros(ROWS, np.float32), np.empty_like(logits)
    tensors = [torch.from_numpy(one) for one in (logits, *columns)]
    truncate.truncate(logits, *columns, none, False, out)
    expected = by_sorting(*tensors).numpy()
    assert (out != expected).sum() <= ROWS  # a token whose mass before it is top_p but for rounding
    sorting, ours = [], []  # in turn, and in time of the processor, as others may run
    for _ in range(5):
        start = time.process_time()
        by_sorting(*tensors)
        middle = time.process_time()
        for _ in range(10):
            truncate.truncate(logits, *columns, none, False, out)
        sorting.append(middle - start)
        ours.append((time.process_time() - middle) / 10)
    benchmark(truncate.truncate, logits, *columns, none, False, out)
    benchmark.extra_info["us_per_row"] = round(1e6 * benchmark.stats.stats.median / ROWS, 1)
    benchmark.extra_info["times_sorting"] = round(float(np.median(sorting) / np.median(ours)), 1)
