"""Which of many keys, if any, is in a text: a proven bound, or one pool of resampled keys for all of them.

p is K times that of the best of K keys (Bonferroni), and G, the proven bound of `wmcore.plan`, K times the best key's.
The mean of the K e-values is an e-value, too, but all keys but the right one have an E of about 1 or less: only the
best key's is made, the others count as 0, and K / E is one over that mean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from wmcore.detect import Detector
from wmcore.errors import WatermarkError
from wmcore.kernels.constants import NOTHING
from wmcore.plan import STOP_AFTER, Plan, Subject, bound_value, log_evalues, log_proven
from wmcore.significance import permutation_test
from wmcore.types import BackendName, Texts
from wmcore.watermark import Watermark, checked_watermark

RESAMPLES = 99_999
"""T unless something else is asked for."""


@dataclass(frozen=True)
class Identification:
    """The best of K keys for one text. Fields are None where `error` says why there is no answer.

    Attributes
    ----------
    index : int or None
        Which watermark fits best (the first among equals). Believe it only if p_value is small.
    p_value : float or None
        min(1, K p), p that of the best key: valid for "no key is in the text", whatever the keys. A proven bound
        (then `resamples` is 0), or from resamples: at least K / (T + 1).
    statistic, shift, block, length, resamples, error
        As in `Detection`, for the best key.
    """

    index: int | None
    p_value: float | None
    statistic: float | None
    shift: int | None
    block: int | None
    length: int | None
    resamples: int
    error: str | None = None

    def __bool__(self) -> NoReturn:
        """Always a TypeError: `if identification` would be true of every text."""
        raise TypeError(
            "an Identification is neither true nor false: use identification.p_value <= level"
        )


def identify(
    texts: Texts,
    watermarks: Sequence[Watermark],
    *,
    resamples: int | None = None,
    stop_after: int | None = STOP_AFTER,
    seed: int | None = None,
    backend: BackendName = "auto",
    threads: int | None = None,
    tokenizer: Any = None,
) -> list[Identification]:
    """Find which of K watermarks each text carries, with p corrected for K.

    The null statistics of a text do not depend on the key, only on the scheme and its sizes. So the K observed
    statistics (each search stops at what the best key so far rules out) are compared with one pool of resamples.

    Parameters
    ----------
    texts : sequence
        As for `Detector.detect`.
    watermarks : sequence of Watermark
        Of one scheme and the same sizes; they differ in the key (see `Key.derive`).
    resamples : int, optional
        T: instead of the default, the plain permutation test. Must well exceed K for a small p_value to be possible.
        Default: a proven bound for strongly watermarked texts, 99,999 resamples for the rest.
    stop_after, seed
        As for `Detector.detect`.
    backend, threads, tokenizer
        As for `Detector`.

    Returns
    -------
    list of Identification
        One for each text, in order.

    Raises
    ------
    WatermarkError
        For no watermarks, or watermarks of different schemes or sizes.
    TypeError
        For something that is no watermark.
    """
    if resamples is None:
        plan = Plan(RESAMPLES, stop_after)
    else:
        plan = Plan(resamples, stop_after, bound=False)
    if isinstance(watermarks, (Watermark, Mapping)):
        raise TypeError(
            f"watermarks is a {type(watermarks).__name__}, but must be a list of watermarks: give it in brackets, or "
            "the values of a dict"
        )
    watermarks = list(watermarks)
    if not watermarks:
        raise WatermarkError("watermarks is empty: give at least one")
    first = watermarks[0]
    for i, other in enumerate(watermarks):
        checked_watermark(f"watermark {i}", other)
        if (other.problem(), other.block_length) != (first.problem(), first.block_length):
            raise WatermarkError(
                f"watermark {i} ({other!r}) differs from watermark 0 ({first!r}) in more than the key: "
                "identify watermarks of one scheme at a time"
            )
    if first.statistic.scores is not None and first.statistic.scores.by_eta:
        raise WatermarkError(
            f"scheme {first.scheme!r} keeps the key's permutation in its resamples, so that no pool of them serves all "
            "keys: use detect with each, or a scheme that draws it anew (its, its-edit)"
        )
    detector = Detector(first, backend=backend, threads=threads, tokenizer=tokenizer)
    batch = detector.read(texts)
    results: list[Identification | None] = [None] * (len(batch.places) + len(batch.failed))
    for place, (length, error) in batch.failed.items():
        results[place] = Identification(None, None, None, None, None, length, 0, error)
    if batch.arrays:
        found = _identify(detector, watermarks, batch.arrays, plan, seed)
        for place, identification in zip(batch.places, found, strict=True):
            results[place] = identification
    return [result for result in results if result is not None]


def _identify(
    detector: Detector,
    watermarks: Sequence[Watermark],
    arrays: list[np.ndarray],
    plan: Plan,
    seed: int | None,
) -> list[Identification]:
    engine = detector.engine
    texts = engine.pack(arrays)
    count = texts.size
    best = np.full(count, NOTHING, np.int32)
    index = np.zeros(count, np.int64)
    block = np.zeros(count, np.int64)
    tau = np.zeros(count, np.int64)
    for i, watermark in enumerate(watermarks):
        # best - 1: an equal value of a later key does not count, so ask for less than the best.
        fits = engine.fit(texts, watermark.key.costs(engine.problem), best - np.int32(i > 0))
        better = fits.block >= 0
        best[better], index[better] = fits.value[better], i
        block[better], tau[better] = fits.block[better], fits.tau[better]
    statistic = engine.units(best)
    p_value = np.ones(count)
    used = np.zeros(count, np.int64)
    proven = np.zeros(count, bool)
    if plan.bound:
        for i in np.unique(index).tolist():
            these = np.flatnonzero(index == i)
            key = watermarks[i].key
            subject = replace(detector.subject, source=key.costs(engine.problem), fair=key.fair)
            log_g = _log_proven(subject, [arrays[a] for a in these], statistic[these])
            proven[these] = log_g <= math.log(plan.epsilon)
            p_value[these] = [bound_value(log_p) for log_p in log_g.tolist()]
    left = np.flatnonzero(~proven)
    if len(left):
        test = permutation_test(
            engine,
            texts.take(left),
            best[left],
            resamples=plan.resamples,
            stop_after=plan.stop_after,
            seed=detector.watermark.key.default_seed if seed is None else seed,
            salt=b"".join(watermark.key.salt for watermark in watermarks),
        )
        p_value[left], used[left] = test.p_value + plan.epsilon, test.resamples
    return [
        Identification(
            index=int(index[a]),
            p_value=min(1.0, len(watermarks) * float(p_value[a])),
            statistic=float(statistic[a]),
            shift=int(tau[a]),
            block=int(block[a]),
            length=len(arrays[a]),
            resamples=int(used[a]),
        )
        for a in range(count)
    ]


def _log_proven(
    subject: Subject, arrays: Sequence[np.ndarray], statistic: np.ndarray
) -> np.ndarray:
    """log G of texts under one key: float64 [N]."""
    if not subject.fair:
        return np.zeros(len(arrays))
    if subject.has_evalues:
        log_e = log_evalues(subject, arrays)
    else:
        log_e = np.full(len(arrays), -np.inf)
    return log_proven(subject, arrays, statistic, log_e)
