"""Whole detections against the published library, its demo and MarkLLM, side by side on the same tokens.

    NEWS=news.jsonl PEERS=path/to/watermark:path/to/MarkLLM python benchmarks/peers.py

One core on both sides, alternating; a peer's test of T resamples is timed as one resample of its own null path and
scaled by T, which is said in the output ("scaled"). Both sides must agree on the statistic first. Writes
results/peers.json and results/scaling.png.
"""

import json
import os
import time
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: peers run on one core too

import numpy as np
from machine import machine
from peer_code import Peer, find
from rich.console import Console
from rich.table import Table
from texts import VOCAB, load, published, secret

from wmcore import SCHEMES, Detector
from wmcore.calibration import Calibration
from wmcore.kernels.problem import COSTS

RESULTS = Path(__file__).parent / "results"
T = 5000
REPEATS = 5
N = 256


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def agree(peer: Peer, tokens: np.ndarray) -> float:
    """Their statistic of a published key; raises if ours differs by more than rounding allows."""
    watermark = published(peer.scheme)
    theirs = peer.statistic(tokens, watermark)
    (ours,) = Detector(watermark, threads=1).detect([tokens], resamples=1)
    # Half a unit (its: one unit) a token on our side; float32 sums on theirs.
    problem = watermark.problem()
    units = 2 if COSTS[problem.cost].ranked else 0.5
    allowed = len(tokens) * units / problem.scale + 1e-5 * abs(theirs)
    if abs(ours.statistic - theirs) > allowed:
        raise SystemExit(f"{peer.name} {peer.scheme}: statistic {theirs}, ours {ours.statistic}")
    return theirs


class Case:
    """One way to detect with wmcore: seconds per text."""

    def __init__(self, name: str, scheme: str, texts: list, goal: str, **options) -> None:
        watermark = published(scheme) if options.pop("watermarked") else secret(scheme)
        self.name, self.scheme, self.texts, self.goal = name, scheme, texts, goal
        self.options = options
        self.detector = Detector(watermark, threads=1)
        self.found = self.run()  # compiles, and makes what a detector keeps

    def run(self):
        return self.detector.detect(self.texts, resamples=T, seed=1, **self.options)


def cases(texts: dict[str, list]) -> list[Case]:
    made = []
    fixed = {"stop_after": None, "watermarked": True}
    for scheme in ("exp-edit", "exp", "its-edit"):
        marked = texts[SCHEMES[scheme].sampler]
        goals = {"exp-edit": (">= 4,000", ">= 20,000", ">= 5,000"), "exp": (">= 1,000", "", "")}
        goal = goals.get(scheme, ("report", "report", "report"))
        made.append(Case("1 watermarked text", scheme, marked[:1], goal[0], **fixed))
        made.append(Case("64 watermarked texts", scheme, marked, goal[1], **fixed))
        made.append(
            Case("64 real texts, sequential", scheme, texts["real"], goal[2], watermarked=False)
        )
        made.append(
            Case(
                "8 real texts, all T",
                scheme,
                texts["real"][:8],
                "",
                stop_after=None,
                watermarked=False,
            )
        )
    return made


def compare(peers: list[Peer], texts: dict[str, list]) -> list[dict]:
    for peer in peers:
        agree(peer, texts[SCHEMES[peer.scheme].sampler][0])
        peer.null(texts["exp"][0], VOCAB, N, 0)  # warm
    rows = []
    for case in cases(texts):
        ours: list[float] = []
        theirs: dict[str, list[float]] = {}
        ratios: dict[str, list[float]] = {}
        rivals = [peer for peer in peers if peer.scheme == case.scheme]
        for repeat in range(REPEATS):
            mine = seconds(case.run) / len(case.texts)
            ours.append(mine)
            for peer in rivals:
                text = case.texts[repeat % len(case.texts)]
                one = seconds(lambda p=peer, t=text, r=repeat: p.null(t, VOCAB, N, r))
                theirs.setdefault(peer.name, []).append(one)
                ratios.setdefault(peer.name, []).append(one * T / mine)
        rows.append(
            {
                "case": case.name,
                "scheme": case.scheme,
                "ours_s_per_text": median(ours),
                "mean_resamples_used": float(np.mean([d.resamples for d in case.found])),
                "peer_s_per_resample": {name: median(t) for name, t in theirs.items()},
                "ratio_scaled_to_T": {name: median(r) for name, r in ratios.items()},
                "goal_against_published_library": case.goal,
            }
        )
    return rows


