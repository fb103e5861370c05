"""A calibrated null: statistics of resampled keys, stored by text length, so that detection is one phi and a look-up.

The null law of phi depends on a text only through its length and its pattern of repeated tokens. The published
experiments use that: they compare every text with one stored sample. The p-value is then approximate, because the
stored sample comes from other texts (and, between two lengths, from an interpolation); `Detection.method` says so.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wmcore.errors import WatermarkError
from wmcore.kernels import resolve
from wmcore.kernels.packing import Problem, block_error, pack
from wmcore.significance import seed_key
from wmcore.watermark import Watermark

_EXCERPTS = 50
_VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """Null statistics of one scheme for a range of text lengths.

    Attributes
    ----------
    scheme : dict
        What the null depends on: its, edits, n, gamma (cost units), vocab_size and denominator (its), block_length.
    lengths : int64 [L]
        Calibrated text lengths, ascending.
    statistics : float64 [L, R]
        Null statistics (nats for exp), sorted along R.
    """

    scheme: dict[str, Any]
    lengths: np.ndarray
    statistics: np.ndarray

    @classmethod
    def fit(
        cls,
        watermark: Watermark,
        lengths: Sequence[int],
        resamples: int = 2000,
        *,
        tokens: Sequence[Any] | None = None,
        seed: int | None = None,
        threads: int | None = None,
        backend: str = "auto",
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
        from wmcore.detect import check_count, default_threads

        check_count("resamples", resamples, 1)
        problem = watermark.problem
        engine = resolve(backend)
        key = seed_key(seed)
        rng = np.random.default_rng(key)
        sizes = np.unique(np.asarray(lengths, np.int64))
        if sizes.size == 0:
            raise WatermarkError("lengths is empty: give at least one text length")
        if sizes[0] < 1:
            raise WatermarkError(f"lengths holds {sizes[0]}, but a text has at least one token")
        corpus = None if tokens is None else _corpus(tokens)
        statistics = np.empty((sizes.size, resamples))
        for row, length in enumerate(sizes.tolist()):
            k = watermark.block_length or length
            problem_text = block_error(problem, length, k)
            if problem_text is not None:
                raise WatermarkError(f"lengths holds {length}: {problem_text}")
            excerpts = _excerpts(corpus, length, problem.vocab_size, rng)
            packed = pack(excerpts, watermark.block_length)
            edges = [2 * (resamples * e // len(excerpts) // 2) for e in range(len(excerpts))]
            edges.append(resamples)
            for a in range(len(excerpts)):
                first, last = edges[a], edges[a + 1]
                if first < last:
                    values = engine.null_values(
                        problem, packed, a, key, first, last, default_threads(threads)
                    )
                    statistics[row, first:last] = (values - problem.taken_off(k)) / problem.scale
        statistics.sort(axis=1)
        return cls(_scheme(watermark), sizes, statistics)

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

    def check(self, watermark: Watermark) -> None:
        """Raise WatermarkError unless this null is that of the watermark's scheme and sizes."""
        theirs = _scheme(watermark)
        if theirs == self.scheme:
            return
        differ = [
            f"{name} {self.scheme.get(name)} (the watermark: {value})"
            for name, value in theirs.items()
            if self.scheme.get(name) != value
        ]
        raise WatermarkError(
            f"the calibration was made for {', '.join(differ) or 'another scheme'}: "
            "use a calibration fitted for this watermark"
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write an .npz file (arrays and a JSON string; no pickle, no secret)."""
        header = json.dumps({"version": _VERSION, "scheme": self.scheme})
        with open(path, "wb") as file:
            np.savez_compressed(
                file, header=np.array(header), lengths=self.lengths, statistics=self.statistics
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Calibration":
        """Read what `save` wrote; raises WatermarkError for anything else."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header = json.loads(str(arrays["header"]))
                lengths, statistics = arrays["lengths"], arrays["statistics"]
            if header["version"] != _VERSION:
                raise WatermarkError(
                    f"calibration file {path} has version {header['version']}, but this wmcore reads "
                    f"version {_VERSION}: fit it again"
                )
            in_order = (np.diff(lengths) > 0).all() and (np.diff(statistics, axis=1) >= 0).all()
            if lengths.shape != statistics.shape[:1] or not statistics.size or not in_order:
                raise ValueError
            return cls(dict(header["scheme"]), lengths, statistics)
        except WatermarkError:
            raise
        except OSError as error:
            reason = error.strerror or "not an .npz file"
        except Exception:  # zipfile, json and numpy each have their own for a damaged file
            reason = "damaged, or not a calibration"
        raise WatermarkError(
            f"calibration file {path} cannot be read ({reason}): fit it again with Calibration.fit"
        )


def _scheme(watermark: Watermark) -> dict[str, Any]:
    problem: Problem = watermark.problem
    return {
        "its": problem.its,
        "edits": problem.edits,
        "n": problem.n,
        "gamma": problem.gamma,
        # Ranks matter to its alone.
        "vocab_size": problem.vocab_size if problem.its else None,
        "denominator": problem.denominator if problem.its else None,
        "block_length": watermark.block_length,
    }


def _corpus(tokens: Sequence[Any]) -> list[np.ndarray]:
    """Token ids of each text; WatermarkError for the first that is none."""
    from wmcore.detect import as_token_ids

    arrays = []
    for place, text in enumerate(tokens):
        try:
            arrays.append(as_token_ids(text).astype(np.int64))
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
