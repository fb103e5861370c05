"""p-values and q-values of a scan: bounds from theory, brute force and SciPy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import ordinary, watermark

from wmcore import Detector, Key, Watermark

pytest.importorskip("pyarrow")

from wmcore.plan import log_evalues
from wmcore.records import Document
from wmcore.scan import ScanSettings
from wmcore.scan.batch import Batch
from wmcore.scan.fdr import PValues, false_bound, one_over
from wmcore.scan.worker import Scanner
from wmcore.windows import starts


def tiny(scheme, key):
    gap = 0.5 if scheme == "exp-edit" else None
    return Watermark.create(
        scheme, vocab_size=64, key_length=12, gap=gap, key=Key(key.to_bytes(32, "little"))
    )


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


def ebh(e, level):
    """The documents that e-BH calls, from its definition: E >= N / (level k) for the largest k that has k of them."""
    n = len(e)
    most = max((k for k in range(1, n + 1) if np.sum(e >= n / (level * k)) >= k), default=0)
    return e >= n / (level * most) if most else np.zeros(n, bool)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-3, 40), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.1, 0.01, 1e-5]),
)
def test_q_values_of_e_values_are_those_of_the_definition(logs, level):
    """q <= level calls what e-BH calls at that level; E = 0 for -3, which stands for one that was not made."""
    log_e = np.where(np.array(logs) == -3, np.nan, np.array(logs) / 2)
    e = np.nan_to_num(np.exp(log_e), nan=0.0)
    counted = PValues.count([one_over(log_e)])
    q = counted.q_values("ebh")[np.searchsorted(counted.p, one_over(log_e))]
    for a in (level, 1.0000001 * level):
        near = np.abs(q / a - 1) < 1e-9  # where rounding decides
        assert ((q <= a) == ebh(e, a))[~near].all()
    by_hand = [
        min([1.0, *(len(e) / (k * x) for k, x in enumerate(sorted(e)[::-1], 1) if 0 < x <= mine)])
        for mine in e.tolist()
    ]
    assert q == pytest.approx(by_hand)


def test_e_values_without_end_are_cut_on_the_safe_side():
    assert one_over(np.array([1e6, 690.0])).tolist() == [math.exp(-690.0)] * 2
    assert one_over(np.array([np.nan, -5.0, -np.inf, 0.0])).tolist() == [1.0] * 4


def test_ebh_holds_where_documents_depend():
    """All 50 false E are large together, in a tenth of 20,000 times: the worst case, just within the level of 0.1."""
    rng = np.random.default_rng(0)
    level, times = 0.1, 20_000
    shares = []
    for _ in range(times):
        log_e = np.concatenate(
            [np.full(50, math.log(10.001) if rng.random() < 1 / 10.001 else np.nan), [9.0] * 10]
        )
        counted = PValues.count([one_over(log_e)])
        called = counted.q_values("ebh")[np.searchsorted(counted.p, one_over(log_e))] <= level
        assert called[50:].all()
        shares.append(called[:50].sum() / called.sum())
    expected = 50 / 60 / 10.001
    error = 4 * 50 / 60 * math.sqrt(0.09 / times)
    assert expected + error < level
    assert abs(np.mean(shares) - expected) <= error


def test_ebh_of_texts_under_one_key():
    """Unmarked documents that share frequent tokens: P(any is called at 0.1) <= 0.1 over 1,000 keys."""
    rng = np.random.default_rng(1)
    documents = [ordinary(rng, 24) for _ in range(40)]
    called = 0
    for key in range(1000):
        subject = Detector(watermark(key=5000 + key, key_length=32), threads=1).subject
        log_e = log_evalues(subject, documents)
        counted = PValues.count([one_over(log_e)])
        called += counted.q_values("ebh").min() <= 0.1
    assert called <= 100 + 4 * math.sqrt(90)


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
    phi = []
    for key in range(400):
        detector = Detector(watermark(key=1000 + key, key_length=32), threads=1)
        engine = detector.engine
        phi.append(engine.fit(engine.pack(texts), detector.costs).value)
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
