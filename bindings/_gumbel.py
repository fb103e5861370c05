"""What detectors of the Gumbel watermarks of serving engines share: reading a batch, scores on threads, p-values.

A text's score is the sum of -log(1 - u) over its tokens, u the number that the secret gives a token after its
context. Without the watermark it is Gamma distributed with as many degrees as tokens were counted, as long as no
context is counted twice.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.checks import token_ids
from wmcore.errors import WatermarkError

_DEEP = 1e-200
"""p-values below this have their logarithm from a series."""


@dataclass(frozen=True)
class GumbelDetection:
    """One document.

    score : float, the sum of -log(1 - u); p_value : float, P(score or more) without the watermark;
    num_scored_tokens : int; is_watermarked : bool, p_value <= p_value_threshold; error : str, why there is no
    answer (then p_value is 1), or None; log_p_value : float, the natural logarithm of p_value, which is finite where
    p_value itself is too small for a float.
    """

    score: float
    p_value: float
    num_scored_tokens: int
    is_watermarked: bool
    error: str | None = None
    log_p_value: float = 0.0


def threshold(p_value_threshold: float) -> float:
    """p_value_threshold; WatermarkError unless it is inside (0, 1)."""
    if not 0 < p_value_threshold < 1:
        raise WatermarkError(
            f"p_value_threshold {p_value_threshold} is outside (0, 1): 0.01 accuses one text in a hundred"
        )
    return p_value_threshold


def tokens_of(what: str, document: Any, most: int) -> np.ndarray:
    """Token ids, integers [m]; WatermarkError unless they are whole numbers from 0 to `most`. what: its name."""
    try:
        array = token_ids(document)
        if array.size and not 0 <= array.min() <= array.max() <= most:
            raise ValueError(f"a token is outside 0 to {most}")
    except Exception as error:  # a foreign array's own, too
        raise WatermarkError(f"the {what} is not a sequence of token ids: {error}") from error
    return array


def detect(
    documents: Iterable[Any],
    read: Callable[[Any], tuple[np.ndarray, np.ndarray, int]],
    kernel: Callable[..., None],
    settings: tuple[Any, ...],
    *,
    variance: float,
    p_value_threshold: float,
    threads: int,
) -> list[GumbelDetection]:
    """Test each document.

    read : what stands before it, its tokens, and how many of both together are context alone; WatermarkError becomes
        a result's `error`.
    kernel, settings : `gumbel_scores` with `Contexts`, or `murmur_scores` with `Marks`.
    variance : of a counted token's number, whose mean is 1.
    """
    results, texts, starts, places = [], [], [], []
    for place, document in enumerate(documents):
        results.append(GumbelDetection(0.0, 1.0, 0, False))
        try:
            before, text, start = read(document)
        except WatermarkError as error:
            results[place] = GumbelDetection(0.0, 1.0, 0, False, str(error))
            continue
        texts.append((before, text))
        starts.append(start)
        places.append(place)
    score, counted = _scores(texts, starts, kernel, settings, threads)
    p_value, log_p_value = tails(score, counted, variance)
    for i, place in enumerate(places):
        results[place] = GumbelDetection(
            float(score[i]),
            float(p_value[i]),
            int(counted[i]),
            counted[i] > 0 and bool(p_value[i] <= p_value_threshold),
            log_p_value=float(log_p_value[i]),
        )
    return results


def _scores(
    texts: Sequence[tuple[np.ndarray, np.ndarray]],
    starts: Sequence[int],
    kernel: Callable[..., None],
    settings: tuple[Any, ...],
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(score float64 [N], tokens counted int64 [N]). Memory: about 30 bytes a token of the longest text."""
    from wmcore.kernels.cpu.threads import run, slices

    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([before.size + text.size for before, text in texts], out=offsets[1:])
    parts = [np.empty(0, np.uint32), *(part for text in texts for part in text)]
    tokens = np.concatenate(parts, dtype=np.uint32, casting="unsafe")  # each fits
    first = np.array(starts, np.int64)
    score, counted = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
    jobs = [
        (tokens, offsets, first, a, b, settings, score, counted)
        for a, b in slices(len(texts), 8 * threads)
    ]
    run(kernel, jobs, threads)
    return score, counted


def tails(score: np.ndarray, counted: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """P(score or more) without the watermark and its natural logarithm: float64 [N] each.

    A Gamma tail whose mean is `counted` and whose variance is counted * variance: exact for a sum of -log(1 - u).
    """
    from scipy.special import gammaincc

    shape = np.maximum(counted, 1) / variance
    x = np.maximum(score, 0) / variance
    p_value = np.where(counted > 0, gammaincc(shape, x), 1.0)
    deep = p_value < _DEEP
    log_p_value = np.log(np.where(deep, 1.0, p_value))
    log_p_value[deep] = _log_tail(shape[deep], x[deep])
    return p_value, log_p_value


def _log_tail(shape: np.ndarray, x: np.ndarray) -> np.ndarray:
    """log of the Gamma tail far out, where x is well above shape: the asymptotic series (DLMF 8.11.2).

    It ends by itself for whole shapes, and else has terms below 1e-17 long before they would grow again.
    """
    from scipy.special import gammaln

    term, total, k = np.ones_like(x), np.ones_like(x), 0
    while (np.abs(term) > 1e-17 * total).any():
        k += 1
        term = term * (shape - k) / x
        total += term
    return (shape - 1) * np.log(x) - x - gammaln(shape) + np.log(total)


def stack(detections: Sequence[GumbelDetection]) -> dict[str, np.ndarray]:
    """Columns of detections, for a frame: score, p_value, log_p_value, num_scored_tokens, is_watermarked."""
    names = ("score", "p_value", "log_p_value", "num_scored_tokens", "is_watermarked")
    return {name: np.array([getattr(one, name) for one in detections]) for name in names}
