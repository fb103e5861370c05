"""Nothing depends on AVX-512: the same results, still vectorised, compiled for an AVX2 machine."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import json, sys
import numpy as np
from wmcore import Detector, Key, Watermark, SCHEMES
from wmcore.kernels.cpu import edit

rng = np.random.default_rng(1)
texts = [rng.integers(0, 500, size=m) for m in (1, 20, 70, 90)]
out = {}
for scheme in SCHEMES:
    watermark = Watermark.create(scheme, vocab_size=500, key_length=60, key=Key(bytes(32)))
    found = Detector(watermark).detect(texts, seed=2, resamples=99)
    out[scheme] = [[d.p_value, d.statistic, d.shift, d.hits] for d in found]
costs = np.zeros((3, 32), np.int32)
edit.edit_all(costs, 16, np.zeros(3, np.int64), 3, np.empty(64, np.int32), np.empty((1, 16), np.int32))
(code,) = edit.edit_all.inspect_asm().values()
out["code"] = {name: code.count(name) for name in ("zmm", "vpminsd", "ymm")}
print(json.dumps(out))
"""


def results(**environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="haswell is an x86-64 processor"
)
def test_avx2_gives_the_same_results_in_vector_code(tmp_path):
    here = results()
    features = "+avx,+avx2,+bmi,+bmi2,+fma,+lzcnt,+movbe,+popcnt,+sse4.1,+sse4.2,+ssse3"
    avx2 = results(
        NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path)
    )
    code = avx2.pop("code")
    here.pop("code")
    assert avx2 == here
    assert code["zmm"] == 0
    assert code["vpminsd"] >= 6  # three a cell of two halves of sixteen lanes
    assert code["ymm"] >= 50
    assert np.isfinite(here["exp"][0][0])