def calibrated(texts: dict[str, list]) -> dict:
    """Texts per second with a calibrated null."""
    watermark = secret("exp-edit")
    calibration = Calibration.fit(watermark, [200], 1000, tokens=texts["real"], seed=1, threads=1)
    rates = {}
    for name in ("real", "exp"):
        key = published("exp-edit") if name == "exp" else watermark
        detector = Detector(key, threads=1)
        batch = texts[name] * 8
        detector.detect(batch, calibration=calibration)
        times = [
            seconds(lambda d=detector, b=batch: d.detect(b, calibration=calibration))
            for _ in range(REPEATS)
        ]
        rates[name] = len(batch) / median(times)
    return rates


def large() -> dict:
    """n = 4,096 and m = 1,000, T = 999: seconds and peak memory, watermarked and not."""
    import resource

    from wmcore import Key, Watermark

    rng = np.random.default_rng(1)
    watermark = Watermark.create("exp-edit", vocab_size=VOCAB, key_length=4096, key=Key(bytes(32)))
    plain = rng.zipf(1.3, size=1000) % VOCAB
    detector = Detector(watermark, threads=1)
    # A watermarked text as a model would write it: a third of the tokens forced, the others free.
    distinct = np.arange(0, VOCAB, 16)
    costs = detector.engine.matrix(detector.costs, distinct)
    best = distinct[costs[:, (77 + np.arange(1000)) % 4096].argmin(axis=0)]
    marked = np.where(rng.random(1000) < 0.3, best, plain)
    result = {}
    for name, text, stop in (("watermarked", marked, None), ("ordinary", plain, None)):
        start = time.perf_counter()
        (found,) = detector.detect([text], resamples=999, stop_after=stop, seed=1)
        result[name] = {"seconds": time.perf_counter() - start, "p_value": found.p_value}
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def show(result: dict) -> None:
    table = Table(
        title=f"n = {N}, k = m = 200, T = {T:,}, one core; peers scaled from one resample"
    )
    for heading in ("scheme", "case", "ours, ms a text", "peer", "peer, s a text", "ratio", "goal"):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        for name, ratio in (row["ratio_scaled_to_T"] or {"none found": float("nan")}).items():
            peer = row["peer_s_per_resample"].get(name, float("nan")) * T
            table.add_row(
                row["scheme"],
                row["case"],
                f"{1e3 * row['ours_s_per_text']:.2f}",
                name,
                f"{peer:,.0f}",
                f"{ratio:,.0f}",
                row["goal_against_published_library"],
            )
    console = Console(width=140)
    console.print(table)
    console.print(f"calibrated, texts a second: {result['calibrated_texts_per_s']}")
    console.print(f"n = 4,096, m = 1,000, T = 999: {result['large']}")
    for line in result["missing_peers"]:
        console.print(f"[yellow]missing peer:[/] {line}")


def main() -> None:
    import subprocess
    import sys

    peers, missing = find()
    texts = load()
    # In its own process, so that its peak memory is its own.
    code = "import json, peers; print(json.dumps(peers.large()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    result = {
        "machine": machine(),
        "settings": {"n": N, "m": 200, "T": T, "threads": 1, "repeats": REPEATS},
        "peers": [f"{peer.name} ({peer.scheme})" for peer in peers],
        "missing_peers": missing,
        "rows": compare(peers, texts),
        "calibrated_texts_per_s": calibrated(texts),
        "large": json.loads(done.stdout.splitlines()[-1]),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "peers.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
