"""Truncation: both paths and both orders against the plain twin in tests/naive.py, and by hand.

Where the mass before a token is top_p but for rounding, the token may stay or go. What is kept is the first so many
tokens in order of logit and id, and never fewer with a larger top_p or a smaller min_p. So with both moved
a little either way the twin gives bounds that hold for every row, and none has to be left out: TOP_P for a sum of 35
roundings of float32 (32 of a block's lane, 3 blocks) and for its total, MIN_P for those of x - top and of log(min_p).
"""

import math
from unittest import mock

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcore import truncate
from wmcore.errors import WatermarkError
from wmcore.truncate import JOINT, SEQUENTIAL, nucleus, penalised, truncated

TOP_P = 5e-6
MIN_P = 1e-6
PATHS = ["_by_kernel", "_by_torch"]
ORDERS = [SEQUENTIAL, JOINT]


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Both paths, on the CPU."""
    monkeypatch.setattr(truncate, "_by_kernel", getattr(truncate, request.param))


def parameters(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Tensors of as many rows, of numbers or lists."""
    wanted = [(temperature, torch.float32), (top_k, torch.int64), (top_p, torch.float32)]
    wanted.append((min_p, torch.float32))
    return [torch.tensor(value, dtype=kind).expand(rows) for value, kind in wanted]


def kept(p, order=SEQUENTIAL, **settings):
    """Ids that are left of one row with these probabilities."""
    logits = torch.tensor(p).log()[None]
    found = truncated(logits, *parameters(1, **settings), order=order)[0]
    return found.isfinite().nonzero().flatten().tolist()


def check(logits, found, settings, joint):
    """Each row that has a law, against the twin; settings: as of `parameters`."""
    scaled = logits.float() / settings[0][:, None]
    columns = [column.tolist() for column in settings[1:]]
    for x, row, k, top_p, min_p in zip(scaled, found, *columns, strict=True):
        if not x.amax().isfinite():
            assert row.equal(x) or (row.isnan() == x.isnan()).all()
            continue
        left = set(row.isfinite().nonzero().flatten().tolist())
        assert torch.equal(row[row.isfinite()], x[row.isfinite()])
        assert (row[~row.isfinite()] == -torch.inf).all()
        possible = set(x.isfinite().nonzero().flatten().tolist())
        values = x.tolist()
        least = 1.0 if top_p >= 1 else top_p - TOP_P
        fewest = naive.truncated(values, k, least, min_p * (1 + MIN_P), joint)
        most = naive.truncated(values, k, top_p + TOP_P, min_p * (1 - MIN_P), joint)
        assert fewest & possible <= left <= most & possible
        in_order = sorted(possible, key=lambda token: (-values[token], token))
        assert left == set(in_order[: len(left)])


