"""A proven bound for local alignments: the best segment without gaps, wherever it starts and ends.

Take a token i and a key row j, and let W(d) be the product of the factors e^score of tokens i .. i + d - 1 at rows
j .. j + d - 1, d up to n. No row is met twice, so without a watermark each factor has mean at most 1 whatever came
before: W is a supermartingale that starts at 1, and P(max over d of W(d) >= e^x) <= e^-x (Ville 1939). There are n m
such starts, so the largest M of all log W has P(M >= x) <= n m e^-x, and min(1, n m e^-M) is a p-value: over the draw
of the key (of its, of its uniforms, given its permutation), whatever tokens repeat. The factors are those of
`Scoring.factors`, with no rounding to units.

The same number holds for all segments of a text at once. So a part of the text that was chosen after the fact has the
p-value n m e^-M with the m of the *whole* text and the M of the part.
"""

import math

import numpy as np

from wmcore.costs import CostSource
from wmcore.engine import Engine, Packed

_ROUNDING = 1e-9  # more than float64 sums lose, in nats


def log_segment_bound(
    engine: Engine, source: CostSource, texts: Packed, lengths: np.ndarray
) -> np.ndarray:
    """log(n m e^-M) of each text, or part of a text: float64 [N], which may exceed 0.

    engine : of a scored alignment; lengths : int64 [N], m of the text that each is a part of.
    """
    found = engine.log_segments(texts, source)
    return math.log(engine.problem.n) + np.log(lengths) - found + _ROUNDING
