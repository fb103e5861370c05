"""From raw rows to one summary for each setting: medians and shares of p-values, with how sure they are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import fsum, isnan
from typing import Any

import numpy as np
from scipy.stats import binom

from wmcore.paper.rows import Row

Summary = dict[str, Any]
"""What `summarise` makes of a group of rows."""

LEVELS = {"0.01": 0.01, "1e-4": 1e-4}
"""{key in a summary: level}."""


def summarise(rows: Iterable[Row], by: Sequence[str]) -> list[Summary]:
    """One summary for each combination of values in the columns `by`, sorted by these values, None last.

    A text that could not be tested (p is NaN) counts as p = 1 everywhere: it was not found.

    Returns
    -------
    list of dict
        The columns `by`, then
        n, failed : texts, and those of them that could not be tested.
        shorter : texts of fewer tokens than they were to be cut to.
        resamples : the most of any text; p is at least 1 / (resamples + 1).
        median_p, quartiles : of p; quartiles is [lower, upper], interpolated linearly, as the median.
        median_interval : [low, high], of the median, by order statistics: it covers with at least 95 %, whatever
            the law of p. Below six texts that says no more than what p can be.
        0.01, 1e-4 : [share of texts with p at or below this level, its standard error]; None if p cannot get there.
        tokens, all_tokens : median and sum of the tokens tested.
        entropy, potential : means over these tokens; of the texts that have them, None if none has.

    Raises
    ------
    ValueError
        If a group holds a text twice: results for one text are not independent, so no error could be stated.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in by), []).append(row)
    ordered = sorted(groups, key=lambda values: [(value is None, value) for value in values])
    return [
        {**dict(zip(by, values, strict=True)), **_summary(groups[values])} for values in ordered
    ]


def _summary(rows: list[Row]) -> Summary:
    _check_independent(rows)
    given = np.array([row["p"] for row in rows], float)
    p = np.sort(np.where(np.isnan(given), 1.0, given))
    resamples = max(row["resamples"] for row in rows)
    least = 1 / (resamples + 1)
    lower, middle, upper = (float(q) for q in np.quantile(p, [0.25, 0.5, 0.75]))
    return {
        "n": len(p),
        "failed": int(np.isnan(given).sum()),
        "resamples": resamples,
        "median_p": middle,
        "quartiles": [lower, upper],
        "median_interval": median_interval(p, least),
        **{key: share(p <= level) if least <= level else None for key, level in LEVELS.items()},
        "shorter": sum(row["cut"] is not None and row["tokens"] < row["cut"] for row in rows),
        "tokens": float(np.median([row["tokens"] for row in rows])),
        "all_tokens": sum(row["tokens"] for row in rows),
        "entropy": token_mean((row["entropy"], row["tokens"]) for row in rows),
        "potential": token_mean((row["potential"], row["tokens"]) for row in rows),
    }


def _check_independent(rows: list[Row]) -> None:
    texts = Counter((row["model"], row["prompts"], row["text"]) for row in rows)
    if len(texts) < len(rows):
        one = max(texts, key=lambda text: texts[text])
        same = [row for row in rows if (row["model"], row["prompts"], row["text"]) == one]
        vary = [c for c in rows[0] if len({repr(row[c]) for row in same}) > 1]
        raise ValueError(
            f"by: text {one[2]} of {one[1]!r} comes {len(same)} times in a group, and differs in {vary}: group by such "
            "a column, or select one of its values first"
        )


def share(found: np.ndarray) -> list[float]:
    """[share, its standard error] of bool [N]: sqrt(q (1 - q) / N) with q = (found + 1/2) / (N + 1), so never 0."""
    n = len(found)
    q = (found.sum() + 0.5) / (n + 1)
    return [round(float(found.mean()), 4), round(float(np.sqrt(q * (1 - q) / n)), 4)]


def median_interval(values: np.ndarray, least: float) -> list[float]:
    """[low, high] that covers the median with at least 95 %: order statistics of float64 [N], sorted.

    The number of values below the median is at most binomial(N, 1/2). For N < 6 no two values will do: [least, 1].
    """
    n = len(values)
    rank = int(binom.ppf(0.025, n, 0.5))
    return [float(values[rank - 1]), float(values[n - rank])] if rank else [least, 1.0]


def token_mean(weighted: Iterable[tuple[float | None, int]]) -> float | None:
    """The mean of (value, tokens) weighted by tokens, without those whose value is None or NaN; None if none is left.

    The same in any order of the rows: `fsum` rounds once.
    """
    known = [(v, tokens) for v, tokens in weighted if v is not None and not isnan(v) and tokens]
    if not known:
        return None
    return fsum(v * tokens for v, tokens in known) / sum(tokens for _, tokens in known)
