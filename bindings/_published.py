"""Statistics and draws from explicit numbers: what code written against the published functions passes around.

A key is here a table xi of uniforms (exp) or an order of tokens and uniforms (its), as arrays.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wmcore.costs import CostSource
from wmcore.engine import Engine
from wmcore.errors import WatermarkError
from wmcore.kernels import Backend
from wmcore.kernels.problem import CostTable, Problem
from wmcore.published import BELOW_ONE
from wmcore.schemes import EDIT, PLAIN, TokenCost


def in_unit_interval(values: np.ndarray) -> bool:
    """Whether `published.its_costs` and `exp_costs` can take them."""
    return bool(np.all((values >= 0) & (values <= 1)))


class _Given(CostSource):
    """Costs as they were given; token i is row i."""

    def __init__(self, costs: np.ndarray) -> None:
        self._costs = costs

    def table(self, tokens: np.ndarray, backend: Backend, threads: int) -> CostTable:
        return CostTable(self._costs, tokens)


class Alignments:
    """A text against one key, given as a matrix of costs.

    Parameters
    ----------
    costs : int32 [U, n]
        Of `published.exp_costs` or `its_costs`: distinct tokens by key rows.
    inverse : int64 [m]
        Which row of costs each token of the text has.
    k : int
        Block length.
    cost : TokenCost
        Whose units costs are in.
    gamma : float or None
        Gap cost; None aligns without edits.

    Raises
    ------
    WatermarkError
        For a block or gap cost that 32-bit sums cannot hold.
    """

    def __init__(
        self,
        costs: np.ndarray,
        inverse: np.ndarray,
        k: int,
        *,
        cost: TokenCost,
        gamma: float | None,
    ) -> None:
        if gamma is not None and not 0 <= gamma < 2**31 / cost.scale:
            raise WatermarkError(f"gamma {gamma} is outside 0 to {2**31 // cost.scale}")
        gap = 0 if gamma is None else round(gamma * cost.scale)
        alignment = PLAIN if gamma is None else EDIT
        problem = Problem(cost.code, alignment.code, costs.shape[1], gap, 1, 1)
        self._engine = Engine("cpu", problem, k, threads=1)
        error = self._engine.error(len(inverse))
        if error is not None:
            raise WatermarkError(error)
        self._source = _Given(np.ascontiguousarray(costs))
        self._texts = self._engine.pack([inverse])

    def least(self) -> tuple[float, int, int]:
        """(phi, block, tau): the least cost, the first block and then the first window among equals."""
        fits = self._engine.fit(self._texts, self._source)
        return float(self._engine.units(fits.value)[0]), int(fits.block[0]), int(fits.tau[0])

    def all(self) -> NDArray[np.float32]:
        """The cost of every block with every window: [m - k + 1, n]."""
        return self._engine.all_windows(self._texts, self._source).astype(np.float32)


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
