"""One text, one answer: the default seed follows from the key, and nothing else changes p."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from wmcore import Detector, Key, PublishedKey, Watermark
from wmcore.calibration import Calibration
from wmcore.identify import identify
from wmcore.locate import locate
from wmcore.plan import Plan
from wmcore.prefix import prefix_curve
from wmcore.verdict import verdicts

V, N = 60, 16
SCRIPT = """
import numpy as np
from wmcore import Detector, Key, Watermark
mark = Watermark.create("exp", vocab_size=60, key_length=16, key=Key(b"s" * 32))
texts = np.random.default_rng(0).integers(60, size=(4, 30))
print([d.p_value for d in Detector(mark).detect(texts)])
"""


def mark(scheme="exp", key=b"s" * 32):
    return Watermark.create(scheme, vocab_size=V, key_length=N, key=Key(key))


def test_p_is_the_same_in_every_process_batch_and_order():
    texts = list(np.random.default_rng(0).integers(V, size=(4, 30)))
    detector = Detector(mark(), threads=1)
    whole = detector.detect(texts)
    assert len({d.resamples for d in whole}) > 1
    assert detector.detect(texts[::-1]) == whole[::-1]
    assert [Detector(mark()).detect([text])[0] for text in texts] == whole
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str([d.p_value for d in whole])


def test_everything_with_a_seed_has_the_same_default():
    text = np.random.default_rng(1).integers(V, size=40)
    watermark = mark()
    detector, seed = Detector(watermark, threads=1), watermark.key.default_seed
    plan = Plan(999, bound=False)
    assert detector.detect([text], plan=plan) == detector.detect([text], plan=plan, seed=seed)
    fit, given = (
        Calibration.fit(watermark, [20], 99, threads=1, **s) for s in ({}, {"seed": seed})
    )
    assert (fit.statistics == given.statistics).all()
    others = [watermark, mark(key=b"t" * 32)]
    found = identify([text], others, resamples=999)
    assert found == identify([text], others, resamples=999, seed=seed)
    curve, again = (prefix_curve(detector, text, resamples=99, **s) for s in ({}, {"seed": seed}))
    assert (curve.p_value == again.p_value).all()
    spans = [locate(detector, text, level=1, resamples=99, **s) for s in ({}, {"seed": seed})]
    assert spans[0] == spans[1]
    assert spans[0]
    (p,) = (d.p_value for d in detector.detect([text], plan=Plan(1999)))
    assert verdicts(detector, [text], level=0.1, least_distinct=1)[0].found == (p <= 0.1)


def test_the_default_seed_tells_nothing_and_differs_from_key_to_key():
    keys = [Key(bytes([i]) * 32) for i in range(20)]
    keys += [PublishedKey(i, g) for i in range(20) for g in ("torch", "mersenne")]
    seeds = {key.default_seed for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert keys[0].default_seed.to_bytes(8, "little") not in keys[0].salt


@pytest.mark.parametrize("scheme", ["exp", "exp-edit", "its", "exp-free", "its-local"])
def test_p_of_the_default_seed_is_uniform_over_keys(scheme):
    """Of 600 keys, one text: P(p <= a) <= a. The binomial bounds fail by chance once in 1e5 such tests."""
    text = np.random.default_rng(2).integers(V, size=20)
    count = 600
    p = np.array(
        [
            Detector(mark(scheme, i.to_bytes(32, "big")), threads=1)
            .detect([text], resamples=99, stop_after=None)[0]
            .p_value
            for i in range(count)
        ]
    )
    for level in (0.01, 0.05, 0.1, 0.3, 0.7):
        assert (p <= level).sum() <= stats.binom.isf(2e-6, count, level), level
    # Nor is it idle: costs are integers, and the chance of a tie is small.
    assert (p <= 0.5).sum() >= stats.binom.isf(1 - 2e-6, count, 0.45)
