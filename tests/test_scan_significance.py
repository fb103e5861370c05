"""p-values and q-values of a scan: bounds from theory, brute force and SciPy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import V, marked, ordinary, watermark

from wmcore import Detector, Key, Watermark
from wmcore.calibration import Calibration
from wmcore.detect import Detection
from wmcore.kernels.packing import pack
from wmcore.significance import seed_key

pytest.importorskip("pyarrow")

from wmcore.records import Document
from wmcore.scan import ScanSettings
from wmcore.scan.batch import Batch
from wmcore.scan.fdr import PValues, false_bound
from wmcore.scan.tail import _log_sums, log_bound
from wmcore.scan.two_stage import epsilon, two_stage
from wmcore.scan.windows import starts
from wmcore.scan.worker import Scanner

SCHEMES = ("exp", "exp-edit", "its", "its-edit")


def tiny(scheme, key):
    gap = 0.5 if scheme == "exp-edit" else None
    return Watermark.create(
        scheme, vocab_size=64, key_length=12, gap=gap, key=Key(key.to_bytes(32, "little"))
    )


@pytest.mark.parametrize("scheme", ["exp", "its-edit"])
@pytest.mark.parametrize("stop", [1, 3])
def test_two_stage_p_is_valid(scheme, stop):
    """P(p <= a) <= a over keys, for a on both sides of the pass: 4 standard errors of 2000 keys."""
    chosen = ScanSettings(
        first_resamples=31, first_stop=stop, resamples=199, stop_after=5, tokens_field="t"
    )
    rng = np.random.default_rng(0)
    text = rng.integers(64, size=10)
    keys = 2000
    p = np.array(
        [
            two_stage(Detector(tiny(scheme, k), threads=1), [text], chosen, seed=k)[0].p_value
            for k in range(keys)
        ]
    )
    for a in (0.005, 0.01, 0.02, stop / 32, stop / 31, 0.1, 0.2, 0.5, 0.9):
        assert (p <= a).mean() <= a + 4 * math.sqrt(a * (1 - a) / keys), a
    # Not merely valid: small p-values are not rarer than they should be.
    assert (p <= 0.1).mean() >= 0.05


def test_calibrated_first_pass_leaves_small_p_exact():
    mark = watermark()
    rng = np.random.default_rng(0)
    texts = [ordinary(rng, 40) for _ in range(300)] + [marked(mark, rng, 40, 0.5) for _ in range(5)]
    chosen = ScanSettings(resamples=499, tokens_field="t")
    null = Calibration.fit(mark, [20, 40], 500, tokens=texts, seed=1, threads=1)
    detector = Detector(mark, threads=1)
    fast = two_stage(detector, texts, chosen, seed=3, calibration=null)
    full = [d for d in fast if d.method not in ("calibrated", "bound")]
    assert 1 <= len(full) <= 40
    assert {d.method for d in fast} >= {"calibrated"}
    again = two_stage(detector, texts, chosen, seed=3)
    both = {
        (a.p_value, b.p_value) for a, b in zip(fast, again, strict=True) if a.method == b.method
    }
    assert both
    assert all(a == b for a, b in both)
    assert all(d.p_value > 1 / 32 for d in fast if d.method == "calibrated")
    assert all(d.p_value < 0.01 for d in fast[300:])


def test_p_of_windows_is_valid():
    """The least p of 4 overlapping windows, times 4, of 2000 keys: only one window gets the full test."""
    chosen = ScanSettings(resamples=199, stop_after=3, tokens_field="t")
    rng = np.random.default_rng(0)
    text = rng.integers(64, size=19)
    pieces = [text[s : s + 10] for s in (0, 3, 6, 9)]
    p = []
    for key in range(2000):
        found = two_stage(
            Detector(tiny("exp", key), threads=1), pieces, chosen, seed=key, document=[0] * 4
        )
        assert sum(d.method in ("sequential", "permutation") for d in found) <= 1
        p.append(min(1.0, 4 * min(d.p_value for d in found)))
    for a in (0.02, 0.05, 0.1, 4 / 32, 4 / 31, 0.3, 0.6):
        assert np.mean(np.array(p) <= a) <= a + 4 * math.sqrt(a * (1 - a) / len(p)), a


def test_a_result_does_not_depend_on_its_group():
    mark = watermark("exp-edit")
    rng = np.random.default_rng(1)
    texts = [ordinary(rng, int(m)) for m in rng.integers(5, 60, size=40)] + [marked(mark, rng, 50)]
    chosen = ScanSettings(resamples=199, tokens_field="t")
    detector = Detector(mark, threads=1)
    together = two_stage(detector, texts, chosen, seed=7)
    assert together == [two_stage(detector, [t], chosen, seed=7)[0] for t in texts]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bound_is_above_the_null(scheme):
    """G(x) >= P(phi <= x) at every x that 20,000 resamples show, to 4 standard errors."""
    mark = watermark(scheme, key_length=24)
    rng = np.random.default_rng(0)
    for length in (3, 16):
        text = ordinary(rng, length)
        detector = Detector(mark, threads=1)
        values = detector.engine.null_values(
            mark.problem, pack([text], None), 0, seed_key(5), 0, 20_000, 1
        )
        phi = np.sort((values - mark.problem.taken_off(length)) / mark.problem.scale)
        for rank in (1, 5, 50, 500, 5000):
            x = float(phi[rank - 1])
            share = np.searchsorted(phi, x, side="right") / len(phi)
            found = Detection(None, x, 0, 0, length, 0, 0, "cpu")
            error = 4 * math.sqrt(share / len(phi))
            assert math.exp(log_bound(mark, found)) >= share - error


@pytest.mark.parametrize(("its", "gap"), [(False, 0.0), (False, 0.3), (True, 0.4)])
def test_sum_over_alignments_is_complete(its, gap):
    """S(t) is the sum over every set of cells that an alignment can match, listed by brute force."""
    k = 4
    grid, log_sums = _log_sums(its, True, k, gap)
    t = float(grid[5])
    m = (2 / t) * (1 - math.exp(-t / 2)) if its else 1 / (1 - t)
    total = 0.0
    for r in range(k + 1):
        for _ in itertools.product(
            itertools.combinations(range(k), r), itertools.combinations(range(k), r)
        ):
            total += m**r * math.exp(-2 * t * gap * (k - r))
    assert log_sums[5] == pytest.approx(math.log(total), rel=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bound_decides_strong_watermarks(scheme):
    mark = watermark(scheme)
    rng = np.random.default_rng(2)
    chosen = ScanSettings(resamples=99, tokens_field="t")
    texts = [marked(mark, rng, 60, 1.0), ordinary(rng, 60)]
    strong, weak = two_stage(Detector(mark, threads=1), texts, chosen, seed=1)
    assert strong.method == "bound"
    assert strong.p_value < epsilon(chosen)
    assert weak.p_value > 1 / 100


def test_no_bound_where_none_is_proven():
    found = Detection(None, -1e6, 0, 0, 100, 0, 0, "cpu")
    assert log_bound(watermark(key_length=64), found) == 0.0  # a row would be met twice
    demo = Watermark.published("exp", seed=1, generator="mersenne", vocab_size=V)
    assert log_bound(demo, found) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(1, 50))
def test_q_values_are_those_of_scipy(ranks, piece):
    scipy_stats = pytest.importorskip("scipy.stats")
    p = np.array(ranks) / 40
    counted = PValues.count(p[i : i + piece] for i in range(0, len(p), piece))
    assert counted.total == len(p)
    for method in ("bh", "by"):
        q = counted.q_values(method)[np.searchsorted(counted.p, p)]
        expected = scipy_stats.false_discovery_control(p, method=method)
        np.testing.assert_allclose(q, expected, rtol=1e-12)


def test_counts_survive_merging(monkeypatch):
    rng = np.random.default_rng(0)
    parts = [rng.integers(1, 100, size=700_000) / 100 for _ in range(4)]
    counted = PValues.count(parts)
    assert counted.total == 2_800_000
    assert counted.below(0.5) == sum(int((p <= 0.5).sum()) for p in parts)
    assert counted.below(0.001) == 0
    assert PValues.count([]).total == 0
    assert PValues.count([]).q_values().size == 0


def test_bound_of_control_keys_holds():
    """Documents that share frequent tokens: 19 controls bound the false ones in 95 % of keys, to 2 standard errors."""
    rng = np.random.default_rng(0)
    texts = [ordinary(rng, 30) for _ in range(120)]
    packed = pack(texts, None)
    most = np.full(len(texts), 2**31 - 1, np.int32)
    phi = []
    for key in range(400):
        detector = Detector(watermark(key=1000 + key, key_length=32), threads=1)
        costs, source = detector.costs.costs(packed.distinct, detector.engine, 1)
        problem = detector.watermark.problem
        phi.append(detector.engine.observe(problem, packed, costs, source, most, 1)[0])
    phi = np.array(phi)
    ordered = np.sort(phi, axis=0)
    rank = [np.searchsorted(ordered[:, d], phi[:, d], side="right") for d in range(len(texts))]
    p = np.stack(rank, axis=1) / len(phi)
    # The corpus of one key is over-dispersed: this is why controls are needed.
    share = (p <= 0.05).mean(axis=1)
    assert share.var() > 1.3 * 0.05 * 0.95 / len(texts)
    counted = [PValues.count([row]) for row in p]
    held = [
        max(c.excess() for c in counted[i + 1 : i + 20]) >= counted[i].excess()
        for i in range(0, 400, 20)
    ]
    chosen = [rng.choice(400, 20, replace=False) for _ in range(400)]
    held += [
        false_bound([counted[j] for j in c[1:]], 120, 0.0) >= counted[c[0]].excess() for c in chosen
    ]
    # 400 keys give about 20 independent choices, so the error is that of 20.
    assert np.mean(held) >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / 20)
    # The mean of the controls is the expected number of false ones.
    assert np.mean(share) == pytest.approx(0.05, abs=0.005)


def test_key_and_controls_are_tested_alike():
    """Scans of unmarked documents under 300 keys: the key's counts exceed those of 4 controls in a fifth of them."""
    rng = np.random.default_rng(0)
    documents = [
        Document(i, "", tokens=rng.integers(8, size=int(m)))
        for i, m in enumerate(rng.integers(6, 25, size=25))
    ]
    keys, above, wide = 300, 0, 0
    for key in range(keys):
        chosen = ScanSettings(
            tokens_field="t", window=12, stride=6, resamples=199, controls=4, seed=key
        )
        rows = Scanner(tiny("exp", key), chosen, threads=1).rows(Batch(0, 0, documents))
        p = np.array([[row["p_value"], *row["controls"]] for row in rows])
        true, *controls = [PValues.count([column]) for column in p.T]
        above += true.excess() > max(c.excess() for c in controls)
        wide += true.below(0.2) > max(c.below(0.2) for c in controls)
    error = 4 * math.sqrt(0.2 * 0.8 / keys)
    assert 0.2 - error - 0.05 <= above / keys <= 0.2 + error
    assert wide / keys <= 0.2 + error


@pytest.mark.parametrize(
    ("length", "expected"),
    [(5, [0]), (64, [0]), (65, [0, 1]), (96, [0, 32]), (130, [0, 32, 64, 66])],
)
def test_windows_cover_the_document(length, expected):
    assert starts(length, 64, 32) == expected


def test_windows_leave_nothing_out():
    for length in range(65, 400):
        at = starts(length, 64, 48)
        assert at[-1] + 64 == length
        assert all(b - a <= 48 for a, b in itertools.pairwise(at))
