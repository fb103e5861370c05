"""How p is found: every plan gives valid p-values, by bounds from theory."""

import math
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
from scans import marked, ordinary, watermark

from wmcore import SCHEMES, Detector, Key, Watermark, WatermarkError, attacks
from wmcore.calibration import Calibration
from wmcore.plan import Columns, Plan, log_evalues, log_proven, run


def two_stage(resamples):
    """The plan of a scan."""
    return Plan(resamples, 3, first_resamples=31)


def results_of(detector, texts, plan, **options):
    """The results of `run`, a record each."""
    columns = run(plan, detector.subject, [np.asarray(t, np.int64) for t in texts], **options)
    names = [f.name for f in fields(Columns) if f.name != "p_error"]
    rows = zip(*(getattr(columns, name).tolist() for name in names), strict=True)
    return [SimpleNamespace(**dict(zip(names, row, strict=True))) for row in rows]


def tiny(scheme, key):
    gap = 0.5 if scheme == "exp-edit" else None
    return Watermark.create(
        scheme, vocab_size=64, key_length=12, gap=gap, key=Key(key.to_bytes(32, "little"))
    )


@pytest.mark.parametrize("scheme", ["exp", "its-edit"])
@pytest.mark.parametrize("stop", [1, 3])
def test_p_of_two_stages_is_valid(scheme, stop):
    """P(p <= a) <= a over keys, for a on both sides of the pass: 4 standard errors of 2000 keys."""
    chosen = Plan(first_resamples=31, first_stop=stop, resamples=199, stop_after=5)
    rng = np.random.default_rng(0)
    text = rng.integers(64, size=10)
    keys = 2000
    p = np.array(
        [
            results_of(Detector(tiny(scheme, k), threads=1), [text], chosen, seed=k)[0].p_value
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
    chosen = two_stage(499)
    null = Calibration.fit(mark, [20, 40], 500, tokens=texts, seed=1, threads=1)
    detector = Detector(mark, threads=1)
    fast = results_of(detector, texts, chosen, seed=3, calibration=null)
    full = [d for d in fast if d.method not in ("calibrated", "bound")]
    assert 1 <= len(full) <= 40
    assert {d.method for d in fast} >= {"calibrated"}
    again = results_of(detector, texts, chosen, seed=3)
    both = {
        (a.p_value, b.p_value) for a, b in zip(fast, again, strict=True) if a.method == b.method
    }
    assert both
    assert all(a == b for a, b in both)
    assert all(d.p_value > 1 / 32 for d in fast if d.method == "calibrated")
    assert all(d.p_value < 0.01 for d in fast[300:])


def test_p_of_windows_is_valid():
    """The least p of 4 overlapping windows, times 4, of 2000 keys: only one window gets the full test."""
    chosen = two_stage(199)
    rng = np.random.default_rng(0)
    text = rng.integers(64, size=19)
    pieces = [text[s : s + 10] for s in (0, 3, 6, 9)]
    p = []
    for key in range(2000):
        found = results_of(
            Detector(tiny("exp", key), threads=1), pieces, chosen, seed=key, documents=[0] * 4
        )
        assert sum(d.method in ("sequential", "permutation") for d in found) <= 1
        p.append(min(1.0, 4 * min(d.p_value for d in found)))
    for a in (0.02, 0.05, 0.1, 4 / 32, 4 / 31, 0.3, 0.6):
        assert np.mean(np.array(p) <= a) <= a + 4 * math.sqrt(a * (1 - a) / len(p)), a


def test_e_values_of_windows_are_averaged():
    """The proven p of a document is 2 / mean(E): less than w times the least 2 / E, and no other window has the sum."""
    mark = watermark("exp-edit", gap=0.0, key_length=256)
    rng = np.random.default_rng(4)
    text = attacks.damage(marked(mark, rng, 60, 0.35), 0.2, vocab_size=mark.vocab_size, seed=1)
    pieces = [text[:50], text[1:51], text[2:52], ordinary(rng, 60)]
    detector = Detector(mark, threads=1)
    plan = Plan(bound=True, resamples=99)
    alone = results_of(detector, pieces, plan, seed=1)
    together = results_of(detector, pieces, plan, seed=1, documents=[7, 7, 7, 7])
    e = np.exp([d.log_e for d in alone])
    assert [d.log_e for d in together] == [d.log_e for d in alone]
    best = int(e.argmax())
    assert together[best].method == "bound"
    assert together[best].p_value == pytest.approx(2 / e.sum(), rel=1e-9, abs=0)
    assert 4 * together[best].p_value < 0.9 * 4 * 2 / e.max()
    other = [d.p_value for i, d in enumerate(together) if i != best]
    assert other == [d.p_value for i, d in enumerate(alone) if i != best]
    # Documents in any order, each with its own sum.
    mixed = results_of(detector, pieces[:2] * 2, plan, seed=1, documents=[3, 1, 1, 3])
    sums = [e[0] + e[1]] * 2
    found = [min(d.p_value for d in (mixed[i], mixed[j])) for i, j in ((0, 3), (1, 2))]
    assert found == pytest.approx([2 / s for s in sums], rel=1e-9, abs=0)


def test_p_of_averaged_e_values_is_valid():
    """P(1 / mean(E) <= a) <= a at 1e-2 .. 1e-4: 4 standard errors of 20,000 keys, windows that overlap by half."""
    rng = np.random.default_rng(5)
    text = rng.integers(64, size=30)
    pieces = [text[s : s + 10] for s in (0, 5, 10, 15, 20)]
    keys = 20_000
    logs = np.empty(keys)
    for key in range(keys):
        subject = Detector(tiny("exp", key), threads=1).subject
        logs[key] = np.logaddexp.reduce(log_evalues(subject, pieces)) - math.log(5)
    for a in (1e-2, 1e-3, 1e-4):
        assert (logs >= -math.log(a)).mean() <= a + 4 * math.sqrt(a / keys), a
    assert (logs >= math.log(3)).mean() >= 1e-3  # large ones do occur


@pytest.mark.parametrize("scheme", ["exp", "exp-edit", "its", "its-edit"])
def test_proven_bound_is_valid(scheme):
    """P(G <= a) <= a at 1e-1 .. 1e-3, over 10,000 keys and texts: 4 standard errors; its with its etas."""
    rng = np.random.default_rng(6)
    keys = 10_000
    logs = np.empty(keys)
    for key in range(keys):
        detector = Detector(tiny(scheme, key), threads=1)
        text = rng.integers(64, size=6)
        engine, subject = detector.engine, detector.subject
        phi = engine.units(engine.fit(engine.pack([text]), subject.source).value)
        e = log_evalues(subject, [text]) if subject.has_evalues else np.array([-np.inf])
        logs[key] = log_proven(subject, [text], phi, e)[0]
    for a in (1e-1, 1e-2, 1e-3):
        assert (logs <= math.log(a)).mean() <= a + 4 * math.sqrt(a / keys), a
    if scheme in ("exp", "its"):
        assert (logs <= math.log(0.5)).mean() >= 1e-3  # small ones do occur


def test_a_result_does_not_depend_on_its_group():
    mark = watermark("exp-edit")
    rng = np.random.default_rng(1)
    texts = [ordinary(rng, int(m)) for m in rng.integers(5, 60, size=40)] + [marked(mark, rng, 50)]
    chosen = two_stage(199)
    detector = Detector(mark, threads=1)
    together = results_of(detector, texts, chosen, seed=7)
    assert together == [results_of(detector, [t], chosen, seed=7)[0] for t in texts]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bound_decides_strong_watermarks(scheme):
    mark = watermark(scheme)
    rng = np.random.default_rng(2)
    chosen = two_stage(99)
    texts = [marked(mark, rng, 60, 1.0), ordinary(rng, 60)]
    strong, weak = results_of(Detector(mark, threads=1), texts, chosen, seed=1)
    assert strong.method == "bound"
    assert strong.p_value < chosen.epsilon
    assert weak.p_value > 1 / 100


@pytest.mark.parametrize("scheme", ["exp", "its-edit"])
def test_p_of_the_default_plan_is_valid(scheme):
    """P(p <= a) <= a over keys: 4 standard errors of 2000 keys, below and above the least p of the resamples."""
    rng = np.random.default_rng(1)
    text = rng.integers(64, size=10)
    keys = 2000
    chosen = Plan(resamples=199)
    p = [
        results_of(Detector(tiny(scheme, k), threads=1), [text], chosen, seed=k)[0].p_value
        for k in range(keys)
    ]
    for a in (1e-4, 0.005, 0.0051, 0.01, 0.02, 0.1, 0.2, 0.5, 0.9):
        assert np.mean(np.array(p) <= a) <= a + 4 * math.sqrt(a * (1 - a) / keys), a
    assert np.mean(np.array(p) <= 0.1) >= 0.05


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_default_is_the_plain_test_or_a_bound_without_resamples(scheme):
    """The bound takes strong texts; every other p is that of the permutation test with this seed, plus epsilon."""
    mark = watermark(scheme)
    rng = np.random.default_rng(3)
    texts = [marked(mark, rng, 60, 1.0), ordinary(rng, 60), marked(mark, rng, 8, 0.3)]
    detector = Detector(mark)
    plan = Plan()
    default = detector.detect(texts, seed=5)
    plain = detector.detect(texts, resamples=plan.resamples, seed=5)
    assert (default[0].method, default[0].resamples) == ("bound", 0)
    assert default[0].p_value <= plan.epsilon < plain[0].p_value
    for a, b in zip(default[1:], plain[1:], strict=True):
        assert a.p_value == min(1.0, b.p_value + plan.epsilon)
        assert (a.hits, a.resamples, a.method) == (b.hits, b.resamples, b.method)
    for a, b in zip(default, plain, strict=True):
        assert (a.statistic, a.shift, a.block) == (b.statistic, b.shift, b.block)
    without = detector.detect(texts, plan=Plan(bound=False), seed=5)
    assert without == plain
    assert (1 + 0.01) / (plan.resamples + 1) < 0.001


def test_plans_that_cannot_be():
    for settings, message in [
        ({"resamples": 0}, "resamples is 0"),
        ({"stop_after": 0}, "stop_after is 0"),
        ({"resamples": 1.5}, "resamples is 1.5"),
        ({"first_resamples": 3, "first_stop": 4}, "first_stop is 4, more than first_resamples"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            Plan(**settings)
    assert Plan(np.uint8(250), np.int8(7)) == Plan(250, 7)
    assert type(Plan(np.uint8(250)).resamples) is int
    detector = Detector(watermark())
    null = Calibration.fit(watermark(), [1, 2], 9)
    for name, value in [("resamples", 9), ("stop_after", None), ("calibration", null)]:
        with pytest.raises(WatermarkError, match=f"{name} is given, but plan is given, too"):
            detector.detect([[1]], plan=Plan(), **{name: value})
    with pytest.raises(TypeError, match="plan is a str"):
        detector.detect([[1]], plan="permutation")
