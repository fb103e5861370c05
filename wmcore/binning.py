"""`Binning`: what a free or local alignment takes of a statistic and a key beside the key's numbers."""

import math

import numpy as np

from wmcore.costs import CostSource
from wmcore.errors import WatermarkError, reason, shown
from wmcore.kernels.constants import ITS_SCALE, MOST_SCORE_GAP, SCORE_SCALE
from wmcore.kernels.problem import Scoring
from wmcore.scores import ETA_BINS, Scores
from wmcore.statistic import Statistic


class Binning:
    """The scores of a statistic, for the kernels.

    Parameters
    ----------
    scores : Scores
    gap : float
        Of the statistic, in nats.
    source : CostSource
        Of the key: its etas, where scores are by eta.
    """

    def __init__(self, scores: Scores, gap: float, source: CostSource) -> None:
        self.scores = scores
        self._source = source
        self._gap = gap
        self.scoring: Scoring = scores.table.scoring()
        chance = scores.table.chance
        self._drift = self.scoring.costs @ chance / SCORE_SCALE

    def bins(self, tokens: np.ndarray) -> np.ndarray:
        """The bin of each token of a text (int64 [m]): uint8 [m]; WatermarkError where the scores give none."""
        if not self.scores.by_eta:
            return self._checked(tokens)
        (eta,) = self._source.etas([tokens]) or [tokens]
        bins = eta.astype(np.int64) * ETA_BINS // ITS_SCALE
        return np.minimum(bins, ETA_BINS - 1).astype(np.uint8)

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        name = shown(self.scores.name)
        try:
            found = np.asarray(self.scores.bins(tokens))
        except WatermarkError:
            raise
        except Exception as error:  # a stranger's class
            raise WatermarkError(f"scores {name} cannot read the text: {reason(error)}") from error
        if found.shape != tokens.shape or found.dtype.kind not in "iu":
            raise WatermarkError(
                f"scores {name} give bins of shape {found.shape} and type {found.dtype}, but must give a whole number "
                f"for each of {len(tokens)} tokens"
            )
        if ((found < 0) | (found >= len(self._drift))).any():
            raise WatermarkError(
                f"scores {name} give a bin outside 0 .. {len(self._drift) - 1}, those of their table"
            )
        return found.astype(np.uint8)

    def bonus(self, bins: np.ndarray) -> np.ndarray:
        """What an alignment without gaps gets, in units, in each prefix of a text with bins (uint8 [m]): int32 [m].

        There are many more alignments with gaps, so the best of them is better by chance. This is about what the two
        kinds differ by under the null, so that neither hides the other: a function of the gap and of what a prefix's
        tokens lose by chance, fitted at n = 64 to 1,024, m = 30 to 400, gap 1.2 to 3.5 nats, and 0.6 nats more for the
        kind without gaps, which is the likelier. Any number is exact.
        """
        lost = np.cumsum(self._drift[bins])
        nats = np.maximum(0.0, 0.78 * lost - 1.37 * np.sqrt(lost) + 2.0)
        nats *= math.exp(0.8 * (1.8 - self._gap))
        return np.minimum(np.rint(SCORE_SCALE * nats), MOST_SCORE_GAP).astype(np.int32)


def binning(statistic: Statistic, source: CostSource) -> Binning | None:
    """That of a statistic; None where no scores are added up."""
    if statistic.scores is None:
        return None
    return Binning(statistic.scores, statistic.gap, source)
