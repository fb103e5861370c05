"""How p is found: a proven bound, a short first pass, the permutation test; and why what comes out is a valid p-value.

1. *First pass* (optional): the permutation test with T1 resamples, stopped at h1 hits (p1, valid by Besag and Clifford
   1991). A text that stops is done: p = h1 / l >= h1 / T1.
2. *Full test*: a text that does not stop gets p2 from T resamples (with a first pass: of another seed), stopped at h
   hits.
3. *Bound* (optional): where a proven bound G is at most eps = 1 / (100 (T + 1)), p = G, and no resample is made; every
   other p has eps added. For its costs G is that of `tail.py`, from phi and the tokens' places in the permutation. For
   exp costs it is twice the less of that and of 1 / E, the e-value over edit paths (`kernels/cpu/evalue.py`): twice,
   because either may be the less. For a local alignment the bound of the best segment without gaps (`segments.py`)
   takes the place of that from phi. A text that stopped in the first pass gets neither e-value, which counts as E = 0,
   nor segment, which can only make G larger.

Why p is valid, P(p <= a) <= a without a watermark. Leave the bound out at first. Without a first pass p is that of the
full test. With one, for a < h1 / T1, p <= a means that the text passed and p2 <= a, and p2 is valid. For a >= h1 / T1,
p <= a implies p1 <= a: a text that stopped has p = p1, and one that passed has at most h1 - 1 hits and
p1 <= h1 / (T1 + 1) < h1 / T1; and p1 is valid. With the bound, P(p <= a) <= P(G <= eps) + P(p' <= a - eps) <= eps +
(a - eps) for a > eps, and P(G <= a) <= a below. This holds whatever the tests' random numbers share.

With a calibrated first pass, a text passes if its approximate p1 <= 1 / (T1 + 1). The argument for a < 1 / (T1 + 1)
does not use p1, so all smaller p-values stay exact; those above are approximate.

A document of w windows gets w times the least p of its windows, at most 1 (Bonferroni), which is valid however the
windows depend on each other. Their e-values are averaged instead: the mean of numbers whose means are at most 1 has a
mean of at most 1, whatever they have in common, and one over it is never more than w times the least 1 / E. So the
window with the largest E, and no other, has the sum of all E for its E: G of the document, w times the least G of its
windows, is then twice the less of a Bonferroni bound and of one over the mean of E. The document is decided by its G
where that is at most w eps, and w eps is added to every other p. With a first pass, of the windows that pass, only the
one with the best fit gets the full test, and none if the bound decides another: the rest get p = h1 / T1. The argument
holds for each window whichever was chosen: for a < h1 / T1, p <= a still means that it passed and p2 <= a, and p2 is
valid whether or not it was looked at; for larger a it implies p1 <= a as before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wmcore.checks import truth, whole_number
from wmcore.costs import CostSource
from wmcore.engine import Engine, Packed
from wmcore.errors import WatermarkError
from wmcore.kernels.cpu import threads as pool
from wmcore.kernels.problem import Fits
from wmcore.schemes import LOCAL
from wmcore.segments import log_segment_bound
from wmcore.significance import derived_seed, permutation_test
from wmcore.statistic import Statistic
from wmcore.tail import log_bound

if TYPE_CHECKING:
    from wmcore.calibration import Calibration

RESAMPLES = 1999
"""T unless something else is asked for: p of a text without hits, (1 + 1/100) / (T + 1), is then below 0.001."""
STOP_AFTER = 50
"""The default h: half of the texts without a watermark stop within 100 resamples; p is off by about 14 %."""
MOST = 2**31 - 1
"""The largest number of resamples."""
LEAST_P = 1e-300
_ROUNDING = 1e-9  # more than the float64 sums of an e-value lose, in its logarithm
_GROUP = 512  # texts of a first pass that share their resampled keys


@dataclass(frozen=True)
class Plan:
    """Which of the three steps are taken, and how many resamples each makes.

    Parameters
    ----------
    resamples : int
        T of the full test. Its least p is (1 + 1/100) / (T + 1), or 1 / (T + 1) without the bound.
    stop_after : int or None
        h: stop a text after this many resamples that fit it as well as the key (Besag and Clifford 1991), which
        leaves p valid and makes texts without a watermark cheap. None uses all T.
    bound : bool
        Take p from the proven bound where that is at most `epsilon`. Without it and without a first pass, this is the
        plain permutation test of the paper (Algorithm 2).
    first_resamples, first_stop : int
        T1 and h1 of the first pass; 0 resamples for none.

    Raises
    ------
    WatermarkError
        For a number out of range.
    """

    resamples: int = RESAMPLES
    stop_after: int | None = STOP_AFTER
    bound: bool = True
    first_resamples: int = 0
    first_stop: int = 1

    def __post_init__(self) -> None:
        plain = {
            "resamples": whole_number("resamples", self.resamples, 1, MOST),
            "bound": truth("bound", self.bound),
            "first_resamples": whole_number("first_resamples", self.first_resamples, 0, MOST),
            "first_stop": whole_number("first_stop", self.first_stop, 1, MOST),
        }
        if self.stop_after is not None:
            plain["stop_after"] = whole_number("stop_after", self.stop_after, 1, MOST)
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.first_resamples and self.first_stop > self.first_resamples:
            raise WatermarkError(
                f"first_stop is {self.first_stop}, more than first_resamples, {self.first_resamples}: "
                "every text would get the full test; lower it"
            )

    @property
    def epsilon(self) -> float:
        """eps: p is a proven bound up to it, and it is added to every p from resamples."""
        return 0.01 / (self.resamples + 1) if self.bound else 0.0


@dataclass(frozen=True)
class Subject:
    """What texts are tested for: a statistic on an engine, under a key."""

    statistic: Statistic
    engine: Engine
    source: CostSource
    fair: bool
    """Whether the key's uniforms have the law that the proven bound assumes."""
    salt: bytes
    """Of the key: what the resamples' seed is mixed with."""

    @property
    def has_evalues(self) -> bool:
        """Whether there are e-values over edit paths."""
        return self.fair and self.statistic.scheme.evalues