@st.composite
def batches(draw):
    """(logits, settings): some rows of one size, with ties, holes, and parameters of their own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from([1, 2, 15, 16, 17, 33, 511, 512, 513, 1100]))
    rows = draw(st.integers(1, 4))
    scale = draw(st.sampled_from([0.0, 1e-3, 0.1, 1.0, 3.0, 30.0]))
    logits = rng.normal(draw(st.sampled_from([0, 20, -20])), scale, (rows, size))
    if draw(st.booleans()):
        logits = np.round(logits * 2 / max(scale, 1e-9)) * scale / 2  # few values: ties
    logits[rng.random(logits.shape) < draw(st.sampled_from([0, 0, 0.3, 0.99]))] = -np.inf
    if draw(st.booleans()):
        logits[rng.integers(rows), rng.integers(size)] = draw(
            st.sampled_from([np.nan, np.inf, -3.4e38])
        )

    def each(values):
        return [draw(st.sampled_from(values)) for _ in range(rows)]

    return torch.from_numpy(logits.astype(np.float32)), parameters(
        rows,
        temperature=each([1e-6, 0.3, 0.7, 1.0, 1.7, 1e6]),
        top_k=each([-1, 0, 1, 2, 3, 16, 17, 50, size - 1, size, size + 1, 2**30]),
        top_p=each([1e-9, 0.1, 0.5, 0.9, 0.999999, 1.0]),
        min_p=each([0.0, 0.0, 0.01, 0.1, 0.5, 1.0]),
    )


@settings(max_examples=250, deadline=None)
@given(batches(), st.booleans(), st.sampled_from(PATHS), st.sampled_from([1, 4, 1024]))
def test_truncation_is_its_definition(batch, joint, name, prefix):
    logits, parts = batch
    limits = truncate._Limits(*parts[1:])
    with mock.patch.object(truncate, "PREFIX", prefix):
        found = getattr(truncate, name)(logits, parts[0], limits, joint)
    assert found.dtype == torch.float32
    assert found.shape == logits.shape
    check(logits, found, parts, joint)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spread", [0.1, 1, 3, "ties", "sorted", "equal", "masked"])
def test_rows_of_a_real_size(path, order, spread):
    size = 49152
    rng = np.random.default_rng(5)
    logits = rng.normal(0, spread if isinstance(spread, int | float) else 1, (4, size))
    if spread == "sorted":
        logits = np.sort(logits)[:, ::-1].copy()
    elif spread == "equal":
        logits[:] = 7
    elif spread == "masked":
        logits[rng.random(logits.shape) < 0.999] = -np.inf
    logits = torch.from_numpy(logits).float()
    if spread == "ties":
        logits = logits.bfloat16().float()
    parts = parameters(
        4, [1.0, 0.7, 1.0, 0.7], [0, 50, 3000, 0], [0.9, 1.0, 0.9, 0.5], [0, 0, 0, 0.1]
    )
    with mock.patch(f"{__name__}.TOP_P", 2e-5):  # 96 blocks and 32 to a lane: 128 roundings, twice
        check(logits, truncated(logits, *parts, order=order), parts, order == JOINT)


def test_truncation_by_hand(path):
    p = [0.5, 0.25, 0.15, 0.1]
    assert kept(p) == [0, 1, 2, 3]
    assert kept(p, top_k=2) == [0, 1]
    assert kept(p, top_k=9) == [0, 1, 2, 3]
    assert kept(p, top_p=0.6) == [0, 1]
    assert kept(p, top_p=1e-9) == [0]
    assert kept(p, top_p=0.0) == [0]
    assert kept(p, min_p=0.25) == [0, 1, 2]
    assert kept(p, min_p=0.25, temperature=0.5) == [0, 1]
    assert kept(p, top_k=3, top_p=0.8) == [0, 1]


def test_orders_differ(path):
    p = [0.5, 0.25, 0.15, 0.1]
    # Of the three likeliest, the first two hold 0.83; of all, 0.75.
    assert kept(p, top_k=3, top_p=0.8) == [0, 1]
    assert kept(p, JOINT, top_k=3, top_p=0.8) == [0, 1, 2]
    # Of the two that min-p leaves, the first holds 2/3; of all, 1/2.
    assert kept(p, min_p=0.4, top_p=0.6) == [0]
    assert kept(p, JOINT, min_p=0.4, top_p=0.6) == [0, 1]
    # The mass before the third of four alike is 0.5 exactly.
    assert kept([0.25] * 4, top_p=0.5) == [0, 1]
    assert kept([0.25] * 4, JOINT, top_p=0.5) == [0, 1, 2]
    # Ties with the k-th.
    assert kept([0.1, 0.4, 0.1, 0.3, 0.1], top_k=3) == [0, 1, 2, 3, 4]
    assert kept([0.1, 0.4, 0.1, 0.3, 0.1], JOINT, top_k=3) == [0, 1, 3]
    assert kept([0.1, 0.4, 0.1, 0.3, 0.1], top_p=0.75) == [0, 1, 3]


@pytest.mark.parametrize("k", [16, 17, 18, 25, 32, 33])
def test_top_k_between_a_block_and_the_next(path, k):
    """The kernel takes sixteen maxima of each 512 tokens; here one of the second sixteen is a token's."""
    logits = torch.randn(1, 513, generator=torch.Generator().manual_seed(k))
    parts = parameters(1, top_k=k)
    found = truncated(logits, *parts)
    assert found.isfinite().sum() == k
    check(logits, found, parts, joint=False)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_without_a_law_stay_so(path, order):
    logits = torch.randn(4, 600, generator=torch.Generator().manual_seed(1))
    logits[0, 599] = torch.nan
    logits[1] = -torch.inf
    logits[2, 0] = torch.inf
    for limits in ({}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}):
        found = truncated(logits, *parameters(4, **limits), order=order)
        assert found.amax(dim=-1).isfinite().tolist() == [False, False, False, True]
        assert torch.equal(found[:3].nan_to_num(), logits[:3].nan_to_num())


@pytest.mark.parametrize("order", ORDERS)
def test_rows_are_apart(path, order):
    """And other types and layouts are the same numbers."""
    generator = torch.Generator().manual_seed(2)
    wide = torch.randn(7, 2000, generator=generator).bfloat16()
    parts = parameters(7, 0.8, [0, 5, 20, 0, 1, 0, 2**30], 0.9, [0.0, 0.1, 0.0, 0.0, 0.2, 0.0, 0.0])
    view = wide[:, 1::2]
    found = truncated(view, *parts, order=order)
    same = truncated(view.float().clone(), *parts, order=order)
    assert torch.equal(found, same)
    short = [parts[0], parts[1].int(), parts[2].double(), parts[3]]
    assert torch.equal(found, truncated(view, *short, order=order))
    for r in range(7):
        alone = truncated(view[r : r + 1], *(part[r : r + 1] for part in parts), order=order)
        assert torch.equal(alone[0], found[r])
    assert truncated(view[:0], *(part[:0] for part in parts), order=order).shape == (0, 1000)
    assert torch.equal(wide[:, 1::2], view)


def test_logits_are_left_as_they_are(path):
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(3))
    before = logits.clone()
    truncated(logits, *parameters(3, top_k=5, top_p=0.5, min_p=0.1))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("top_p", [0.3, 1.0])
def test_a_nucleus_is_of_all_rows(path, top_p):
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(4))
    parts = parameters(3, temperature=0.7, top_p=top_p)
    check(logits, nucleus(logits, 0.7, top_p), parts, joint=False)


def test_an_unknown_order_is_refused():
    message = "order is 'random', but must be 'sequential' or 'joint'"
    with pytest.raises(WatermarkError, match=message):
        truncated(torch.zeros(1, 4), *parameters(1), order="random")


def test_penalties_by_hand():
    row = penalised(
        torch.tensor([2.0, -2.0, 1.0]),
        [1, 9],
        [0, 0, -1],
        repetition=2.0,
        frequency=0.1,
        presence=0.5,
    )
    assert row.tolist() == pytest.approx([1.0 - 0.2 - 0.5, -4.0, 1.0])


def test_the_twin_by_hand():
    x = [math.log(p) for p in (0.15, 0.5, 0.25, 0.1)]
    assert naive.truncated(x, 0, 1.0, 0.0, False) == {0, 1, 2, 3}
    assert naive.truncated(x, 3, 0.8, 0.0, False) == {1, 2}
    assert naive.truncated(x, 3, 0.8, 0.0, True) == {0, 1, 2}
    assert naive.truncated(x, 0, 1.0, 0.45, True) == {1, 2}
