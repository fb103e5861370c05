"""Overlapping windows of a long text, and one p for all of them: `wmcore.plan` says why it is valid.

`Detector.detect` tests a text that is too long to be aligned at once in windows of 256 tokens (4,096 of a local
alignment), each half a window after the one before. p of the text is the number of windows times the least p of one.
So that it can be small, the full test has as many times more resamples, up to `MOST_RESAMPLES`; a short first pass
sorts out the windows that fit no better than chance has it, and of the others only the best gets the full test.
"""

from dataclasses import replace

import numpy as np

from wmcore.engine import Engine
from wmcore.plan import Columns, Plan
from wmcore.schemes import LOCAL, Scheme

WINDOW = 256
LOCAL_WINDOW = 4096
"""Of a local alignment, which finds a passage wherever it is: most documents are one window. The limit is for memory,
about 100 bytes for each distinct token and key row."""
MOST_RESAMPLES = 999_999
_FIRST_RESAMPLES = 999


def usual_window(scheme: Scheme) -> int:
    """Tokens in a window of a long text."""
    return LOCAL_WINDOW if scheme.alignment == LOCAL else WINDOW


def starts(length: int, window: int, stride: int) -> list[int]:
    """First tokens of the windows of a document: every `stride`, and one that ends with it."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def best_window(columns: Columns, part: slice) -> int:
    """Which of a document's windows fits best: the place in `part` with the least p, then the least statistic."""
    return int(np.lexsort((columns.statistic[part], columns.p_value[part]))[0])


def corrected(p_values: np.ndarray) -> float:
    """p of a document: the least p of its windows times their number (Bonferroni), at most 1."""
    return float(min(1.0, len(p_values) * p_values.min()))


def fitting_window(engine: Engine, scheme: Scheme, length: int) -> int | None:
    """Tokens in the windows of a text of this length that is too long to be aligned at once; None if no window of it
    can be aligned either."""
    least = engine.block_length or 1
    window = max(usual_window(scheme), 2 * least)
    while window >= length or engine.error(window) is not None:
        if window == least:
            return None
        window = max(window // 2, least)
    return window


def untold(count: int, level: float) -> str | None:
    """Why a text of so many windows that is not found at a level may carry the watermark all the same: none of
    `MOST_RESAMPLES` need fit. None where they can tell, or a proven bound has to."""
    if count <= level * (MOST_RESAMPLES + 1):
        return None
    return (
        f"too long to tell (p > {level:g}), as p allows for its {count:,} windows: test it in parts"
    )


def plan_of_windows(plan: Plan, count: int) -> Plan:
    """The default plan for a text of so many windows."""
    first = min(20 * count, _FIRST_RESAMPLES)
    resamples = max(plan.resamples, min(plan.resamples * count, MOST_RESAMPLES))
    return replace(plan, resamples=resamples, first_resamples=first)
