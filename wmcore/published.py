"""The published code's arithmetic (github.com/jthickstun/watermark), once: its uniforms, permutations and rounding.

Costs made from its numbers are the same integers as everywhere (fixed point), so that ties are decided alike.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wmcore.kernels.constants import EXP_SCALE, ITS_SCALE

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
"""A uniform of 1.0 (a float32 rounding accident of the published demo) counts as this."""


def exp_costs(xi: np.ndarray) -> NDArray[np.int32]:
    """log(1 - xi) in cost units, rounded; float32 of any shape."""
    cost = np.asarray(-np.minimum(xi, BELOW_ONE).astype(np.float64))
    np.log1p(cost, out=cost)  # in place: the tables are large
    np.multiply(cost, EXP_SCALE, out=cost)
    return np.rint(cost, out=cost).astype(np.int32)


def its_costs(eta: np.ndarray, u: np.ndarray) -> NDArray[np.int32]:
    """abs(u - eta) in cost units for eta [U] and u [n], both in [0, 1]: [U, n]."""
    x = np.floor(eta.astype(np.float64) * ITS_SCALE + 0.5).astype(np.int64)
    return np.abs(uniform_units(u)[None, :] - x[:, None]).astype(np.int32)


def uniform_units(u: np.ndarray) -> NDArray[np.int64]:
    """u in [0, 1] in units of 1 / ITS_SCALE, rounded down."""
    return (u.astype(np.float64) * ITS_SCALE).astype(np.int64)


class MersenneWords:
    """The 32-bit words of MT19937 seeded the legacy way, in order, as the published demo draws them."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def take(self, count: int) -> NDArray[np.uint32]:
        """The next words: uint32 [count]."""
        return np.frombuffer(self._state.bytes(4 * count), "<u4")

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from self.take(1 << 14).tolist()


def uniforms(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """word / 2**32 as float32, kept below 1."""
    return np.minimum((words / 4294967296.0).astype(np.float32), BELOW_ONE)


def permutation(count: int, words: Iterator[int]) -> list[int]:
    """The demo's permutation of 0 .. count - 1, which takes count - 1 words."""
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = next(words) % i
        order[i], order[j] = order[j], order[i]
    return order
