"""Scores: what a key's number u says of a token, in nats: s(u) = log f(u), f a density on (0, 1).

Under the null u is uniform, so e to a score has mean 1, whatever the density: scores add up to an e-value (`plan.py`),
and their own mean is negative, as a local alignment asks for. f is what one expects of u in watermarked text: that of a
token of probability p, chosen by exponential minimum sampling, has the density u^(1/p - 1) / p.

Numbers have 16 bits here, sorted into levels (exp: 8 to a nat of -log(1 - u); its: 64 of equal width), and a score is
the logarithm of the mean density in its level: E e^score <= 1 stays exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from wmcore.errors import WatermarkError, shown
from wmcore.kernels.constants import LEVELS, SCORE_SCALE
from wmcore.kernels.problem import Scoring

TILT = 0.4
DELTA = 0.1
CLIP = 5.0
ETA_BINS = 32
_PER_NAT = 8
_NUMBERS = (np.arange(65536) + 0.5) / 65536
# Weights of token probabilities 2**-i, i = 0 .. 10.
_WEIGHTS = np.array([0.45, 0.15, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01, 0.01])
_LEAST_FACTOR = 2.0**-40
_ITS_LEVELS = 64
_SPREAD = 5.0
_UNIFORM = 0.3


@cache
def levels(sampler: str) -> np.ndarray:
    """The level of each 16-bit number of a sampler's key: uint8 [65536]."""
    if sampler == "its":
        return (np.arange(65536) * _ITS_LEVELS >> 16).astype(np.uint8)
    return np.floor(-np.log1p(-_NUMBERS) * _PER_NAT).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Densities by level, one row for each bin of tokens.

    Attributes
    ----------
    sampler : str
        Whose numbers they are for: "exp" or "its".
    density : float64 [B, LEVELS]
        Mean density of u in each level, 0 where there is no such level; B at most 256. Scaled on entry, so that its
        mean over all numbers is 1.

    Raises
    ------
    WatermarkError
        For another shape, or numbers that are no densities.
    """

    sampler: str
    density: np.ndarray

    def __post_init__(self) -> None:
        density = np.array(self.density, np.float64)
        if density.ndim != 2 or density.shape[1] != LEVELS or not 1 <= len(density) <= 256:
            raise WatermarkError(
                f"density has the shape {density.shape}, but must be [bins, {LEVELS}] with 1 to 256 bins"
            )
        chance = self.chance
        if not (np.isfinite(density).all() and (density >= 0).all() and (density @ chance).all()):
            raise WatermarkError(
                "density holds numbers that are no densities: they must be >= 0, and not all 0"
            )
        density /= (density @ chance)[:, None]
        object.__setattr__(self, "density", density)

    @property
    def chance(self) -> np.ndarray:
        """How likely each level is by chance: float64 [LEVELS]."""
        return np.bincount(levels(self.sampler), minlength=LEVELS) / 65536

    def scoring(self) -> Scoring:
        """The table as the kernels take it."""
        factors = np.maximum(self.density, _LEAST_FACTOR)
        factors /= (factors @ self.chance)[:, None]
        costs = np.rint(-SCORE_SCALE * np.log(factors)).astype(np.int16)
        # Down a hair: float64 sums must not raise the mean above 1.
        return Scoring(levels(self.sampler), costs, factors * (1 - 1e-12))


def by_level(density: np.ndarray) -> np.ndarray:
    """Mean densities of exp by level, [B, LEVELS], of densities at every number, float64 [B, 65536] or [65536]."""
    density = np.atleast_2d(density)
    level = levels("exp")
    count = np.maximum(np.bincount(level, minlength=LEVELS), 1)
    return np.stack([np.bincount(level, row, LEVELS) / count for row in density])


def of_probabilities(p: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """The density of u for tokens of probabilities p (exp): the mean of u^(1/p - 1) / p, float64 [65536]."""
    p = np.clip(np.asarray(p, np.float64), 1e-6, 1.0)
    weight = np.full(p.size, 1 / p.size) if weight is None else weight
    out = np.zeros(65536)
    log_u = np.log(_NUMBERS)
    for share, one in zip(weight, p, strict=True):
        out += share / one * np.exp((1 / one - 1) * log_u)
    return out


def _tilted_log() -> np.ndarray:
    return (1 - TILT) * np.exp(-TILT * np.log1p(-_NUMBERS))


def _clipped_log() -> np.ndarray:
    return np.exp(TILT * np.minimum(-np.log1p(-_NUMBERS), CLIP))


def _mixture() -> np.ndarray:
    return 0.5 + 0.5 * of_probabilities(2.0 ** -np.arange(11), _WEIGHTS)


def _least_favourable() -> np.ndarray:
    whole = np.floor(1 / (1 - DELTA))
    rest = 1 - (1 - DELTA) * whole
    log_u = np.log(_NUMBERS)
    found = whole * np.exp(DELTA / (1 - DELTA) * log_u)
    return found + np.exp((1 / rest - 1) * log_u) if rest > 1e-9 else found


SCORES: dict[str, Callable[[], np.ndarray]] = {
    "log": _tilted_log,
    "clipped": _clipped_log,
    "mixture": _mixture,
    "delta": _least_favourable,
}
"""Densities of u by name, for exp.