@dataclass(frozen=True)
class Columns:
    """Results of N texts, an array each.

    p_value, statistic : float64; shift, block, stop (one past the last token aligned), length, resamples, hits : int64;
    method : str, as in `Detection`, and "first" for a text that stopped in the first pass. p_error : float64, NaN but
    for calibrated p-values. log_e : float64, the logarithm of the e-value over edit paths, -inf (E = 0) where it was
    not made. w times the least p_value of the w windows of a document is the document's.
    """

    p_value: np.ndarray
    statistic: np.ndarray
    shift: np.ndarray
    block: np.ndarray
    stop: np.ndarray
    length: np.ndarray
    resamples: np.ndarray
    hits: np.ndarray
    method: np.ndarray
    p_error: np.ndarray
    log_e: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Columns":
        """Room for `count` texts."""
        whole = ("shift", "block", "stop", "length", "resamples", "hits")
        return cls(
            p_value=np.zeros(count),
            statistic=np.zeros(count),
            **{name: np.zeros(count, np.int64) for name in whole},
            method=np.full(count, "", "<U11"),
            p_error=np.full(count, np.nan),
            log_e=np.full(count, -np.inf),
        )

    def set(self, at: np.ndarray, **columns: np.ndarray | float | str) -> None:
        """Fill in some columns of the texts `at` (int64)."""
        for name, values in columns.items():
            getattr(self, name)[at] = values


