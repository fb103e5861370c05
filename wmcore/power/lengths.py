"""From simulated tests to the number of tokens that a text needs, and how far the simulation leaves it open."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.errors import WatermarkError

_Z = 1.959964  # of 95 % intervals
_STEP = 2**0.5


def grid(first: int, last: int) -> np.ndarray:
    """Lengths from about `first` to `last`, each 1.4 times the one before: int64 [L]."""
    steps = np.arange(max(0.0, np.log(last / first) / np.log(_STEP)) // 1 + 1)
    return np.unique(np.append(np.rint(first * _STEP**steps).astype(np.int64).clip(max=last), last))


@dataclass(frozen=True)
class Curve:
    """How many texts are found at a level, by length.

    Attributes
    ----------
    lengths : int64 [L]
        Tokens written, before any edit.
    rate : float64 [L]
        The share of simulated texts with p <= level; not smaller for a longer text (isotonic regression).
    low, high : float64 [L]
        Its 95 % interval (Wilson), with as many independent texts as the spread between texts leaves: at least those
        of the sample.
    trials : int64 [L]
        Simulated texts; none where the sample's texts are shorter.
    """

    lengths: np.ndarray
    rate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    trials: np.ndarray

    def needed(self, share: float) -> "Needed":
        """The tokens with which this share of texts is found."""
        above = np.flatnonzero(self.rate >= share)
        tokens = None
        if above.size:
            i = int(above[0])
            tokens = float(self.lengths[i])
            if i:
                (a, b), (ra, rb) = self.lengths[i - 1 : i + 1], self.rate[i - 1 : i + 1]
                tokens = float(a + (b - a) * (share - ra) / (rb - ra))
        below = np.flatnonzero(self.high < share)
        surely = np.flatnonzero(self.low >= share)
        return Needed(
            None if tokens is None else round(tokens),
            int(self.lengths[below[-1]]) if below.size else 0,
            int(self.lengths[surely[0]]) if surely.size else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        fields = {"rate": self.rate, "low": self.low, "high": self.high}
        return {
            "lengths": self.lengths.tolist(),
            **{name: np.round(values, 4).tolist() for name, values in fields.items()},
            "trials": self.trials.tolist(),
        }


@dataclass(frozen=True)
class Needed:
    """Tokens that a text needs. tokens : int or None, interpolated between two lengths; None: more than the sample's
    texts have. low, high : int and int or None, a 95 % interval whose ends are lengths that were simulated; high None:
    more texts, or longer ones, are needed to say."""

    tokens: int | None
    low: int
    high: int | None


def curve(found: np.ndarray, owner: np.ndarray, lengths: np.ndarray) -> Curve:
    """The curve of simulated tests.

    found : float64 [trials, L], 1 or 0, NaN where there was no test; owner : int64 [trials], the text of each trial.
    Lengths without any test are left out; WatermarkError if all are.
    """
    kept = ~np.isnan(found).all(axis=0)
    if not kept.any():
        raise WatermarkError(
            f"no text that was simulated has {lengths[0]} tokens: raise simulations to the number of texts"
        )
    found, lengths = found[:, kept], lengths[kept]
    trials = (~np.isnan(found)).sum(axis=0)
    rate = isotonic(np.nanmean(found, axis=0), trials)
    size = np.array([_independent(column, owner) for column in found.T])
    low, high = _wilson(rate, size)
    # Rates rise with the length: what is known of a shorter text holds for a longer one.
    return Curve(
        lengths,
        rate,
        np.maximum.accumulate(low),
        np.minimum.accumulate(high[::-1])[::-1],
        trials,
    )


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rising sequence nearest to values, float64 [L], by weighted least squares (pooled adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, count = value, float(weight), 1
        while blocks and blocks[-1][0] >= mean:
            before, more, few = blocks.pop()
            mean = (before * more + mean * total) / (more + total)
            total, count = total + more, count + few
        blocks.append((mean, total, count))
    return np.concatenate([np.full(count, mean) for mean, _, count in blocks])


def _independent(found: np.ndarray, owner: np.ndarray) -> float:
    """How many independent trials these are worth: trials of one text are alike."""
    there = ~np.isnan(found)
    _, text = np.unique(owner[there], return_inverse=True)
    size = np.bincount(text)
    rate = found[there].mean()
    texts, trials = len(size), int(size.sum())
    if rate in (0.0, 1.0) or texts == 1:
        return texts
    off = np.bincount(text, found[there]) - rate * size
    variance = texts / (texts - 1) * (off @ off) / trials**2
    return float(np.clip(rate * (1 - rate) / max(variance, 1e-12), texts, trials))


def _wilson(rate: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share of so many trials (Wilson 1927): float64 [L] each."""
    middle = (rate + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = np.sqrt(rate * (1 - rate) / size + _Z**2 / (4 * size**2)) * _Z / (1 + _Z**2 / size)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
