"""Found or not, and nothing else: what a detector may tell strangers (`docs/security.md`).

A p-value, a statistic, a shift or an alignment of a text of the stranger's choice says which tokens fit which key rows:
with V questions of one token each, a text is forged without the key. A verdict at one level says at most one bit, and
none about texts of few different tokens.
"""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from wmcore.checks import real_number, whole_number
from wmcore.detect import Detector, checked_detector
from wmcore.detection import LEVEL
from wmcore.types import Texts
from wmcore.windows import untold

LEAST_DISTINCT = 25
"""A text needs this many different tokens, unless something else is asked for."""


@dataclass(frozen=True)
class Verdict:
    """Whether a text carries the watermark; None where `error` says why there is no answer.

    No field depends on the key but `found`.
    """

    found: bool | None
    error: str | None = None

    def __bool__(self) -> NoReturn:
        """Always a TypeError: `if verdict` would be true of every text."""
        raise TypeError("a Verdict is neither true nor false: use verdict.found")


def verdicts(
    detector: Detector,
    texts: Texts,
    *,
    level: float = LEVEL,
    least_distinct: int = LEAST_DISTINCT,
) -> list[Verdict]:
    """Whether p <= level, for each text; the same text gets the same answer.

    Parameters
    ----------
    detector : Detector
    texts : sequence
        As `Detector.detect` takes them.
    level : float
        The chance that a text without the watermark is found, from 1e-5 to 0.1.
    least_distinct : int
        A text with fewer different tokens gets an `error`.

    Returns
    -------
    list of Verdict
        One for each text, in order.

    Raises
    ------
    WatermarkError
        For a number out of range.
    TypeError
        For one text in place of a list of texts.

    Notes
    -----
    How long it takes depends on the text and on the key: answer strangers after a fixed time, and limit how much they
    may ask. The resamples follow from the key: asking again tells nothing new.
    """
    level = real_number("level", level, 1e-5, 0.1)
    least_distinct = whole_number("least_distinct", least_distinct, 1)
    batch = checked_detector(detector).read(texts)
    answers = [Verdict(None, "not tested")] * (len(batch.places) + len(batch.failed))
    for place, (_, error) in batch.failed.items():
        answers[place] = Verdict(None, error)
    places, arrays = [], []
    for place, array in [*zip(batch.places, batch.arrays, strict=True), *batch.long.items()]:
        distinct = len(np.unique(array))
        if distinct < least_distinct:
            reason = f"the text has {distinct} different tokens, but {least_distinct} are needed"
            answers[place] = Verdict(None, reason)
        else:
            places.append(place)
            arrays.append(array)
    for place, found in zip(places, detector.detect(arrays, level=level), strict=True):
        p = found.p_value
        problem = found.error
        if p is not None and p > level:
            problem = untold(found.windows, level)
        answers[place] = Verdict(None if p is None or problem else p <= level, problem)
    return answers