def run(
    plan: Plan,
    subject: Subject,
    arrays: Sequence[np.ndarray],
    *,
    seed: int,
    calibration: "Calibration | None" = None,
    documents: Sequence[int] | None = None,
) -> Columns:
    """Test token-id sequences, each of which can be aligned.

    Parameters
    ----------
    plan : Plan
    subject : Subject
    arrays : sequence of int64 arrays
    seed : int
        Of the resamples: the same seed gives the same result of a text under a key, whatever else is tested.
    calibration : Calibration, optional
        The null of a calibrated first pass; a text of a length that it lacks gets a first pass with resamples.
    documents : sequence of int, optional
        Which document each text is a window of. Without, each text is a document.
    """
    columns = Columns.empty(len(arrays))
    everything = np.arange(len(arrays))
    owner = everything if documents is None else np.asarray(documents)
    value = np.zeros(len(arrays), np.int32)
    texts = None
    if plan.first_resamples:
        _first_pass(plan, subject, arrays, derived_seed(seed, "first"), calibration, columns, value)
        calibrated = columns.method == "calibrated"
        least = np.where(
            calibrated, 1 / (plan.first_resamples + 1), plan.first_stop / plan.first_resamples
        )
        passed = np.where(calibrated, columns.p_value <= least, columns.hits < plan.first_stop)
        columns.p_value[passed] = least[passed]  # replaced below, unless another window was chosen
        columns.method[~calibrated] = "first"
    else:
        texts = _fit(subject, arrays, everything, columns, value)
        passed = np.ones(len(arrays), bool)
    columns.p_value[:] = np.minimum(1.0, columns.p_value + plan.epsilon)
    proven = _proven(plan, subject, arrays, passed, owner, columns)
    full = np.flatnonzero(passed & ~proven)
    if plan.first_resamples:
        full = _best_of_each(full[~np.isin(owner[full], owner[proven])], owner, columns)
    if len(full):
        full_seed = derived_seed(seed, "full") if plan.first_resamples else seed
        if texts is None:
            texts = subject.engine.pack([arrays[i] for i in full.tolist()])
        elif len(full) < len(arrays):
            texts = texts.take(full)
        test = permutation_test(
            subject.engine,
            texts,
            value[full],
            resamples=plan.resamples,
            stop_after=plan.stop_after,
            seed=full_seed,
            salt=subject.salt,
        )
        stopped = test.hits == (-1 if plan.stop_after is None else plan.stop_after)
        columns.set(
            full,
            p_value=np.minimum(1.0, test.p_value + plan.epsilon),
            hits=test.hits,
            resamples=test.resamples,
            method=np.where(stopped, "sequential", "permutation"),
        )
    return columns


def look_up(subject: Subject, arrays: Sequence[np.ndarray], calibration: "Calibration") -> Columns:
    """Test by a calibrated null alone: texts of calibrated lengths."""
    columns = Columns.empty(len(arrays))
    everything = np.arange(len(arrays))
    _fit(subject, arrays, everything, columns, np.zeros(len(arrays), np.int32))
    _look_up(calibration, columns, everything)
    return columns


def _fit(
    subject: Subject,
    arrays: Sequence[np.ndarray],
    at: np.ndarray,
    columns: Columns,
    value: np.ndarray,
) -> Packed | None:
    """Fill in the statistics of the texts `at`: in user units in columns, in cost units in value. Gives
    these texts as the kernels take them, if there are any."""
    if not len(at):
        return None
    texts = subject.engine.pack([arrays[i] for i in at])
    fits = subject.engine.fit(texts, subject.source)
    value[at] = fits.value
    _describe(subject, texts.lengths, fits, at, columns)
    return texts


def _describe(
    subject: Subject, lengths: np.ndarray, fits: Fits, at: np.ndarray, columns: Columns
) -> None:
    columns.set(
        at,
        statistic=subject.engine.units(fits.value),
        shift=fits.tau,
        block=fits.block,
        stop=fits.stop,
        length=lengths,
    )


def _look_up(calibration: "Calibration", columns: Columns, at: np.ndarray) -> None:
    """Fill in p of the texts `at` from a calibrated null."""
    total = calibration.resamples
    hits = np.array(
        [calibration.hits(columns.statistic[i], columns.length[i]) for i in at], np.int64
    )
    p = (1 + hits) / (total + 1)
    error = np.sqrt(p * (1 - p) / (total + 1))
    columns.set(at, p_value=p, hits=hits, resamples=total, method="calibrated", p_error=error)


