"""The published scripts' calibrated p beside the exact one: texts of one length are compared with one stored null.

There the null is phi of 5,000 human texts under random keys. Here it is `wmcore.Calibration`, fitted with excerpts of
human texts, as many resamples.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wmcore.calibration import Calibration
from wmcore.detect import Detector
from wmcore.key import Key
from wmcore.paper import grids
from wmcore.paper.points import Point, point_under, received, rows_of, trial_of
from wmcore.paper.sizes import Size
from wmcore.paper.study import Study
from wmcore.paper.texts import load, secret_of
from wmcore.schemes import SCHEMES
from wmcore.watermark import Watermark

CALIBRATED = 5_000
"""Null statistics: as many as the published scripts keep."""


def points(size: Size) -> Iterator[Point]:
    """What is tested exactly, to be compared: marked texts and those of people, at the first m of the edits."""
    for test in grids.PAPER:
        for method in (SCHEMES[test].sampler, "human"):
            texts = grids.news(size, method)
            yield Point(texts, test, size.cuts[0], resamples=size.resamples, count=size.count)


def compare(study: Study, size: Size) -> list[dict[str, Any]]:
    """A row a test and kind of text: how far the two p are apart."""
    wanted = [p for p in (point_under(study, p) for p in points(size)) if p is not None]
    nulls = {point.test: _null(study, size, point) for point in wanted}
    found = []
    for point in wanted:
        exact = {row["text"]: row["p"] for row in rows_of(study, point)}
        texts = [text for text in load(study, point.texts, point.count) if text.number in exact]
        calibrated = []
        for text in texts:
            mark = _mark(study, point, secret_of(study, point.texts, text.number))
            tokens = received(study, point, text)
            (one,) = Detector(mark, threads=1).detect([tokens], calibration=nulls[point.test])
            calibrated.append(np.nan if one.p_value is None else one.p_value)
        found.append(
            {
                "test": point.test,
                "text": point.texts.method,
                **_difference(np.array([exact[t.number] for t in texts]), np.array(calibrated)),
            }
        )
    return found


def _difference(exact: np.ndarray, calibrated: np.ndarray) -> dict[str, Any]:
    both = ~np.isnan(exact) & ~np.isnan(calibrated)
    a, b = exact[both], calibrated[both]
    return {
        "texts": int(both.sum()),
        "median_exact": float(np.median(a)),
        "median_calibrated": float(np.median(b)),
        "found_exact": float((a <= 0.01).mean()),
        "found_calibrated": float((b <= 0.01).mean()),
        "mean_difference": float(np.abs(a - b).mean()),
        "largest_difference": float(np.abs(a - b).max()),
        "correlation": _correlation(a, b),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Of ranks; None where one of them does not vary."""
    from scipy.stats import spearmanr

    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(spearmanr(a, b).statistic)


def _mark(study: Study, point: Point, secret: bytes) -> Watermark:
    trial = trial_of(study, point)
    scheme = SCHEMES[point.test]
    return Watermark.create(
        scheme.name,
        vocab_size=trial.vocab_size,
        key_length=trial.key_length,
        gap=scheme.published_gap,
        key=Key(secret),
    )


def _null(study: Study, size: Size, point: Point) -> Calibration:
    people: Sequence[np.ndarray] = [
        text.tokens for text in load(study, grids.news(size, "human"), size.nulls)
    ]
    return Calibration.fit(
        _mark(study, point, study.digest("calibration", point.test)),
        [size.cuts[0]],
        CALIBRATED,
        tokens=people,
        seed=study.seed,
    )
