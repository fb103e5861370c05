"""The test of a scan: a fast first pass for every text, the full test for the few that pass, and valid p-values.

1. *First pass*: the permutation test with T1 resamples, stopped at h1 hits (p1, valid by Besag and Clifford 1991).
   A text that stops is done: p = h1 / l >= h1 / T1.
2. *Full test*: a text that does not stop gets p2 from T resamples of another seed, stopped at h hits.
3. *Bound*: where the proven bound G(phi) of `tail.py` is at most eps = 1 / (100 (T + 1)), p = G(phi); every other p
   has eps added.

Why p is valid, P(p <= a) <= a without a watermark. Leave the bound out at first. For a < h1 / T1, p <= a means that
the text passed and p2 <= a, and p2 is valid. For a >= h1 / T1, p <= a implies p1 <= a: a text that stopped has
p = p1, and one that passed has at most h1 - 1 hits and p1 <= h1 / (T1 + 1) < h1 / T1; and p1 is valid. With the
bound, P(p <= a) <= P(G <= eps) + P(p' <= a - eps) <= eps + (a - eps) for a > eps, and P(G <= a) <= a below. This
holds whatever the two tests' random numbers share.

With a calibrated first pass, a text passes if its approximate p1 <= 1 / (T1 + 1). The argument for a < 1 / (T1 + 1)
does not use p1, so all smaller p-values stay exact; those above are approximate.

A document of w windows gets w times the least p of its windows, at most 1 (Bonferroni), which is valid however the
windows depend on each other. Of the windows that pass, only the one with the best fit gets the full test, and none if
the bound decides another: the rest get p = h1 / T1. The argument holds for each window whichever was chosen: for
a < h1 / T1, p <= a still means that it passed and p2 <= a, and p2 is valid whether or not it was looked at; for
larger a it implies p1 <= a as before.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from wmcore.calibration import Calibration
from wmcore.detect import Detection, Detector
from wmcore.scan.settings import ScanSettings
from wmcore.scan.tail import log_bound

GROUP = 512  # texts per call of the detector in the first pass, which makes its resampled keys once per call
LEAST_P = 1e-300


def seed_of(seed: int, *parts: object) -> int:
    """A 63-bit seed made of another one and a label."""
    text = "\x00".join(["wmcore scan", str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def epsilon(settings: ScanSettings) -> float:
    """eps: below it p is a proven bound; it is added to every p from resamples."""
    return 0.01 / (settings.resamples + 1)


def two_stage(
    detector: Detector,
    texts: Sequence[np.ndarray],
    settings: ScanSettings,
    *,
    seed: int,
    calibration: Calibration | None = None,
    document: Sequence[int] | None = None,
) -> list[Detection]:
    """Detections of token-id sequences with the p-values of the module's docstring, in order.

    Parameters
    ----------
    detector : Detector
    texts : sequence of int64 arrays
        Each can be aligned in one piece.
    settings : ScanSettings
    seed : int
        Of the resamples: the same seed gives the same result of a text, whatever else is in `texts`.
    calibration : Calibration, optional
        The null of a calibrated first pass; a text of a length that it lacks gets a first pass with resamples.
    document : sequence of int, optional
        Which document each text is a window of; only one window of each gets the full test, none where the bound
        decided. Without, each text is a document.

    Returns
    -------
    list of Detection
        `method` is "first" for a text that stopped in the first pass, "bound" for a proven bound.
    """
    eps = epsilon(settings)
    found = _first_pass(detector, texts, settings, seed, calibration)
    whole = range(len(texts)) if document is None else document
    bounds = [log_bound(detector.watermark, detection) for detection in found]
    decided = {d for d, bound in zip(whole, bounds, strict=True) if bound <= math.log(eps)}
    best: dict[int, int] = {}
    for i, (detection, bound) in enumerate(zip(found, bounds, strict=True)):
        if detection.p_value is None:
            continue
        if bound <= math.log(eps):
            p = max(math.exp(max(bound, -800.0)), LEAST_P)
            found[i] = replace(detection, p_value=p, method="bound")
        elif _passes(detection, settings) and whole[i] not in decided:
            j = best.setdefault(whole[i], i)
            if _fit(detection) < _fit(found[j]):
                best[whole[i]] = i
    for i, detection in enumerate(found):
        if detection.p_value is not None and detection.method != "bound":
            method = "calibrated" if detection.method == "calibrated" else "first"
            p = detection.p_value
            if _passes(detection, settings):  # replaced below, unless another window was chosen
                p = _least_first(detection, settings)
            found[i] = replace(detection, p_value=min(1.0, p + eps), method=method)
    full = sorted(best.values())
    if full:
        again = detector.detect(
            [texts[i] for i in full],
            resamples=settings.resamples,
            stop_after=settings.stop_after,
            seed=seed_of(seed, "full"),
        )
        for i, detection in zip(full, again, strict=True):
            assert detection.p_value is not None
            found[i] = replace(detection, p_value=min(1.0, detection.p_value + eps))
    return found


def _groups(lengths: list[int]) -> list[slice]:
    """Runs of ascending lengths that differ by a quarter or by 32 tokens at most, GROUP texts at most."""
    groups, first = [], 0
    for i in range(1, len(lengths) + 1):
        if (
            i == len(lengths)
            or i - first >= GROUP
            or lengths[i] > max(1.25 * lengths[first], lengths[first] + 32)
        ):
            groups.append(slice(first, i))
            first = i
    return groups


def _first_pass(
    detector: Detector,
    texts: Sequence[np.ndarray],
    settings: ScanSettings,
    seed: int,
    calibration: Calibration | None,
) -> list[Detection]:
    options: dict[str, Any] = {
        "resamples": settings.first_resamples,
        "stop_after": settings.first_stop,
        "seed": seed_of(seed, "first"),
    }
    found: list[Detection] = [_NONE] * len(texts)
    fast: list[int] = []
    slow: list[int] = []
    for i in np.argsort([len(t) for t in texts], kind="stable").tolist():
        calibrated = calibration is not None and calibration.length_error(len(texts[i])) is None
        (fast if calibrated else slow).append(i)
    if fast:
        looked_up = detector.detect([texts[i] for i in fast], calibration=calibration)
        for i, detection in zip(fast, looked_up, strict=True):
            found[i] = detection
    # A resample needs as many rows as the longest text of a call has distinct tokens: like lengths together. With so
    # few resamples a kernel has nothing to share out among threads: the groups are.
    one = copy.copy(detector)
    one.threads = 1
    groups = [slow[group] for group in _groups([len(texts[i]) for i in slow])]
    if detector.threads == 1 or len(groups) == 1:
        tested = [one.detect([texts[i] for i in group], **options) for group in groups]
    else:
        with ThreadPoolExecutor(detector.threads) as pool:
            tested = list(
                pool.map(lambda group: one.detect([texts[i] for i in group], **options), groups)
            )
    for group, results in zip(groups, tested, strict=True):
        for i, detection in zip(group, results, strict=True):
            found[i] = detection
    return found


def _least_first(detection: Detection, settings: ScanSettings) -> float:
    """The least p that the first pass gives: above it nothing needs the full test."""
    if detection.method == "calibrated":
        return 1 / (settings.first_resamples + 1)
    return settings.first_stop / settings.first_resamples


def _fit(detection: Detection) -> float:
    """The statistic per token."""
    return (detection.statistic or 0.0) / (detection.length or 1)


def _passes(detection: Detection, settings: ScanSettings) -> bool:
    if detection.method == "calibrated":
        assert detection.p_value is not None
        return detection.p_value <= 1 / (settings.first_resamples + 1)
    return detection.hits < settings.first_stop


_NONE = Detection(None, None, None, None, None, 0, 0, "", error="not tested")
