"""The scheme table: the one place that knows scheme names. A new score or alignment is a row here.

A text is *written* by a sampler; it is *tested* by a token cost, an alignment and a gap cost. A scheme is a named
choice of all four. A text can be tested under any scheme of the sampler that wrote it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wmcore.errors import WatermarkError, shown
from wmcore.kernels import problem as kernel
from wmcore.types import SchemeName


@dataclass(frozen=True, eq=False)
class TokenCost:
    """How well one token fits one key row; lower fits better.

    Attributes
    ----------
    name : str
    code : int
        Its number in the kernels (`wmcore.kernels.problem.COSTS` has its range).
    mean : float
        Its mean by chance.
    chance : callable
        P(an independent key row fits at least as well as this cost): float -> float.
    fit : callable
        A cost as a number from 0 (poor) to 1, for pictures: float array -> float array.
    tilts : float64 [G]
        The t at which tail bounds are evaluated.
    log_mgf : callable
        An upper bound of log E exp(-t cost) by chance: float64 [G] -> float64 [G].
    evalue : bool
        Whether its costs have an e-value over edit paths (`kernels/cpu/evalue.py`); scores always have.
    """

    name: str
    code: int
    mean: float
    chance: Callable[[float], float]
    fit: Callable[[np.ndarray], np.ndarray]
    tilts: np.ndarray
    log_mgf: Callable[[np.ndarray], np.ndarray]
    evalue: bool

    @property
    def scale(self) -> int:
        """Integer units per 1.0."""
        return kernel.COSTS[self.code].scale

    @property
    def largest(self) -> int:
        """The largest absolute value, in units."""
        cost = kernel.COSTS[self.code]
        return max(cost.most, -cost.least)


@dataclass(frozen=True)
class Alignment:
    """How a block of tokens is laid along the key: its name, its code in the kernels, whether there are gaps, whether
    token costs are scores (`wmcore.scores`)."""

    name: str
    code: int
    gaps: bool
    scored: bool = False


@dataclass(frozen=True)
class Scheme:
    """A row of the table.

    gap: the default gap cost, 0.0 where the alignment has none; published_gap: that of the published code; score: the
    default score, None where the alignment takes the token cost itself.
    """

    name: SchemeName
    sampler: str
    cost: TokenCost
    alignment: Alignment
    gap: float
    published_gap: float
    score: str | None = None

    @property
    def evalues(self) -> bool:
        """Whether there are e-values over edit paths."""
        return self.alignment.scored or self.cost.evalue

    def __reduce__(self) -> tuple[Callable[[object], "Scheme"], tuple[str]]:
        return scheme_of, (self.name,)


# log(1 - u), in nats.
# By chance exp(cost) is uniform and E exp(-t cost) = 1 / (1 - t), t < 1 (the key's uniforms are midpoints of equal
# cells, and by convexity their mean is no larger).
EXP_COST = TokenCost(
    name="exp",
    code=kernel.EXP,
    mean=-1.0,
    chance=lambda cost: math.exp(min(cost, 0.0)),
    fit=lambda cost: -cost / (1 - cost),
    tilts=np.concatenate([np.linspace(0.2, 0.95, 31), 1 - np.geomspace(0.04, 0.002, 12)]),
    log_mgf=lambda t: -np.log1p(-t),
    evalue=True,
)
# abs(u - eta).
# The distance of two uniform numbers: below c with chance 1 - (1 - c)**2. E exp(-t cost) is largest at eta = 1/2.
ITS_COST = TokenCost(
    name="its",
    code=kernel.ITS,
    mean=1 / 3,
    chance=lambda cost: 1.0 - (1.0 - min(max(cost, 0.0), 1.0)) ** 2,
    fit=lambda cost: 1 - cost,
    tilts=np.geomspace(2.0, 400.0, 48),
    log_mgf=lambda t: np.log(2 / t * -np.expm1(-t / 2)),
    evalue=False,
)

PLAIN = Alignment("plain", kernel.PLAIN, gaps=False)
EDIT = Alignment("edit", kernel.EDIT, gaps=True)
FREE = Alignment("free", kernel.FREE, gaps=True, scored=True)
LOCAL = Alignment("local", kernel.LOCAL, gaps=True, scored=True)

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("exp", "exp", EXP_COST, PLAIN, 0.0, 0.0),
        Scheme("exp-edit", "exp", EXP_COST, EDIT, 3.0, 0.0),
        Scheme("exp-free", "exp", EXP_COST, FREE, 1.8, 1.8, "log"),
        Scheme("exp-local", "exp", EXP_COST, LOCAL, 3.0, 3.0, "log"),
        Scheme("its", "its", ITS_COST, PLAIN, 0.0, 0.0),
        Scheme("its-edit", "its", ITS_COST, EDIT, 0.4, 0.4),
        Scheme("its-free", "its", ITS_COST, FREE, 1.2, 1.2, "mixture"),
        Scheme("its-local", "its", ITS_COST, LOCAL, 3.0, 3.0, "mixture"),
    )
}
"""Exponential minimum (exp) or inverse transform (its) sampling; aligned without or with edits (the paper's), with free
ends in the key, or locally; by name."""


DEFAULT_SCHEME: SchemeName = "exp-free"
"""What a new watermark is made for unless something else is asked for."""


def scheme_of(name: object) -> Scheme:
    """The scheme of this name; WatermarkError for any other."""
    scheme = SCHEMES.get(name) if isinstance(name, str) else None
    if scheme is None:
        raise WatermarkError(f"scheme {shown(name)} is not known: use one of {', '.join(SCHEMES)}")
    return scheme


def named(cost: TokenCost, alignment: Alignment) -> Scheme | None:
    """The scheme with this cost and alignment, if there is one."""
    return next((s for s in SCHEMES.values() if (s.cost, s.alignment) == (cost, alignment)), None)
