"""A calibrated null: statistics of resampled keys, stored by text length, so that detection is one phi and a look-up.

The null law of phi depends on a text only through its length and its pattern of repeated tokens. The published
experiments use that: they compare every text with one stored sample. The p-value is then approximate, because the
stored sample comes from other texts (and, between two lengths, from an interpolation); `Detection.method` says so.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from wmcore import calibration_file
from wmcore.binning import binning
from wmcore.checks import text_list, thread_count, token_ids, whole_number
from wmcore.engine import Engine
from wmcore.errors import WatermarkError, shown
from wmcore.kernels.problem import COSTS, Problem, Resamples
from wmcore.significance import seed_key
from wmcore.statistic import Statistic
from wmcore.types import Array, BackendName, TokenIds
from wmcore.watermark import Watermark, checked_watermark

_EXCERPTS = 50


@dataclass(frozen=True)
class Calibration:
    """Null statistics of one scheme for a range of text lengths.

    Attributes
    ----------
    test : dict
        What the null depends on: cost and alignment (names), n, gamma (cost units), block_length, and for costs made
        from ranks vocab_size and denominator.
    lengths : int64 [L]
        Calibrated text lengths, ascending.
    statistics : float64 [L, R]
        Null statistics (nats for exp), sorted along R.
    """

    test: dict[str, Any]
    lengths: np.ndarray
    statistics: np.ndarray

    @classmethod
    def fit(
        cls,
        watermark: Watermark,
        lengths: Sequence[int],
        resamples: int = 2000,
        *,
        tokens: Sequence[TokenIds] | Array | None = None,
        statistic: Statistic | None = None,
        seed: int | None = None,
        threads: int | None = None,
        backend: BackendName = "auto",
    ) -> "Calibration":
        """Sample the null statistics of a watermark's scheme; the key itself is not used.

        Parameters
        ----------
        watermark : Watermark
        lengths : sequence of int
            Text lengths in tokens. Detection interpolates between them and refuses what lies outside.
        resamples : int
            R, statistics for each length.
        tokens : sequence of token-id sequences, optional
            Texts like those to be tested: excerpts of them give the pattern of repetitions. Without, tokens are
            drawn uniformly, which repeat less than those of real texts.
        statistic : Statistic, optional
            Of `Watermark.tested_as`. Default: the watermark's own.
        seed, threads, backend
            As for `Detector`.

        Raises
        ------
        WatermarkError
            For a length that cannot be aligned, or texts too short for it.

        Notes
        -----
        Time: about one exact statistic (0.2 ms at n = 256, 200 tokens) for each of L * R.
        """
        resamples = whole_number("resamples", resamples, 1)
        watermark = checked_watermark("watermark", watermark)
        statistic = watermark.statistic if statistic is None else statistic
        problem = watermark.problem(statistic)
        if statistic.scores is not None and len(statistic.scores.table.density) > 1:
            raise WatermarkError(
                f"score {shown(statistic.scores.name)} of scheme {statistic.scheme.name!r} differs from token to "
                "token, so texts of one length do not share a null: leave calibration out, or use another score"
            )
        engine = Engine(
            backend,
            problem,
            statistic.block_length,
            thread_count(threads),
            binning(statistic, watermark.key.costs(problem)),
        )
        secret = watermark.key
        key = seed_key(secret.default_seed if seed is None else seed, secret.salt)
        rng = np.random.default_rng(key)
        if not isinstance(lengths, Iterable):
            raise TypeError(f"lengths is a {type(lengths).__name__}, but must be a list of lengths")
        whole = [whole_number("a length in lengths", length, 1, 2**31 - 1) for length in lengths]
        sizes = np.unique(np.array(whole, np.int64))
        if sizes.size == 0:
            raise WatermarkError("lengths is empty: give at least one text length")
        calibration_file.check_size(sizes.size, resamples)
        corpus = None if tokens is None else _corpus(tokens)
        statistics = np.empty((sizes.size, resamples))
        for row, length in enumerate(sizes.tolist()):
            error = engine.error(length)
            if error is not None:
                raise WatermarkError(f"lengths holds {length}: {error}")
            excerpts = _excerpts(corpus, length, problem.vocab_size, rng)
            texts = engine.pack(excerpts)
            edges = [2 * (resamples * e // len(excerpts) // 2) for e in range(len(excerpts))]
            edges.append(resamples)
            for a, (first, stop) in enumerate(pairwise(edges)):
                if first < stop:
                    null = engine.null(texts, a, Resamples(key, first, stop))
                    statistics[row, first:stop] = null
        statistics.sort(axis=1)
        return cls(_test(statistic, problem), sizes, statistics)

    @property
    def resamples(self) -> int:
        """R, the statistics stored for each length."""
        return self.statistics.shape[1]

    def length_error(self, length: int) -> str | None:
        """Why a text of this length has no calibrated p, or None."""
        if self.lengths[0] <= length <= self.lengths[-1]:
            return None
        return (
            f"the text's {length} tokens are outside the calibrated lengths {self.lengths[0]} to "
            f"{self.lengths[-1]}: calibrate for it, or leave calibration out"
        )

    def hits(self, statistic: float, length: int) -> int:
        """How many null statistics are <= statistic at a calibrated length (quantiles interpolated between two)."""
        above = int(np.searchsorted(self.lengths, length))
        null = self.statistics[above]
        if self.lengths[above] != length:
            low, high = self.lengths[above - 1], self.lengths[above]
            weight = (length - low) / (high - low)
            null = (1 - weight) * self.statistics[above - 1] + weight * null
        # 1e-7 is far below a cost unit: what is equal in units stays equal after the division.
        return int(np.searchsorted(null, statistic + 1e-7, side="right"))

    def check(self, statistic: Statistic, problem: Problem) -> None:
        """Raise WatermarkError unless this null is that of a statistic and its sizes."""
        theirs = _test(statistic, problem)
        if theirs == self.test:
            return
        differ = [
            f"{name} {shown(self.test.get(name))} (the watermark: {value!r})"
            for name, value in theirs.items()
            if self.test.get(name) != value
        ]
        raise WatermarkError(
            f"the calibration was made for {', '.join(differ) or 'another test'}: "
            "use a calibration fitted for this watermark"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file (arrays and a JSON string; no pickle, no secret); WatermarkError if it is too large."""
        calibration_file.write(path, self.test, self.lengths, self.statistics)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Calibration":
        """Read what `save` wrote; raises WatermarkError for anything else."""
        return cls(*calibration_file.read(path))