def log_evalues(subject: Subject, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """log E over edit paths of each text, float64 [N], rounded towards less; only of costs that have it."""
    if not arrays:
        return np.empty(0)
    return subject.engine.log_evalues(subject.engine.pack(arrays), subject.source) - _ROUNDING


def log_proven(
    subject: Subject,
    arrays: Sequence[np.ndarray],
    statistic: np.ndarray,
    log_e: np.ndarray,
) -> np.ndarray:
    """log G of each text, float64 [N], at most 0.0; statistic, log_e: float64 [N], -inf where E is not known."""
    lengths = np.array([len(text) for text in arrays], np.int64)
    alignment = subject.statistic.scheme.alignment
    if alignment == LOCAL:
        bounds = np.zeros(len(arrays))
        known = np.flatnonzero(log_e > -np.inf)  # the others did not pass
        if len(known):
            texts = subject.engine.pack([arrays[i] for i in known.tolist()])
            bounds[known] = log_segment_bound(subject.engine, subject.source, texts, lengths[known])
    else:
        etas = subject.source.etas(arrays)
        bounds = log_bound(subject.statistic, subject.engine.problem.n, statistic, lengths, etas)
    if not subject.has_evalues:
        return bounds
    if alignment.scored and alignment != LOCAL:
        return np.minimum(0.0, -log_e)  # there is no other bound
    # The less of two p-values, times two.
    return np.minimum(0.0, np.minimum(bounds, -log_e) + math.log(2))


def bound_value(log_g: float) -> float:
    """G, no less than LEAST_P. By math.exp, not NumPy's: the same digits whatever else is in a batch."""
    return max(math.exp(max(log_g, -800.0)), LEAST_P)


def _proven(
    plan: Plan,
    subject: Subject,
    arrays: Sequence[np.ndarray],
    passed: np.ndarray,
    owner: np.ndarray,
    columns: Columns,
) -> np.ndarray:
    """bool [N]: the texts whose p is the proven bound, which is filled in. passed: bool [N], worth an e-value."""
    if not (plan.bound and subject.fair):
        return np.zeros(len(arrays), bool)
    if subject.has_evalues:
        tried = np.flatnonzero(passed)
        columns.log_e[tried] = log_evalues(subject, [arrays[i] for i in tried.tolist()])
    summed = _sums_at_the_best(columns.log_e, owner)
    bounds = log_proven(subject, arrays, columns.statistic, summed)
    proven = bounds <= math.log(plan.epsilon)
    p = [bound_value(bound) for bound in bounds[proven].tolist()]
    columns.set(np.flatnonzero(proven), p_value=np.array(p), method="bound")
    return proven


def _sums_at_the_best(log_e: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """log E of texts, but for the text of each document with the largest E the log of the document's sum."""
    order = np.lexsort((np.arange(len(log_e)), -log_e, owner))
    first = np.flatnonzero(np.diff(owner[order], prepend=owner[order[:1]] - 1))
    sums = np.logaddexp.reduceat(log_e[order], first) if len(first) else np.empty(0)
    found = log_e.copy()
    found[order[first]] = sums
    return found


def _best_of_each(at: np.ndarray, owner: np.ndarray, columns: Columns) -> np.ndarray:
    """Of the texts `at` the one of each document with the least statistic per token, the first among equals."""
    fit = columns.statistic[at] / columns.length[at]
    order = np.lexsort((at, fit, owner[at]))
    first = np.unique(owner[at][order], return_index=True)[1]
    return np.sort(at[order][first])


def _first_pass(
    plan: Plan,
    subject: Subject,
    arrays: Sequence[np.ndarray],
    seed: int,
    calibration: "Calibration | None",
    columns: Columns,
    value: np.ndarray,
) -> None:
    """Statistics and first p-values of all texts."""
    lengths = np.array([len(text) for text in arrays], np.int64)
    by_length = np.argsort(lengths, kind="stable")
    fast = np.zeros(len(arrays), bool)
    if calibration is not None:
        fast = np.array([calibration.length_error(m) is None for m in lengths.tolist()], bool)
    _fit(subject, arrays, by_length[fast[by_length]], columns, value)
    if calibration is not None:
        _look_up(calibration, columns, by_length[fast[by_length]])
    slow = by_length[~fast[by_length]]
    engine = subject.engine.on_threads(1)

    # A resample needs as many rows as the longest text of a call has distinct tokens: like lengths together. With so
    # few resamples a kernel has nothing to share out among threads: the groups are.
    def test(at: np.ndarray) -> None:
        texts = engine.pack([arrays[i] for i in at])
        fits = engine.fit(texts, subject.source)
        value[at] = fits.value
        _describe(subject, texts.lengths, fits, at, columns)
        found = permutation_test(
            engine,
            texts,
            fits.value,
            resamples=plan.first_resamples,
            stop_after=plan.first_stop,
            seed=seed,
            salt=subject.salt,
        )
        columns.set(at, p_value=found.p_value, hits=found.hits, resamples=found.resamples)

    groups = [slow[group] for group in _groups(lengths[slow].tolist())]
    pool.run(test, [(group,) for group in groups], subject.engine.threads)


def _groups(lengths: list[int]) -> list[slice]:
    """Runs of ascending lengths that differ by a quarter or by 32 tokens at most, _GROUP texts at most."""
    groups, first = [], 0
    for i in range(1, len(lengths) + 1):
        if (
            i == len(lengths)
            or i - first >= _GROUP
            or lengths[i] > max(1.25 * lengths[first], lengths[first] + 32)
        ):
            groups.append(slice(first, i))
            first = i
    return groups
