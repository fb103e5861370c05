"""Many keys, prefixes, threads and the first call: results/features.json.

NEWS=news.jsonl python benchmarks/features.py
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import scaling
from machine import machine
from texts import VOCAB, load, published, secret

from wmcore import Detector, Key, Watermark
from wmcore.identify import identify
from wmcore.kernels.cpu.threads import available
from wmcore.prefix import prefix_curve

RESULTS = Path(__file__).parent / "results"
FIRST_CALL = """
import time
start = time.perf_counter()
import numpy as np
from wmcore import Detector, Watermark
Detector(Watermark.create("exp-edit", vocab_size=49152)).detect([np.arange(200)])
print(time.perf_counter() - start)
"""


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def many_keys() -> dict:
    """Which of 1,000 tenants wrote a text, T = 99,999, against the test of that tenant's key alone."""
    root = Key(bytes(32))
    keys = [
        Watermark.create("exp-edit", vocab_size=VOCAB, key=root.derive(str(i))) for i in range(1000)
    ]
    text = scaling.text(Detector(keys[500], threads=1), 200, True, 1)
    options = {"resamples": 99_999, "seed": 1, "threads": 1}
    (found,) = identify([text], keys, **options)
    assert (found.index, found.p_value) == (500, 0.01)
    times: dict[str, list[float]] = {"thousand_keys_s": [], "its_key_alone_s": []}
    for _ in range(3):
        times["thousand_keys_s"].append(seconds(lambda: identify([text], keys, **options)))
        times["its_key_alone_s"].append(seconds(lambda: identify([text], keys[500:501], **options)))
    return {name: median(t) for name, t in times.items()}


def prefixes(text: np.ndarray) -> dict:
    """All 200 prefixes in one pass against 200 tests, T = 999."""
    detector = Detector(published("exp-edit"), threads=1)
    prefix_curve(detector, text[:4], resamples=2)
    together = median(
        seconds(lambda: prefix_curve(detector, text, resamples=999, seed=1)) for _ in range(3)
    )
    parts = [text[: i + 1] for i in range(len(text))]
    alone = seconds(lambda: detector.detect(parts, resamples=999, stop_after=None, seed=1))
    curve = prefix_curve(detector, text, resamples=999, seed=1)
    return {
        "curve_s": together,
        "separate_tests_in_a_batch_s": alone,
        "tokens_until_0.01": curve.tokens_until(0.01),
    }


def threads(texts: dict[str, list]) -> dict:
    """Time on one thread over time on all cores, in turn."""
    result: dict = {"cores": available()}
    for name, watermark, kind, options in (
        ("64 watermarked, T = 4,999", published("exp-edit"), "exp", {"stop_after": None}),
        ("1 watermarked, T = 4,999", published("exp-edit"), "exp", {"stop_after": None}),
        ("64 real, stopped early", secret("exp-edit"), "real", {}),
    ):
        batch = texts[kind][:1] if name.startswith("1 ") else texts[kind]
        detectors = [Detector(watermark, threads=t) for t in (1, available())]
        times: list[list[float]] = [[], []]
        found = []
        for _ in range(5):
            for i, detector in enumerate(detectors):
                start = time.perf_counter()
                found.append(detector.detect(batch, resamples=4999, seed=1, **options))
                times[i].append(time.perf_counter() - start)
        assert all(f == found[0] for f in found)
        result[name] = median(a / b for a, b in zip(*times, strict=True))
    return result


def main() -> None:
    texts = load()
    first = [
        float(
            subprocess.run(
                [sys.executable, "-c", FIRST_CALL], capture_output=True, check=True
            ).stdout
        )
        for _ in range(4)
    ]
    result = {
        "machine": machine(),
        "many_keys": many_keys(),
        "prefixes": prefixes(texts["exp"][0]),
        "speed_up_by_threads": threads(texts),
        "first_call_in_a_new_process_s": median(first[1:]),
    }
    (RESULTS / "features.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
