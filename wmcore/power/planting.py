"""`PlantedKey`: a key drawn from its law, given that it wrote a text.

A watermark leaves the law of texts as it is. So the pair (key, text that it writes) has the same law whether the key
is drawn first, or the text first, from the model without a watermark, and then a key given that it writes that text:

exp. At a row, let E_v = -log xi_v, independent and exponential. The token written is that with the least E_v / p_v;
which one is independent of that least, M, and M is exponential, of mean 1. So E of the written token y is p_y M
(xi = U^p, U uniform), and by lack of memory E_v = p_v M + another exponential number for each other token v. The
tokens whose p_v is not known get E_v without the first part: they fit a hair too well, at a row where none of them was
written. Exact where all probabilities are known; the fit of text to key is exact always.

its. The permutation is independent of the text. Given both, a row's u is uniform in the interval of its token: from
the mass of the tokens of smaller rank on, as wide as p_y. What is known of the mass stands at its tokens' ranks. The
rest is put at as few ranks as it may be: none of its tokens is likelier than the least of those known, if these are the
likeliest. (Spread over all, it would make the text fit too well: u would lie around its token's rank.)

A text of at most n tokens meets no row twice. A longer one is no longer distortion-free, and none of this holds.
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wmcore.costs import CostSource, RankCosts
from wmcore.kernels import Backend
from wmcore.kernels.constants import EXP_COST_MIN, EXP_SCALE
from wmcore.kernels.problem import COSTS, CostTable
from wmcore.key import Key
from wmcore.power.sampled import SampledText

if TYPE_CHECKING:
    from wmcore.kernels.problem import Problem


class PlantedKey(Key):
    """A secret key, but for the numbers that made it write a text.

    Parameters
    ----------
    secret : bytes
        32 bytes: all else follows from them and the text.
    text : SampledText
        Of at most n tokens.
    """

    def __init__(self, secret: bytes, text: SampledText) -> None:
        super().__init__(secret)
        self._text = text

    def rows(self, key_length: int) -> np.ndarray:
        """The key row that each token of the text was drawn from: int64 [m]."""
        shift = self._random(0).integers(key_length)
        return (shift + np.arange(len(self._text))) % key_length

    def costs(self, problem: "Problem") -> CostSource:
        """The costs of tokens under this key."""
        if COSTS[problem.cost].ranked:
            return RankCosts(partial(self._units, problem), problem)
        return _PlantedCosts(super().costs(problem), problem.n, *self._exponents(problem.n))

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([*self.words.tolist(), purpose])

    def _exponents(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, tokens, -log xi of them) of all numbers that are not as in the secret: int64, int64, float64 [P]."""
        text, random = self._text, self._random(1)
        rows = self.rows(n)
        least = random.exponential(size=len(text))
        own = np.exp(text.log_p) * least
        others = np.exp(text.others_log_p) * least[:, None]
        others += random.exponential(size=others.shape)
        at, k = np.nonzero(text.others >= 0)
        return (
            np.concatenate([rows, rows[at]]),
            np.concatenate([text.tokens, text.others[at, k]]),
            np.concatenate([own, others[at, k]]),
        )

    def _units(self, problem: "Problem") -> tuple[np.ndarray, np.ndarray]:
        """u of each row, in cost units, and the permutation: int64 [n], int32 [V]."""
        text, random = self._text, self._random(1)
        u, order = self._its_units(problem.n, problem.vocab_size)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        own = rank[text.tokens]
        below = (text.others >= 0) & (rank[text.others] < own[:, None])
        before = np.where(below, np.exp(text.others_log_p), 0.0).sum(axis=1)
        unknown = _unlisted(text)
        before += text.rest * random.binomial(unknown, own / max(len(order) - 1, 1)) / unknown
        planted = before + np.exp(text.log_p) * random.random(len(text))
        scale = COSTS[problem.cost].scale
        u[self.rows(problem.n)] = np.clip(planted * scale, 0, scale - 1).astype(np.int64)
        return u, order


def _unlisted(text: SampledText) -> np.ndarray:
    """The fewest tokens that can have the rest of each law, at least one: int64 [m]."""
    known = np.where(text.others >= 0, text.others_log_p, np.inf).min(axis=1, initial=np.inf)
    least = np.exp(np.where(np.isfinite(known), known, text.log_p))
    return np.maximum(np.ceil(text.rest / least), 1).astype(np.int64)


class _PlantedCosts(CostSource):
    """A key's costs and numbers but for those at some (row, token), whose -log u is given."""

    def __init__(
        self, base: CostSource, n: int, rows: np.ndarray, tokens: np.ndarray, exponent: np.ndarray
    ) -> None:
        self._base = base
        self._n = n
        self._planted = rows, tokens, exponent

    def matrix(self, tokens: np.ndarray, backend: Backend, threads: int) -> np.ndarray:
        made = self._base.matrix(tokens, backend, threads)[:, : self._n].copy()
        at, rows, exponent = self._among(tokens)
        least = np.exp(EXP_COST_MIN / EXP_SCALE)
        cost = EXP_SCALE * np.log(np.maximum(-np.expm1(-exponent), least))
        made[at, rows] = np.rint(cost).astype(np.int32)
        return made

    def numbers(self, tokens: np.ndarray, backend: Backend) -> CostTable:
        distinct, source = np.unique(tokens, return_inverse=True)
        made = self._base.numbers(distinct, backend)
        matrix = made.matrix[made.source, : self._n].copy()
        at, rows, exponent = self._among(distinct)
        matrix[at, rows] = np.minimum(np.exp(-exponent) * 65536, 65535).astype(matrix.dtype)
        return CostTable(matrix, source)

    def _among(self, distinct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(place in `distinct`, row, exponent) of what is planted at one of these tokens, in ascending order."""
        rows, tokens, exponent = self._planted
        place = np.minimum(np.searchsorted(distinct, tokens), len(distinct) - 1)
        there = distinct[place] == tokens
        return place[there], rows[there], exponent[there]
