"""Which of many keys, if any, is in a text: one pool of resampled keys for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.checks import whole_number
from wmcore.detect import Detector
from wmcore.errors import WatermarkError
from wmcore.kernels.constants import NOTHING
from wmcore.plan import MOST, STOP_AFTER
from wmcore.significance import permutation_test
from wmcore.watermark import Watermark


@dataclass(frozen=True)
class Identification:
    """The best of K keys for one text. Fields are None where `error` says why there is no answer.

    Attributes
    ----------
    index : int or None
        Which watermark fits best (the first among equals). Believe it only if p_value is small.
    p_value : float or None
        min(1, K p), p the permutation p-value of the best key: valid for "no key is in the text", whatever the keys.
        The least possible is K / (T + 1).
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


def identify(
    texts: Sequence[Any],
    watermarks: Sequence[Watermark],
    *,
    resamples: int = 99_999,
    stop_after: int | None = STOP_AFTER,
    seed: int | None = None,
    backend: str = "auto",
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
    resamples, stop_after, seed
        As for `Detector.detect`; resamples must well exceed K for a small p_value to be possible.
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
    resamples = whole_number("resamples", resamples, 1, MOST)
    if stop_after is not None:
        stop_after = whole_number("stop_after", stop_after, 1, MOST)
    watermarks = list(watermarks)
    if not watermarks:
        raise WatermarkError("watermarks is empty: give at least one")
    first = watermarks[0]
    for i, other in enumerate(watermarks):
        if not isinstance(other, Watermark):
            raise TypeError(f"watermark {i} is a {type(other).__name__}, but must be a Watermark")
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
        found = _identify(detector, watermarks, batch.arrays, resamples, stop_after, seed)
        for place, identification in zip(batch.places, found, strict=True):
            results[place] = identification
    return [result for result in results if result is not None]


def _identify(
    detector: Detector,
    watermarks: Sequence[Watermark],
    arrays: list[np.ndarray],
    resamples: int,
    stop_after: int | None,
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
    test = permutation_test(
        engine,
        texts,
        best,
        resamples=resamples,
        stop_after=stop_after,
        seed=seed,
        salt=b"".join(watermark.key.salt for watermark in watermarks),
    )
    statistic = engine.units(best)
    return [
        Identification(
            index=int(index[a]),
            p_value=min(1.0, len(watermarks) * float(test.p_value[a])),
            statistic=float(statistic[a]),
            shift=int(tau[a]),
            block=int(block[a]),
            length=len(arrays[a]),
            resamples=int(test.resamples[a]),
        )
        for a in range(count)
    ]
