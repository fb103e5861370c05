"""False discovery over a whole scan: q-values, and what control keys say of the same documents.

Benjamini and Hochberg (1995): q(p) = min over observed t >= p of N t / R(t), R(t) counting p-values <= t, N all tested.
Benjamini and Yekutieli (2001): that times 1 + 1/2 + ... + 1/N, valid under any dependence.
Wang and Ramdas (2022), e-BH: q of the document with the r-th largest e-value = min over k >= r of N / (k E_(k)), at
most 1: that of Benjamini and Hochberg at 1 / E in place of p. It is valid under any dependence without a factor: each
of the R that are called at level a has 1 / R <= a E / N, so that the false share, 1 / R for each false one, is at most
a / N times the sum of their E, whose mean is at most N. An E that was not made counts as 0: less than it is.

Under one fixed key the documents of a corpus depend on each other through the tokens that they share. Control keys
measure that. Let V(t) be the number of unmarked documents with p <= t, and R_c(t) the number of all documents with
p <= t under control key c. Key and controls are drawn alike, and no document knows a control, so V and
V_c <= R_c (counted over the unmarked documents) are exchangeable. Hence, with f_c = sup over t of R_c(t) / (N t + 1),

    P(V(t) <= F (N t + 1) for all t) >= 1 - 1 / (K + 1),   F = max of f_1 .. f_K:

f of V is the largest of K + 1 exchangeable numbers with probability at most 1 / (K + 1), whatever the dependence
(compare Meinshausen 2006, Hemerik and Goeman 2018). The mean of R_c(t) estimates the expected V(t) from above.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PValues:
    """Distinct p-values, ascending (float64 [D]), and how many documents have at most each (int64 [D])."""

    p: np.ndarray
    at_most: np.ndarray

    @classmethod
    def count(cls, parts: Iterable[np.ndarray]) -> "PValues":
        """From arrays of p-values, one after the other. Memory: that of the distinct ones, which are few."""
        values, counts = np.empty(0), np.empty(0, np.int64)
        held: list[np.ndarray] = []
        pending = 0
        for part in parts:
            held.append(np.asarray(part, np.float64))
            pending += held[-1].size
            if pending > 1 << 20:
                values, counts = _merge(values, counts, held)
                held, pending = [], 0
        values, counts = _merge(values, counts, held)
        return cls(values, np.cumsum(counts))

    @property
    def total(self) -> int:
        """N, the number of p-values."""
        return int(self.at_most[-1]) if self.at_most.size else 0

    def below(self, t: float) -> int:
        """R(t), the number of p-values <= t."""
        place = int(np.searchsorted(self.p, t, side="right"))
        return int(self.at_most[place - 1]) if place else 0

    def q_values(self, method: str = "bh") -> np.ndarray:
        """The q-value of each distinct p: float64 [D]. method: "bh", "by", or "ebh" where p is `one_over`'s."""
        if not self.p.size:
            return np.empty(0)
        total = float(self.total)
        if method == "by":
            total *= _harmonic(self.total)
        q = self.p * total / self.at_most
        return np.minimum(np.minimum.accumulate(q[::-1])[::-1], 1.0)

    def excess(self) -> float:
        """f = sup over t of R(t) / (N t + 1)."""
        if not self.p.size:
            return 0.0
        return float(np.max(self.at_most / (self.total * self.p + 1.0)))


def one_over(log_e: np.ndarray) -> np.ndarray:
    """min(1, 1 / E), at least 1e-300 (which is on the safe side), of log E with NaN for E = 0: float64 [N]."""
    return np.exp(-np.clip(np.nan_to_num(log_e, nan=0.0), 0.0, 690.0))


def false_bound(controls: list[PValues], total: int, t: float) -> float:
    """F (N t + 1): with probability 1 - 1 / (K + 1) at least, no more unmarked documents have p <= t, for all t."""
    return max(c.excess() for c in controls) * (total * t + 1.0)


def _merge(
    values: np.ndarray, counts: np.ndarray, parts: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    if not parts:
        return values, counts
    new, number = np.unique(np.concatenate(parts), return_counts=True)
    both, place = np.unique(np.concatenate([values, new]), return_inverse=True)
    merged = np.zeros(both.size, np.int64)
    np.add.at(merged, place, np.concatenate([counts, number]))
    return both, merged


def _harmonic(count: int) -> float:
    """1 + 1/2 + ... + 1/count."""
    if count < 1_000_000:
        return float(np.sum(1.0 / np.arange(1, count + 1)))
    return float(np.log(count) + 0.5772156649015329 + 0.5 / count)
