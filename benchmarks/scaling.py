"""Cost against text length, key length, resamples and batch size: results/scaling.json and scaling.png.

    python benchmarks/scaling.py          # measures, then draws
    python benchmarks/scaling.py --draw   # draws what was measured

One core, synthetic texts (Zipf tokens; watermarked: half of them forced to the key's best). Each point is the median
of several detections; the slope is that of log time against log size over the upper half of the points.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from machine import machine

from wmcore import Detector, Key, Watermark

RESULTS = Path(__file__).parent / "results"
V = 49152
BASE = {"m": 200, "n": 256, "T": 999, "batch": 16}
SWEEPS = {
    "m": [25, 50, 100, 200, 400, 800],
    "n": [64, 128, 256, 512, 1024, 2048, 4096],
    "T": [100, 300, 1000, 3000, 10_000, 30_000],
    "batch": [1, 2, 4, 16, 64, 256],
}
LABELS = {
    "m": "text length m, tokens",
    "n": "key length n",
    "T": "resamples T",
    "batch": "texts in a batch",
}
KINDS = {
    "watermarked": {"stop_after": None},
    "ordinary, stopped early": {"stop_after": 50},
    "ordinary, all T": {"stop_after": None},
}


def text(detector: Detector, m: int, marked: bool, seed: int) -> np.ndarray:
    """Zipf tokens, half of them forced to the key's best when marked."""
    rng = np.random.default_rng(seed)
    plain = rng.zipf(1.3, size=m) % V
    if not marked:
        return plain
    some = np.arange(0, V, 16)
    n = detector.watermark.key_length
    costs = detector.engine.matrix(detector.costs, some)
    best = some[costs[:, (seed + np.arange(m)) % n].argmin(axis=0)]
    return np.where(rng.random(m) < 0.5, best, plain)


def seconds_per_text(scheme: str, kind: str, m: int, n: int, T: int, batch: int) -> float:
    watermark = Watermark.create(scheme, vocab_size=V, key_length=n, key=Key(bytes(32)))
    detector = Detector(watermark, threads=1)
    texts = [text(detector, m, kind == "watermarked", i) for i in range(batch)]
    options = {"resamples": T, "seed": 1, **KINDS[kind]}
    times = []
    while len(times) < 2 or (len(times) < 7 and sum(times) < 1.0):
        start = time.perf_counter()
        detector.detect(texts, **options)
        times.append(time.perf_counter() - start)
    return median(times[1:]) / batch


def slope(sizes: list[int], times: list[float]) -> float:
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def draw(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(15, 7), sharey=True, layout="constrained")
    for line, scheme in enumerate(("exp-edit", "exp")):
        for column, name in enumerate(SWEEPS):
            axis = axes[line, column]
            for row in rows:
                if (row["scheme"], row["against"]) == (scheme, name):
                    label = f"{row['kind']} (slope {row['slope']:.2f})"
                    milliseconds = [1e3 * t for t in row["seconds_per_text"]]
                    axis.loglog(row["sizes"], milliseconds, "o-", label=label)
            axis.set_xticks(SWEEPS[name], [f"{size:,}" for size in SWEEPS[name]], fontsize=7)
            axis.minorticks_off()
            axis.set_xlabel(LABELS[name])
            axis.set_title(scheme)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
        axes[line, 0].set_ylabel("ms a text, one core")
    base = ", ".join(f"{name} = {value}" for name, value in BASE.items())
    figure.suptitle(f"Detection time; fixed otherwise: {base}")
    figure.savefig(path, dpi=110)


def main() -> None:
    if sys.argv[1:] == ["--draw"]:
        draw(json.loads((RESULTS / "scaling.json").read_text())["rows"], RESULTS / "scaling.png")
        return
    rows = []
    for scheme in ("exp-edit", "exp"):
        for name, sizes in SWEEPS.items():
            for kind in KINDS:
                # Every resample of an ordinary text is decided window by window: leave out what takes minutes.
                kept = [s for s in sizes if not (kind.endswith("all T") and s > 16 * BASE[name])]
                times = [seconds_per_text(scheme, kind, **{**BASE, name: size}) for size in kept]
                rows.append(
                    {
                        "scheme": scheme,
                        "kind": kind,
                        "against": name,
                        "sizes": kept,
                        "seconds_per_text": times,
                        "slope": slope(kept, times),
                    }
                )
                print(scheme, kind, name, [f"{1e3 * t:.2f} ms" for t in times], flush=True)
    RESULTS.mkdir(exist_ok=True)
    result = {"machine": machine(), "base": BASE, "rows": rows}
    (RESULTS / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(rows, RESULTS / "scaling.png")


if __name__ == "__main__":
    main()
