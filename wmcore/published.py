"""Statistics and draws from explicit numbers: what code written against the published functions passes around.

A key is here a table xi of uniforms (exp) or an order of tokens and uniforms (its), as arrays. Costs are the same
integers as everywhere (fixed point), so that ties are decided as `Detector` decides them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wmcore.errors import WatermarkError
from wmcore.kernels.constants import EXP_SCALE, ITS_SCALE
from wmcore.kernels.packing import Problem, Texts, block_error

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
"""A uniform of 1.0 (a float32 rounding accident of the published demo) counts as this."""

_ANY = 2**31 - 1
"""A best value that every statistic meets."""


def exp_costs(xi: NDArray[np.float32]) -> NDArray[np.int32]:
    """log(1 - xi) in cost units, rounded; any shape."""
    cost = np.log1p(-np.minimum(xi, BELOW_ONE).astype(np.float64))
    return np.rint(cost * EXP_SCALE).astype(np.int32)


def its_costs(eta: np.ndarray, u: np.ndarray) -> NDArray[np.int32]:
    """abs(u - eta) in cost units for eta [U] and u [n], both in [0, 1]: [U, n]. As in `key.CostSource`."""
    x = np.floor(eta.astype(np.float64) * ITS_SCALE + 0.5).astype(np.int64)
    y = (u.astype(np.float64) * ITS_SCALE).astype(np.int64)
    return np.abs(y[None, :] - x[:, None]).astype(np.int32)


def in_unit_interval(values: np.ndarray) -> bool:
    """Whether `its_costs` can take them."""
    return bool(np.all((values >= 0) & (values <= 1)))


class Alignments:
    """A text against one key, given as a matrix of costs.

    Parameters
    ----------
    costs : int32 [U, n]
        Of `exp_costs` or `its_costs`: distinct tokens by key rows.
    inverse : int64 [m]
        Which row of costs each token of the text has.
    k : int
        Block length.
    its : bool
    gamma : float or None
        Gap cost; None aligns without edits.

    Raises
    ------
    WatermarkError
        For a block or gap cost that 32-bit sums cannot hold.
    """

    def __init__(
        self, costs: np.ndarray, inverse: np.ndarray, k: int, *, its: bool, gamma: float | None
    ) -> None:
        scale = ITS_SCALE if its else EXP_SCALE
        if gamma is not None and not 0 <= gamma < 2**31 / scale:
            raise WatermarkError(f"gamma {gamma} is outside 0 to {2**31 // scale}")
        gap = 0 if gamma is None else round(gamma * scale)
        self.problem = Problem(its, gamma is not None, costs.shape[1], gap, 1, 1)
        error = block_error(self.problem, len(inverse), k)
        if error is not None:
            raise WatermarkError(error)
        self.costs, self.inverse, self.k = np.ascontiguousarray(costs), inverse, k

    def least(self) -> tuple[float, int, int]:
        """(phi, block, tau): the least cost, the first block and then the first window among equals."""
        from wmcore.kernels import resolve

        offsets = np.array([0, len(self.inverse)])
        distinct = np.arange(len(self.costs))
        texts = Texts(
            self.inverse, offsets, distinct, np.array([0, len(distinct)]), np.array([self.k])
        )
        value, block, tau = resolve("cpu").observe(
            self.problem, texts, self.costs, distinct, np.array([_ANY], np.int32), 1
        )
        return float(self._number(value)[0]), int(block[0]), int(tau[0])

    def all(self) -> NDArray[np.float32]:
        """The cost of every block with every window: [m - k + 1, n]."""
        from wmcore.kernels.cpu.align import align_all
        from wmcore.kernels.cpu.costs import wrap
        from wmcore.kernels.cpu.edit import edit_all

        n, k = self.problem.n, self.k
        edits = self.problem.edits and not self.problem.gaps_useless(k)
        matrix = np.empty((len(self.costs), n + 16), np.int32)
        matrix[:, :n] = self.costs + (self.problem.offset if edits else 0)
        wrap(n, matrix)
        out = np.empty((len(self.inverse) - k + 1, n), np.int32)
        if edits:
            edit_all(matrix, n, self.inverse, k, np.empty(16 * (k + 1), np.int32), out)
        else:
            align_all(matrix, n, self.inverse, k, out)
        return (self._number(out)).astype(np.float32)

    def _number(self, value: np.ndarray) -> np.ndarray:
        return (value - np.int64(self.problem.taken_off(self.k))) / self.problem.scale


def levenshtein(costs: NDArray[np.float32], gamma: float) -> float:
    """The edit alignment of all rows with all columns of costs, float32 [k, L], with the published rounding."""
    from wmcore.kernels.cpu.published import edit_pair

    row = np.empty(costs.shape[1] + 1, np.float32)
    return float(edit_pair(np.ascontiguousarray(costs), np.float32(gamma), row))


def exp_places(probs: np.ndarray, pi: np.ndarray, xi: np.ndarray) -> NDArray[np.int64]:
    """The place of the greatest xi ** (1 / p) in each row, p = probs in the order pi.

    probs: float32 [B, V]; pi: int64 [B, W]; xi: float32 [B, W].
    """
    from wmcore.kernels.cpu.published import exp_pick

    return _drawn(exp_pick, probs, pi, xi)


def its_tokens(probs: np.ndarray, pi: np.ndarray, xi: np.ndarray) -> NDArray[np.int64]:
    """The token at which the CDF of each row, in the order pi, reaches xi, float32 [B]. Others as in `exp_places`."""
    from wmcore.kernels.cpu.published import its_pick

    return _drawn(its_pick, probs, pi, xi)


def _drawn(
    kernel: Callable[..., None], probs: np.ndarray, pi: np.ndarray, xi: np.ndarray
) -> NDArray[np.int64]:
    if len(pi) != len(probs) or len(xi) != len(probs):
        raise WatermarkError(
            f"probs has {len(probs)} rows, but pi {len(pi)} and xi {len(xi)}: give one of each for each text"
        )
    if pi.size and not 0 <= pi.min() <= pi.max() < probs.shape[1]:
        raise WatermarkError(
            f"pi has a token outside the {probs.shape[1]} of probs: use the vocabulary size of the model"
        )
    out = np.empty(len(probs), np.int64)
    kernel(probs, pi, np.minimum(xi, BELOW_ONE), out)
    if out.size and out.min() < 0:
        raise WatermarkError("probs: a row sums to 0 or holds NaN, so there is no token to draw")
    return out