def _test(statistic: Statistic, problem: Problem) -> dict[str, Any]:
    ranked = COSTS[problem.cost].ranked  # ranks matter to these costs alone
    return {
        "cost": statistic.scheme.cost.name,
        "alignment": statistic.scheme.alignment.name,
        "n": problem.n,
        "gamma": problem.gamma,
        "vocab_size": problem.vocab_size if ranked else None,
        "denominator": problem.denominator if ranked else None,
        "block_length": statistic.block_length,
        "score": None if statistic.scores is None else statistic.scores.name,
    }


def _corpus(tokens: Sequence[TokenIds] | Array) -> list[np.ndarray]:
    """Token ids of each text; WatermarkError for the first that is none."""
    arrays = []
    for place, text in enumerate(text_list("tokens", tokens)):
        try:
            arrays.append(token_ids(text).astype(np.int64))
        except Exception as error:
            raise WatermarkError(
                f"tokens: text {place} is no sequence of token ids: {error}"
            ) from None
    return arrays


def _excerpts(
    corpus: list[np.ndarray] | None, length: int, vocab_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Texts of this length, cut from the corpus at random places or drawn uniformly."""
    if corpus is None:
        return [rng.integers(vocab_size, size=length) for _ in range(_EXCERPTS)]
    long_enough = [text for text in corpus if len(text) >= length]
    if not long_enough:
        raise WatermarkError(
            f"lengths holds {length}, but no text of tokens is that long: give longer texts"
        )
    found = []
    for i in rng.choice(len(long_enough), size=_EXCERPTS, replace=len(long_enough) < _EXCERPTS):
        start = rng.integers(len(long_enough[i]) - length + 1)
        found.append(long_enough[i][start : start + length])
    return found