log: (1 - t) (1 - u)^-t, t = 0.4: the paper's cost log(1 - u), tilted to a density. clipped: the same with the log
clipped at 5 nats. mixture: half uniform, half a mixture of tokens of probabilities 1, 1/2, .. 1/1024. delta: the least
favourable law of Li et al. (2404.01245) for tokens of probability up to 1 - 0.1.
"""


def _interval() -> np.ndarray:
    """Mean densities of u given eta (its) by level, a row for each of `ETA_BINS`: float64 [ETA_BINS, LEVELS].

    Inverse transform sampling gives a token of probability p the interval of u that starts at the mass of the tokens of
    smaller rank. That is (1 - p) B, B about eta: it has mean eta, and spreads the more the fewer tokens share the rest;
    here it is Beta(5 eta, 5 (1 - eta)). Mixed over p as above, 0.3 of it uniform.
    """
    from scipy.special import betaincinv

    eta = ((np.arange(ETA_BINS) + 0.5) / ETA_BINS)[:, None]
    quantiles = (np.arange(32) + 0.5) / 32
    before = betaincinv(_SPREAD * eta, _SPREAD * (1 - eta), quantiles)[:, :, None]
    edges = np.arange(_ITS_LEVELS + 1) / _ITS_LEVELS
    out = np.zeros((ETA_BINS, LEVELS))
    out[:, :_ITS_LEVELS] = _UNIFORM
    for weight, p in zip(_WEIGHTS, 2.0 ** -np.arange(11), strict=True):
        start = (1 - p) * before
        inside = np.minimum(start + p, edges[1:]) - np.maximum(start, edges[:-1])
        mean = np.maximum(inside, 0).mean(axis=1) * _ITS_LEVELS
        out[:, :_ITS_LEVELS] += (1 - _UNIFORM) * weight / p * mean
    return out


class Scores:
    """A table of scores, and which of its bins each token of a text is in.

    Any function of the text will do: it does not change when the key's numbers are drawn anew, so the test stays exact.

    name : str, for messages and files; table : ScoreTable; gap : float or None, the gap cost that suits the scores, if
    that is not the scheme's; by_eta : bool, whether the bin of a token is that of its eta under the key (its), of
    `ETA_BINS`.
    """

    name: str
    table: ScoreTable
    gap: float | None = None
    by_eta = False

    def bins(self, tokens: np.ndarray) -> np.ndarray:
        """The bin of each token of one text (int64 [m]): uint8 [m]. Here, all in the first."""
        return np.zeros(len(tokens), np.uint8)


class NamedScores(Scores):
    """One of `SCORES` for exp, or "mixture" for its, by name."""

    def __init__(self, sampler: str, name: str) -> None:
        self.name = name
        if sampler == "its":
            self.by_eta = True
            self.table = ScoreTable("its", _interval())
        else:
            self.table = ScoreTable("exp", by_level(SCORES[name]()))

    def __reduce__(self) -> tuple[Callable[[str, str], Scores], tuple[str, str]]:
        return named_scores, (self.table.sampler, self.name)


@cache
def named_scores(sampler: str, name: str) -> Scores:
    """The scores of this name for a sampler's numbers; WatermarkError for a name that is not known."""
    known = ("mixture",) if sampler == "its" else tuple(SCORES)
    if name not in known:
        raise WatermarkError(
            f"score {shown(name)} is not known for {sampler}: use one of {', '.join(known)}"
        )
    return NamedScores(sampler, name)
